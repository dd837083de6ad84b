"""Invalid targets, methods, queries and headers are refused with the contract's error body."""

import json
from typing import Any
from uuid import uuid4

import pytest

from devstack.stack import Stack
from tests.acceptance.raw_http import (
    Answer,
    ask,
    assert_refused,
    assert_refused_by_server,
    of,
    send_bytes,
)
from tests.support.client import ApiClient, status_report

EDITOR: dict[str, str | bytes] = {"Authorization": "Bearer test:alice:editor"}
ODD_IDS = [
    "..%2f", "%2e%2e%2fjobs", "..", ".", "%00", "%0d%0aSet-Cookie:%20a=b", "{JOB}%0a", "{JOB}%00",
    "{JOB}%20", "{JOB}:claim", "{JOB}%7d:claim", "{JOB}/", "*", "%ff%fe", "%zz", "%F0%9F%8E%AC",
    "'%20OR%201=1", "-1", "null", "a" * 3_500,
]  # fmt: skip
JOB_ROUTES = [
    ("GET", ""),
    ("PATCH", ""),
    ("DELETE", ""),
    ("POST", "/confirm-upload"),
    ("POST", "/run"),
    ("POST", "/cancel"),
    ("POST", "/retry"),
    ("GET", "/events"),
]
BODIES = {
    ("PATCH", ""): {"name": "Other"},
    ("POST", "/confirm-upload"): {"video_uri": "s3://studio/other.mp4"},
    ("POST", "/retry"): {"model_profile": "standard", "client_request_id": "once"},
}
ROUTES = {
    "/api/v1/projects": {"GET", "POST", "HEAD"},
    "/api/v1/projects/{project}": {"GET", "HEAD"},
    "/api/v1/projects/{project}/jobs": {"GET", "POST", "HEAD"},
    "/api/v1/jobs": {"GET", "HEAD"},
    "/api/v1/jobs/{job}": {"GET", "HEAD", "PATCH", "DELETE"},
    **{f"/api/v1/jobs/{{job}}/{verb}": {"POST"} for verb in ("confirm-upload", "run", "cancel")},
    "/api/v1/jobs/{job}/retry": {"POST"},
    "/api/v1/jobs/{job}/events": {"GET", "HEAD"},
    "/api/v1/internal/jobs/{job}/status": {"POST"},
    "/healthz": {"GET", "HEAD"},
    "/readyz": {"GET", "HEAD"},
    "/openapi.json": {"GET", "HEAD"},
    "/docs": {"GET", "HEAD"},
}
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "FOO"]


@pytest.mark.parametrize("odd", ODD_IDS)
def test_a_malformed_id_is_a_404_on_every_route(
    odd: str, stack: Stack, job_id: str, callback_secret: str
) -> None:
    target = odd.replace("{JOB}", job_id)
    answers = [
        ask(stack.api_url, method, f"/api/v1/jobs/{target}{verb}", EDITOR)
        for method, verb in JOB_ROUTES
        if (method, verb) not in BODIES
    ]
    answers += [
        ask(stack.api_url, method, f"/api/v1/projects/{target}{verb}", EDITOR)
        for method, verb in (("GET", ""), ("GET", "/jobs"), ("POST", "/jobs"))
    ]
    secret: dict[str, str | bytes] = {
        "X-Callback-Secret": callback_secret,
        "Content-Type": "application/json",
    }
    body = json.dumps(status_report("AUDIO_EXTRACTING")).encode()
    path = f"/api/v1/internal/jobs/{target}/status"
    answers.append(ask(stack.api_url, "POST", path, secret, body))
    for answer in answers:
        # The server resolves dots in a path: the result may exist, and refuse the method.
        assert_refused(answer, 404, *([405] if odd.startswith(".") else []))
        assert "set-cookie" not in answer.headers
    assert ApiClient(stack.api_url).job(job_id).json()["status"] == "UPLOADED"


