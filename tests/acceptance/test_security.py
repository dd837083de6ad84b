"""Headers, hosts, origins and sizes: what a browser, a forger and a flood are told."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from devstack.stack import Stack
from tests.acceptance.raw_http import ask, assert_refused_by_server, send_bytes
from tests.conftest import NewStack
from tests.support.client import ApiClient
from tests.support.orchestrator import StubOrchestrator

EDITOR_PAGE = "https://editor.example"
OTHER_PAGE = "https://editor.example.evil.example"


@pytest.fixture(scope="module")
def open_stack(new_stack: NewStack) -> Iterator[Stack]:
    """A service that an editor's front end of another origin may call, under names of its own."""
    with new_stack(
        workers=0,
        TAKEONE_CORS_ORIGINS=f"{EDITOR_PAGE}, http://localhost:5173",
        TAKEONE_ALLOWED_HOSTS="api.example, API-2.example",
        TAKEONE_PUBLIC_URL="https://takeone.internal:8443/base",
    ) as running:
        # The names are checked; the address of the process is not one of them.
        yield running


def get(stack: Stack, path: str, **headers: str) -> requests.Response:
    """GET with these headers; underscores stand for dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return ApiClient(stack.api_url, token="").call("GET", path, headers=named)


def preflight(stack: Stack, path: str, origin: str) -> requests.Response:
    """What a browser asks before a call with a token."""
    headers = {
        "Host": "api.example",
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,prefer",
    }
    return ApiClient(stack.api_url, token="").call("OPTIONS", path, headers=headers)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/projects"),
        ("GET", "/healthz"),
        ("GET", "/nowhere"),
        ("PUT", "/api/v1/projects"),
        ("POST", "/api/v1/internal/jobs/x/status"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
        ("GET", "/docs/swagger-ui-bundle.js"),
        ("GET", "/console"),
        ("GET", "/console/app.js"),
    ],
)
def test_every_answer_has_the_security_headers(method: str, path: str, stack: Stack) -> None:
    headers = ApiClient(stack.api_url, token="").call(method, path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    # What comes twice is joined by a comma: two words on one matter, of which one is not ours.
    assert "," not in headers["Cache-Control"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/jobs/{job_id}", 200),
        ("POST", "/api/v1/jobs/{job_id}/run", 202),
        ("GET", "/api/v1/jobs/x", 404),
        ("GET", "/healthz", 200),
        ("GET", "/docs", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/metrics", 200),
    ],
)
def test_no_answer_has_a_header_twice(
    method: str, path: str, status: int, stack: Stack, job_id: str
) -> None:
    # Two Content-Lengths, even alike, are what a strict proxy takes for smuggling (RFC 9112, section 6.3).
    headers = {"Authorization": "Bearer test:alice:editor"}
    answer = ask(stack.api_url, method, path.format(job_id=job_id), headers, b"")
    assert answer.status == status
    assert int(answer.headers["content-length"]) == len(answer.body)


def test_answers_of_the_api_are_not_cached(alice: ApiClient, job_id: str) -> None:
    for answer in (alice.job(job_id), alice.job("x"), alice.run(job_id), alice.run(job_id)):
        assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 80_000 + b" HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nX-Long: " + b"a" * 200_000 + b"\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(200)),
    ],
    ids=["a long request line", "a long header", "many headers"],
)
def test_a_head_beyond_the_limits_is_refused(head: bytes, stack: Stack) -> None:
    assert_refused_by_server(send_bytes(stack.api_url, head + b"\r\n"), 414, 431, 400)


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
def test_a_body_beyond_the_limit_is_refused_however_it_is_framed(
    framing: str, alice: ApiClient, job_id: str
) -> None:
    body = json.dumps({"video_uri": "s3://" + "a" * 200_000}).encode()
    data: Any = iter([body[:1000], body[1000:]]) if framing == "chunked" else body
    answer = alice.post(
        f"/jobs/{job_id}/confirm-upload", data=data, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 413
    assert answer.json()["code"] == "VALIDATION_ERROR"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:80", "takeone-web", "x"])
def test_without_allowed_hosts_every_host_is_answered(host: str, alice: ApiClient) -> None:
    assert alice.get("/projects", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("api.example", 401),
        ("api-2.EXAMPLE:443", 401),
        ("takeone.internal:8443", 401),
        ("127.0.0.1", 400),
        ("localhost", 400),
        ("other.example", 400),
    ],
)
def test_only_allowed_hosts_and_the_public_one_are_answered(
    host: str, status: int, open_stack: Stack
) -> None:
    answer = get(open_stack, "/api/v1/projects", Host=host)
    assert answer.status_code == status
    if status == 400:
        assert answer.json()["code"] == "VALIDATION_ERROR"
        assert answer.json()["details"].keys() == {"Host"}


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_a_health_check_is_answered_for_any_host(path: str, open_stack: Stack) -> None:
    assert get(open_stack, path, Host="10.1.2.3:8000").status_code == 200


@pytest.mark.parametrize(
    "forged",
    [
        {"Host": "203.0.113.9"},
        {"X-Forwarded-Host": "evil.example"},
        {"Forwarded": "host=evil.example;proto=https"},
        {"X-Forwarded-Proto": "https", "X-Forwarded-Prefix": "/evil", "X-Forwarded-Port": "1"},
    ],
    ids=lambda headers: next(iter(headers)),
)
def test_the_callback_url_ignores_host_headers(
    forged: dict[str, str],
    stack: Stack,
    alice: ApiClient,
    job_id: str,
    orchestrator: StubOrchestrator,
) -> None:
    answer = alice.run(job_id, headers=forged)
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/api/v1/jobs/{job_id}"
    (request,) = orchestrator.requests_for(job_id)
    public = stack.settings["TAKEONE_PUBLIC_URL"]
    assert request.json["callback_url"] == f"{public}/api/v1/internal/jobs/{job_id}/status"


def test_without_configuration_no_other_origin_may_call(
    stack: Stack, alice: ApiClient, job_id: str
) -> None:
    asked = preflight(stack, f"/api/v1/jobs/{job_id}/run", EDITOR_PAGE)
    called = alice.job(job_id, headers={"Origin": EDITOR_PAGE})
    for answer in (asked, called):
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("origin", [EDITOR_PAGE, "http://localhost:5173"])
def test_a_configured_origin_may_call_with_a_token_and_read_the_answer(
    origin: str, open_stack: Stack
) -> None:
    asked = preflight(open_stack, "/api/v1/jobs/x/run", origin)
    assert (asked.status_code, asked.content) == (204, b"")
    assert asked.headers["Access-Control-Allow-Origin"] == origin
    methods = asked.headers["Access-Control-Allow-Methods"].split(", ")
    assert {"GET", "POST", "PATCH", "DELETE"} == set(methods)
    assert "Idempotency-Key" in asked.headers["Access-Control-Allow-Headers"]
    allowed = asked.headers["Access-Control-Allow-Headers"].lower()
    assert "authorization" in allowed
    assert "prefer" in allowed
    called = get(open_stack, "/api/v1/projects", Host="api.example", Origin=origin)
    assert called.status_code == 401
    assert called.headers["Access-Control-Allow-Origin"] == origin
    shown = called.headers["Access-Control-Expose-Headers"]
    for name in ("Location", "Retry-After", "Preference-Applied", "X-Request-Id"):
        assert name in shown
    assert "Access-Control-Allow-Credentials" not in called.headers


@pytest.mark.parametrize("origin", [OTHER_PAGE, "null", "http://editor.example", "https://editor"])
def test_no_other_origin_may_call(origin: str, open_stack: Stack) -> None:
    asked = preflight(open_stack, "/api/v1/jobs/x/run", origin)
    called = get(open_stack, "/api/v1/projects", Host="api.example", Origin=origin)
    for answer in (asked, called):
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert answer.headers["Vary"] == "Origin"


def test_no_origin_may_call_the_callback_route(open_stack: Stack) -> None:
    asked = preflight(open_stack, "/api/v1/internal/jobs/x/status", EDITOR_PAGE)
    assert asked.status_code == 405
    assert "Access-Control-Allow-Origin" not in asked.headers


def test_options_without_a_preflight_is_a_405(open_stack: Stack) -> None:
    client = ApiClient(open_stack.api_url, token="")
    answer = client.call("OPTIONS", "/api/v1/projects", headers={"Host": "api.example"})
    assert answer.status_code == 405


def test_logs_hold_no_host_and_no_origin(stack: Stack, open_stack: Stack) -> None:
    for process in (*stack.webs, *open_stack.webs):
        logged = Path(process.log_path).read_text()
        assert "evil.example" not in logged
        assert EDITOR_PAGE not in logged
