"""Connections that are cheap for an attacker do not keep other callers waiting."""

import resource
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.conftest import NewStack
from tests.support.client import ApiClient
from tests.support.connections import connections, sending_slowly

THREADS = 32  # the fewest that the settings allow
SETTINGS = {
    "TAKEONE_WEB_THREADS": str(THREADS),
    "TAKEONE_WEB_WAIT_SLOTS": "8",
    "TAKEONE_SIGNING_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}
FILES_OF_THE_TEST = 4_096


@pytest.fixture(scope="module", autouse=True)
def enough_files() -> Iterator[None]:
    """Raise this process's file limit: it holds the client ends of the connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES_OF_THE_TEST:
        pytest.skip("this process may not open enough files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, FILES_OF_THE_TEST), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def stack(new_stack: NewStack) -> Iterator[Stack]:
    with new_stack(workers=0, **SETTINGS) as running:
        yield running


def assert_others_are_served(stack: Stack) -> None:
    """Assert that a new client and one with a kept connection get their answers in time."""
    client = ApiClient(stack.api_url, "alice", timeout_seconds=5)
    for _ in range(20):
        assert client.call("GET", "/healthz").status_code == 200
    assert client.get("/projects").status_code == 200
    fresh = ApiClient(stack.api_url, "bob", timeout_seconds=5)
    assert fresh.create_project().status_code == 201


def test_2000_silent_connections_keep_no_caller_waiting(stack: Stack) -> None:
    with connections(stack.api_url, 2_000):
        assert_others_are_served(stack)


def test_400_slow_request_heads_keep_no_caller_waiting(stack: Stack) -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: takeone\r\nX-Slow: " + b"a" * 1_000
    with connections(stack.api_url, 400) as slow, sending_slowly(slow, head):
        assert_others_are_served(stack)


def test_clients_that_never_close_keep_no_caller_waiting(stack: Stack) -> None:
    with connections(stack.api_url, 10 * THREADS, b"GET /healthz HTTP/1.0\r\n\r\n"):
        assert_others_are_served(stack)


BODY_HEADS = {
    "no token": (
        401,
        b"POST /api/v1/projects HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n",
    ),
    "a wrong callback secret": (
        401,
        b"POST /api/v1/internal/jobs/x/status HTTP/1.1\r\nHost: x\r\nX-Callback-Secret: wrong\r\n",
    ),
    "a health check": (400, b"GET /healthz HTTP/1.1\r\nHost: x\r\n"),
    "a readiness check": (400, b"GET /readyz HTTP/1.1\r\nHost: x\r\n"),
}
LARGE_FILE = "/docs/swagger-ui-bundle.js"
LENGTHS = {"a length": b"Content-Length: 1000", "chunks": b"Transfer-Encoding: chunked"}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("case", BODY_HEADS)
def test_a_slow_body_of_an_unauthenticated_caller_holds_no_thread(
    case: str, length: str, stack: Stack
) -> None:
    status, head = BODY_HEADS[case]
    head += LENGTHS[length] + b"\r\n\r\n1"
    with connections(stack.api_url, 4 * THREADS, head) as slow:
        for connection in slow:
            first = connection.recv(100)
            assert first.startswith(b"HTTP/1.1 %d " % status), "answered before the body"
        assert_others_are_served(stack)


def test_signed_callbacks_with_slow_bodies_hold_a_bounded_number_of_threads(stack: Stack) -> None:
    head = (
        b"POST /api/v1/internal/jobs/x/status HTTP/1.1\r\nHost: x\r\nwebhook-signature: v1,x\r\n"
        b"webhook-id: a\r\nwebhook-timestamp: 1\r\nContent-Length: 1000\r\n\r\n{"
    )
    with connections(stack.api_url, 4 * THREADS, head):
        assert_others_are_served(stack)


@pytest.mark.parametrize(
    "path", [LARGE_FILE, "/console/app.js", "/openapi.yaml", "/openapi.json", "/metrics"]
)
def test_answers_that_are_not_read_hold_no_thread(path: str, stack: Stack) -> None:
    # More than the buffers of both ends hold.
    requests = f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 100
    with connections(stack.api_url, 4 * THREADS, requests) as unread:
        for connection in unread:
            assert connection.recv(1), "its first answer has begun"
        assert_others_are_served(stack)
    wait_until(
        lambda: ApiClient(stack.api_url).call("GET", path).status_code == 200, 20, "it is served"
    )


def test_a_soft_file_limit_of_1024_is_raised(new_stack: NewStack) -> None:
    """Service managers often set this soft limit, with a higher hard limit."""
    own = new_stack(workers=0, **SETTINGS)
    (web,) = own.webs
    web.command[-1] = f"ulimit -S -n 1024; {web.command[-1]}"
    with own, connections(own.api_url, 1_040):
        assert_others_are_served(own)
        assert web.is_running


def test_the_web_process_survives_reaching_a_hard_file_limit(new_stack: NewStack) -> None:
    own = new_stack(workers=0, **SETTINGS)
    (web,) = own.webs
    web.command[-1] = f"ulimit -n 1024; {web.command[-1]}"
    with own:
        with connections(own.api_url, 1_040):
            time.sleep(0.5)  # the connections above the limit stay in the kernel's queue
            assert web.is_running
        wait_until(
            lambda: ApiClient(own.api_url).call("GET", "/healthz").status_code == 200, 20, "served"
        )


def read_answer(kept: socket.socket) -> bytes:
    """Read the complete next answer of /healthz, in lower case; head and body may arrive separately."""
    received = b""
    while not received.endswith(b"}"):
        piece = kept.recv(1_000)
        assert piece, received
        received += piece
    return received.lower()


def test_a_stop_ends_long_polls_and_closes_kept_connections_with_their_answers(
    new_stack: NewStack,
) -> None:
    own = new_stack(workers=0, **SETTINGS)
    request = b"GET /healthz HTTP/1.1\r\nHost: takeone\r\n\r\n"
    with own, connections(own.api_url, 1, request) as (kept,), ThreadPoolExecutor(4) as pool:
        assert b"connection: close" not in read_answer(kept)
        clients = [ApiClient(own.api_url, user, timeout_seconds=70) for user in ("alice", "bob")]
        jobs = [(client, client.uploaded_job()["id"]) for client in clients]
        query = {"wait": 60, "status_not": "UPLOADED"}
        polls = [pool.submit(client.job, job_id, params=query) for client, job_id in 2 * jobs]
        metrics = ApiClient(own.api_url)
        wait_until(
            lambda: "takeone_callers_waiting 4.0" in metrics.call("GET", "/metrics").text,
            10,
            "all four poll",
        )
        (web,) = own.webs
        web.ask_to_stop()
        answers = [poll.result(15) for poll in polls]
        assert [answer.status_code for answer in answers] == [200] * 4
        assert {answer.headers.get("Connection") for answer in answers} == {"close"}
        assert kept.recv(1) == b""
        wait_until(lambda: not web.is_running, 15, "the process has ended")