@pytest.mark.parametrize(
    "target",
    [
        "/", "//", "/api", "/api/v1", "/api/v1/", "/api/v1/projects/", "/api//v1/projects",
        "/api/v1/nonsense", "/api/v2/projects", "/API/v1/projects", "/docs/../openapi.json",
        "/docs/..%2f..%2fsettings.py", "/docs/index.html", "/static/x", "/favicon.ico", "/%ff",
        "/" + "a" * 4_000,
    ],
)  # fmt: skip
def test_an_unknown_route_is_a_404_with_and_without_credentials(target: str, stack: Stack) -> None:
    for headers in (EDITOR, {}):
        assert_refused(ask(stack.api_url, "GET", target, headers), 404)


@pytest.mark.parametrize("route", ROUTES)
def test_an_unsupported_method_is_a_405_that_lists_the_allowed_ones(
    route: str, stack: Stack, job_id: str
) -> None:
    target = route.format(job=job_id, project=uuid4())
    for method in METHODS:
        if method in ROUTES[route]:
            continue
        answer = ask(stack.api_url, method, target, EDITOR)
        assert_refused(answer, 405)
        assert set(answer.headers["allow"].split(", ")) == ROUTES[route]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        *[
            (path, query)
            for path in ("/projects", "/projects/{project}/jobs", "/jobs", "/jobs/{job}/events")
            for query in (
                *(
                    "limit=0",
                    "limit=201",
                    "limit=-1",
                    "limit=x",
                    "limit=",
                    "limit=1e2",
                    "limit=1.5",
                ),
                *("cursor=-1", "cursor=x", "cursor=", "cursor=1%0a", "cursor=9999999999999999"),
                *("limit=٣", "limit=%ff", "cursor=%D9%A3"),
                *("limit=1&limit=2", "self=1", "self=1&self=2"),
            )
        ],
        *[
            (path, f"status={value}")
            for path in ("/projects/{project}/jobs", "/jobs")
            for value in ("", "x", "created", "%ff")
        ],
        *[("/jobs", f"order={value}") for value in ("", "x", "ASC", "newest", "desc%0a")],
        *[("/jobs", f"project_id={value}") for value in ("", "x", "%00", "*", "{}", "a" * 300)],
        *[
            ("/jobs", f"updated_after={value}")
            for value in ("", "x", "0", "yesterday", "2026-03-02", "2026-03-02T09:15:00", "%ff")
        ],
        # Malformed cursors, and a cursor of another list.
        *[("/jobs", f"cursor={value}") for value in ("0", "50", "1" * 16 + "x" * 36, "1" * 53)],
        *[("/jobs/{job}/events", f"cursor={'1' * 16}8d6f2c1e-0b7a-4f53-9a55-61f1f4a0c7d2")],
        *[
            (path, f"wait={value}")
            for path in ("/jobs", "/jobs/{job}", "/jobs/{job}/events")
            for value in ("-1", "61", "x", "", "NaN", "1.5", "1e1")
        ],
        *[("/jobs/{job}", f"status_not={value}") for value in ("", "x", "uploaded")],
        *[("/jobs/{job}/events", f"after={value}") for value in ("x", "-1")],
    ],
)
def test_an_invalid_query_is_a_400_that_names_the_parameter(
    path: str, query: str, stack: Stack, job: dict[str, Any]
) -> None:
    target = path.format(job=job["id"], project=job["project_id"])
    encoded = f"/api/v1{target}?{query}".replace("٣", "%D9%A3")
    answer = ask(stack.api_url, "GET", encoded, EDITOR)
    assert_refused(answer, 400)
    assert json.loads(answer.body)["details"].keys() == {query.partition("=")[0]}


@pytest.mark.parametrize(
    ("method", "route"),
    [
        (method, route)
        for route, methods in ROUTES.items()
        for method in sorted(methods - {"HEAD"})
        if route not in ("/docs", "/openapi.json")
    ],
)
def test_an_unknown_query_parameter_is_a_400_that_names_it(
    method: str, route: str, stack: Stack, job: dict[str, Any], callback_secret: str
) -> None:
    target = route.format(job=job["id"], project=job["project_id"])
    headers = {**EDITOR, "X-Callback-Secret": callback_secret}
    answer = ask(stack.api_url, method, f"{target}?unheard_of=1", headers)
    assert_refused(answer, 400)
    assert json.loads(answer.body)["details"] == {"unheard_of": ["Unknown field."]}


