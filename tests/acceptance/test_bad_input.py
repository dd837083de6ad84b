"""Invalid bodies on every route that takes one: a 4xx with the contract's error body, never a 500."""

import json
from contextlib import closing
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest

from devstack.stack import Stack
from tests.acceptance.raw_http import Answer, ask, assert_refused, send_bytes

EDITOR = {"Authorization": "Bearer test:alice:editor"}
JSON = {"Content-Type": "application/json"}

# Every route with a body: its target, and a body that it accepts.
BODY_ROUTES = {
    "project": ("/api/v1/projects", {"name": "Interviews"}),
    "confirm": ("/api/v1/jobs/{job_id}/confirm-upload", {"video_uri": "s3://studio/interview.mp4"}),
    "retry": (
        "/api/v1/jobs/{job_id}/retry",
        {"model_profile": "standard", "client_request_id": "once"},
    ),
    "callback": (
        "/api/v1/internal/jobs/{job_id}/status",
        {
            "event_id": "e1",
            "status": "AUDIO_EXTRACTING",
            "occurred_at": "2026-03-02T09:22:41Z",
            "correlation_id": "c1",
        },
    ),
}
NOT_AN_OBJECT = {
    "nothing": b"",
    "half an object": b'{"name": ',
    "a list": b"[]",
    "null": b"null",
    "a number": b"1",
    "a text": b'"name"',
    "two objects": b"{} {}",
    "a trailing comment": b"{} // so",
    "bytes that are not UTF-8": b'{"name": "\xff\xfe"}',
    "overlong UTF-8": b'{"name": "\xc0\xae"}',
    "UTF-16": '{"name": "x"}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a NUL": b'{"name": "a"}\x00',
    "a lone surrogate": b'{"name": "\\ud800"}',
    "a lone surrogate as a key": b'{"\\udfff": 1}',
    "a raw control character": b'{"name": "a\nb"}',
    "a number of 401 digits": b'{"name": 1' + b"0" * 400 + b"}",
    "NaN": b'{"name": NaN}',
    "Infinity": b'{"name": -Infinity}',
    "single quotes": b"{'name': 'x'}",
    "deep lists": b"[" * 30_000,
    "deep lists, all closed": b'{"name": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "deep objects": b'{"a":' * 8_000 + b"1" + b"}" * 8_000,
}
WRONG_VALUES = {
    "null": None,
    "true": True,
    "a number": 7,
    "a fraction": 0.5,
    "a huge number": 10**30,
    "a list": ["x"],
    "an object": {"x": "x"},
    "an empty text": "",
    "a blank text": "   \t",
    "a long text": "x" * 20_000,
    "control characters": "\x00\x01\x7f",
}
# Free text may be blank and hold control characters.
FREE_TEXT = {"client_request_id", "event_id", "correlation_id"}
ODD_BUT_TEXT = {"a blank text", "control characters"}


def headers_for(route: str, secret: str) -> dict[str, str | bytes]:
    """The credentials of a route."""
    return {**JSON, "X-Callback-Secret": secret} if route == "callback" else {**JSON, **EDITOR}


@pytest.fixture(params=BODY_ROUTES)
def route(request: pytest.FixtureRequest) -> str:
    """Each route that takes a body."""
    return str(request.param)


@pytest.fixture
def send(route: str, stack: Stack, job_id: str, callback_secret: str) -> Any:
    """Send a body to the route with its credentials; `headers` replace them, a None removes one."""
    target = BODY_ROUTES[route][0].format(job_id=job_id)

    def to_route(body: bytes | None, **headers: str | None) -> Answer:
        changed = {name.replace("_", "-"): value for name, value in headers.items()}
        merged = {**headers_for(route, callback_secret), **changed}
        given = {name: value for name, value in merged.items() if value is not None}
        return ask(stack.api_url, "POST", target, given, body)

    return to_route


def test_a_body_that_is_not_a_json_object_is_a_400(send: Any) -> None:
    for what, body in NOT_AN_OBJECT.items():
        answer = send(body)
        assert (what, answer.status) == (what, 400)
        assert_refused(answer)


def test_a_value_of_a_wrong_type_is_a_400_that_names_the_field(route: str, send: Any) -> None:
    good = BODY_ROUTES[route][1]
    for field in good:
        for what, value in WRONG_VALUES.items():
            if field in FREE_TEXT and what in ODD_BUT_TEXT:
                continue
            answer = send(json.dumps({**good, field: value}).encode())
            assert (field, what, answer.status) == (field, what, 400)
            assert_refused(answer)
            assert json.loads(answer.body)["details"].keys() == {field}


def test_a_missing_or_an_unknown_field_is_a_400_that_names_it(route: str, send: Any) -> None:
    good = BODY_ROUTES[route][1]
    for field in good:
        answer = send(json.dumps({name: good[name] for name in good if name != field}).encode())
        assert_refused(answer, 400)
        assert json.loads(answer.body)["details"].keys() == {field}
    for unknown in ("extra", "__proto__", "", "ä" * 100):
        answer = send(json.dumps({**good, unknown: 1}).encode())
        assert_refused(answer, 400)
        assert json.loads(answer.body)["details"].keys() == {unknown}


def test_a_duplicate_key_is_never_a_500(route: str, send: Any) -> None:
    name, value = next(iter(BODY_ROUTES[route][1].items()))
    rest = json.dumps(BODY_ROUTES[route][1])[1:]
    answer = send(f'{{"{name}": {json.dumps(value)}, {rest}'.encode())
    assert answer.status < 500


def test_a_body_that_is_too_large_is_a_413_with_any_framing(
    route: str, send: Any, stack: Stack, job_id: str, callback_secret: str
) -> None:
    large = json.dumps({"name": "x" * 100_000}).encode()
    assert_refused(send(large), 413)
    assert_refused(send(None, Content_Length=str(10**12)), 413)
    head = f"POST {BODY_ROUTES[route][0].format(job_id=job_id)} HTTP/1.1\r\nHost: x\r\n"
    head += "".join(f"{name}: {v}\r\n" for name, v in headers_for(route, callback_secret).items())
    head += "Transfer-Encoding: chunked\r\n\r\n"
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(large), large)
    assert_refused(send_bytes(stack.api_url, head.encode() + chunked), 413)


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_connection_is_usable_after_a_body_that_was_too_large(
    stack: Stack, is_chunked: bool
) -> None:
    large = b"x" * 100_000
    with closing(HTTPConnection(urlsplit(stack.api_url).netloc, timeout=20)) as connection:
        for _ in range(10):
            body = iter([large]) if is_chunked else large
            connection.request("POST", "/api/v1/projects", body, EDITOR | JSON)
            answer = connection.getresponse()
            assert (answer.status, answer.read()[:1]) == (413, b"{")
            assert connection.sock is not None  # the connection stays open


@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "json/x"],
)
def test_a_body_without_the_json_media_type_is_a_415(
    content_type: str | None, route: str, send: Any
) -> None:
    good = json.dumps(BODY_ROUTES[route][1]).encode()
    assert_refused(send(good, Content_Type=content_type), 415)
