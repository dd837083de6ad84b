"""Security headers, allowed hosts, and CORS."""

from collections.abc import Iterator

import pytest
import requests

from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.acceptance.raw_http import ask
from tests.conftest import NewStack
from tests.support.client import ApiClient
from tests.support.log_lines import lines_with
from tests.support.orchestrator import StubOrchestrator

EDITOR_PAGE = "https://editor.example"
OTHER_PAGE = "https://editor.example.evil.example"


@pytest.fixture(scope="module")
def restricted(new_stack: NewStack) -> Iterator[Stack]:
    """A service with allowed hosts, and with allowed origins for front ends."""
    with new_stack(
        workers=0,
        TAKEONE_CORS_ORIGINS=f"{EDITOR_PAGE}, http://localhost:5173",
        TAKEONE_ALLOWED_HOSTS="api.example, API-2.example",
        TAKEONE_PUBLIC_URL="https://takeone.internal:8443/base",
    ) as running:
        yield running


def get(stack: Stack, path: str, **headers: str) -> requests.Response:
    """GET with these headers."""
    return ApiClient(stack.api_url, token="").call("GET", path, headers=headers)


def preflight(stack: Stack, path: str, origin: str) -> requests.Response:
    """The preflight request of a browser before a call with a token."""
    headers = {
        "Host": "api.example",
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,prefer",
    }
    return ApiClient(stack.api_url, token="").call("OPTIONS", path, headers=headers)


@pytest.mark.parametrize(
    "call",
    [
        "GET /api/v1/projects", "GET /healthz", "GET /nowhere", "PUT /api/v1/projects",
        "POST /api/v1/internal/jobs/x/status", "GET /openapi.json", "GET /docs",
        "GET /docs/swagger-ui-bundle.js", "GET /console", "GET /console/app.js",
    ],
)  # fmt: skip
def test_every_answer_has_the_security_headers(call: str, stack: Stack) -> None:
    headers = ApiClient(stack.api_url, token="").call(*call.split()).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    # requests joins duplicate headers with a comma.
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
    # Strict proxies treat two Content-Lengths as smuggling, even equal ones (RFC 9112, section 6.3).
    headers = {"Authorization": "Bearer test:alice:editor"}
    answer = ask(stack.api_url, method, path.format(job_id=job_id), headers, b"")
    assert answer.status == status
    assert int(answer.headers["content-length"]) == len(answer.body)


def test_answers_of_the_api_are_not_cached(alice: ApiClient, job_id: str) -> None:
    for answer in (alice.job(job_id), alice.job("x"), alice.run(job_id), alice.run(job_id)):
        assert answer.headers["Cache-Control"] == "no-store"


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
    host: str, status: int, restricted: Stack
) -> None:
    answer = get(restricted, "/api/v1/projects", Host=host)
    assert answer.status_code == status
    if status == 400:
        assert answer.json()["code"] == "VALIDATION_ERROR"
        assert answer.json()["details"].keys() == {"Host"}


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_a_health_check_is_answered_for_any_host(path: str, restricted: Stack) -> None:
    assert get(restricted, path, Host="10.1.2.3:8000").status_code == 200


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
    origin: str, restricted: Stack
) -> None:
    asked = preflight(restricted, "/api/v1/jobs/x/run", origin)
    assert (asked.status_code, asked.content) == (204, b"")
    assert asked.headers["Access-Control-Allow-Origin"] == origin
    methods = asked.headers["Access-Control-Allow-Methods"].split(", ")
    assert {"GET", "POST", "PATCH", "DELETE"} == set(methods)
    assert "Idempotency-Key" in asked.headers["Access-Control-Allow-Headers"]
    allowed = asked.headers["Access-Control-Allow-Headers"].lower()
    assert "authorization" in allowed
    assert "prefer" in allowed
    assert "traceparent" in allowed, "where a page traces, it sends this with each call"
    called = get(restricted, "/api/v1/projects", Host="api.example", Origin=origin)
    assert called.status_code == 401
    assert called.headers["Access-Control-Allow-Origin"] == origin
    shown = called.headers["Access-Control-Expose-Headers"]
    for name in ("Location", "Retry-After", "Preference-Applied", "X-Request-Id"):
        assert name in shown
    assert "Access-Control-Allow-Credentials" not in called.headers


@pytest.mark.parametrize("origin", [OTHER_PAGE, "null", "http://editor.example", "https://editor"])
def test_no_other_origin_may_call(origin: str, restricted: Stack) -> None:
    asked = preflight(restricted, "/api/v1/jobs/x/run", origin)
    called = get(restricted, "/api/v1/projects", Host="api.example", Origin=origin)
    for answer in (asked, called):
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert answer.headers["Vary"] == "Origin"


def test_no_origin_may_call_the_callback_route(restricted: Stack) -> None:
    asked = preflight(restricted, "/api/v1/internal/jobs/x/status", EDITOR_PAGE)
    assert asked.status_code == 405
    assert "Access-Control-Allow-Origin" not in asked.headers


def test_options_without_a_preflight_is_a_405(restricted: Stack) -> None:
    client = ApiClient(restricted.api_url, token="")
    answer = client.call("OPTIONS", "/api/v1/projects", headers={"Host": "api.example"})
    assert answer.status_code == 405


def test_logs_hold_no_host_and_no_origin(restricted: Stack) -> None:
    web = restricted.webs[0]
    before = len(lines_with(web, '"status":400'))
    forged = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "Origin": EDITOR_PAGE}
    assert get(restricted, "/api/v1/projects", **forged).status_code == 400
    wait_until(lambda: len(lines_with(web, '"status":400')) > before, 20, "the call is logged")
    assert "evil.example" not in web.log()
    assert EDITOR_PAGE not in web.log()