@pytest.mark.parametrize("field", ["unheard_of", "self"])
@pytest.mark.parametrize("route", [route for route, methods in ROUTES.items() if "POST" in methods])
def test_an_unknown_body_field_is_a_400_also_where_no_body_is_expected(
    route: str, field: str, stack: Stack, job: dict[str, Any], callback_secret: str
) -> None:
    target = route.format(job=job["id"], project=job["project_id"])
    headers = {**EDITOR, "X-Callback-Secret": callback_secret, "Content-Type": "application/json"}
    answer = ask(stack.api_url, "POST", target, headers, json.dumps({field: 1}).encode())
    assert_refused(answer, 400)
    assert {field, "body"} & json.loads(answer.body)["details"].keys()


BAD_BYTES = {
    "no HTTP": b"hello\r\n\r\n",
    "no version": b"GET /healthz\r\n\r\n",
    "a version to come": b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n",
    "a header without a colon": b"GET /healthz HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n",
    "a bare carriage return": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: a\rSet-Cookie: b\r\n\r\n",
    "a NUL in a header": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\x00b\r\n\r\n",
    "a folded header": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: a\r\n Set-Cookie: b\r\n\r\n",
    "two lengths": b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a negative length": b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "a length that is no number": b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: ten\r\n\r\n",
    "a length and chunks": (
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "a target that is too long": b"GET /" + b"a" * 80_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a header that is too long": b"GET / HTTP/1.1\r\nHost: x\r\nX-A: "
    + b"a" * 80_000
    + b"\r\n\r\n",
    "too many headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-A: a\r\n" * 200 + b"\r\n",
    "a raw space in the target": b"GET /api/v1/a b HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("case", BAD_BYTES)
def test_bytes_that_are_not_an_http_request_are_refused_and_not_echoed(
    case: str, stack: Stack
) -> None:
    answer = send_bytes(stack.api_url, BAD_BYTES[case])
    assert_refused_by_server(answer)
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("path", ["/console/app.js", "/docs/start.js", "/openapi.yaml"])
@pytest.mark.parametrize("header", ["If-Modified-Since", "If-Range"])
@pytest.mark.parametrize(
    "date", ["Mon, 01 Jan 99999999999 00:00:00 GMT", "Mon, 01 Jan 2024 00:00:00 +99999999999999"]
)
def test_a_date_that_no_calendar_has_is_a_400(
    path: str, header: str, date: str, stack: Stack
) -> None:
    assert_refused(ask(stack.api_url, "GET", path, {header: date}), 400)


@pytest.mark.parametrize("path", ["/console/app.js", "/docs/start.js", "/openapi.yaml"])
@pytest.mark.parametrize("tags", ["*", '"x"', '"x", W/"y"'])
def test_a_file_is_not_sent_as_an_error_of_if_match(path: str, tags: str, stack: Stack) -> None:
    answer = ask(stack.api_url, "GET", path, {"If-Match": tags})
    assert (answer.status, answer.body) == (200, ask(stack.api_url, "GET", path).body)


@pytest.mark.parametrize("chunk", [b"zz\r\nhello\r\n0\r\n\r\n", b"5\r\nhelloXX0\r\n\r\n"])
def test_a_malformed_chunk_is_a_400(chunk: bytes, stack: Stack) -> None:
    head = (
        b"POST /api/v1/projects HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer test:a:editor\r\n"
        b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert_refused(send_bytes(stack.api_url, head + chunk), 400)


@pytest.mark.parametrize(
    ("length", "received"),
    [
        ("Transfer-Encoding: chunked", b"zz\r\n"),
        ("Transfer-Encoding: chunked", b"0\r\n"),
        ("Transfer-Encoding: chunked", b""),
        ("Content-Length: 13", b""),
        ("Content-Length: 13", b"{}"),
    ],
)
def test_a_create_whose_body_breaks_off_creates_nothing(
    length: str, received: bytes, stack: Stack, alice: ApiClient
) -> None:
    project_id, key = alice.create_project().json()["id"], str(uuid4())
    head = (
        f"POST /api/v1/projects/{project_id}/jobs HTTP/1.1\r\nHost: x\r\nIdempotency-Key: {key}\r\n"
        "Authorization: Bearer test:alice:editor\r\nContent-Type: application/json\r\n"
        f"{length}\r\n\r\n"
    )
    assert_refused(send_bytes(stack.api_url, head.encode() + received, is_end=True), 400)
    path, headers = f"/projects/{project_id}/jobs", {"Idempotency-Key": key}
    assert (
        alice.call("POST", f"/api/v1{path}", json={"name": "x"}, headers=headers).status_code == 201
    )
    assert len(alice.get(path).json()["items"]) == 1


@pytest.mark.parametrize(
    "offered", ["a b", "a;b", "<script>", "x" * 129, "ä", "%0d%0aSet-Cookie: a=b", "", "a\tb"]
)
def test_an_invalid_request_id_is_replaced_and_not_echoed(offered: str, stack: Stack) -> None:
    answer = ask(stack.api_url, "GET", "/healthz", {"X-Request-Id": offered.encode()})
    assert answer.status == 200
    assert len(answer.headers["x-request-id"]) == 36
    assert answer.headers["x-request-id"] != offered


def comparable(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    """The parts of an answer that do not depend on the time or the request."""
    changing = {"date", "x-request-id"}
    kept = {name: value for name, value in answer.headers.items() if name not in changing}
    return answer.status, kept, answer.body


@pytest.mark.parametrize("route", [route for route in ROUTES if route.startswith("/api/v1/")])
def test_without_credentials_every_route_is_a_401(
    route: str, stack: Stack, job: dict[str, Any]
) -> None:
    target = route.format(job=job["id"], project=job["project_id"])
    for method in ROUTES[route]:
        answer = ask(stack.api_url, method, target)
        assert answer.status == 401
        if method != "HEAD":
            assert_refused(answer)


@pytest.mark.parametrize(("method", "verb"), JOB_ROUTES)
@pytest.mark.parametrize("valid", [True, False], ids=["good body", "bad body"])
def test_another_users_job_answers_byte_for_byte_like_a_missing_one(
    method: str, verb: str, valid: bool, stack: Stack, bob: ApiClient, alice: ApiClient, job_id: str
) -> None:
    visitor = ApiClient(stack.api_url, "alice", "viewer")
    path = "/api/v1/jobs/{}" + verb
    body = BODIES.get((method, verb)) if valid else {"nonsense": True}
    missing = of(alice.call(method, path.format(uuid4()), json=body))
    assert_refused(missing, 404, *([400] if method != "GET" and not valid else []))
    for caller in (bob, visitor):
        for other in (job_id, str(uuid4()), "nonsense"):
            answer = of(caller.call(method, path.format(other), json=body))
            assert comparable(answer) == comparable(missing)
    assert alice.job(job_id).json()["status"] == "UPLOADED"


@pytest.mark.parametrize(("method", "rest"), [("GET", ""), ("GET", "/jobs"), ("POST", "/jobs")])
def test_another_users_project_answers_byte_for_byte_like_a_missing_one(
    method: str, rest: str, stack: Stack, bob: ApiClient, alice: ApiClient
) -> None:
    visitor = ApiClient(stack.api_url, "alice", "viewer")
    project_id = alice.create_project().json()["id"]
    path = "/api/v1/projects/{}" + rest
    missing = of(alice.call(method, path.format(uuid4())))
    assert_refused(missing, 404)
    for caller in (bob, visitor):
        answer = of(caller.call(method, path.format(project_id)))
        assert comparable(answer) == comparable(missing)
