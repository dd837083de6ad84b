"""Connections that cost a client nothing: none of them keeps any other caller waiting."""

import resource
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.conftest import NewStack
from tests.support.client import ApiClient
from tests.support.connections import connections, sending_slowly

THREADS = 16
SETTINGS = {
    "TAKEONE_WEB_THREADS": str(THREADS),
    "TAKEONE_WEB_WAIT_SLOTS": "8",
    "TAKEONE_SIGNING_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}
FILES_OF_THE_TEST = 4_096


@pytest.fixture(scope="module", autouse=True)
def enough_files() -> Iterator[None]:
    """This process holds the other ends."""
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
    """A new caller and one in steady use: each call has an answer long before a client gives up."""
    client = ApiClient(stack.api_url, "alice", timeout_seconds=5)
    for _ in range(20):
        assert client.call("GET", "/healthz").status_code == 200
    assert client.get("/projects").status_code == 200
    fresh = ApiClient(stack.api_url, "bob", timeout_seconds=5)
    assert fresh.create_project().status_code == 201


def test_2000_silent_connections(stack: Stack) -> None:
    with connections(stack.api_url, 2_000):
        assert_others_are_served(stack)


def test_400_heads_that_come_byte_by_byte(stack: Stack) -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: takeone\r\nX-Slow: " + b"a" * 1_000
    with connections(stack.api_url, 400) as slow, sending_slowly(slow, head):
        assert_others_are_served(stack)


def test_clients_that_never_close(stack: Stack) -> None:
    with connections(stack.api_url, 10 * THREADS, b"GET /healthz HTTP/1.0\r\n\r\n"):
        assert_others_are_served(stack)


BODY_HEADS = {
    "no token": b"POST /api/v1/projects HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n",
    "a wrong callback secret": (
        b"POST /api/v1/internal/jobs/x/status HTTP/1.1\r\nHost: x\r\nX-Callback-Secret: wrong\r\n"
    ),
}


@pytest.mark.parametrize("case", BODY_HEADS)
def test_a_caller_who_is_not_known_never_holds_a_thread_by_a_slow_body(
    case: str, stack: Stack
) -> None:
    head = BODY_HEADS[case] + b"Content-Length: 1000\r\n\r\n{"
    with connections(stack.api_url, 4 * THREADS, head) as slow:
        for connection in slow:
            assert connection.recv(100).startswith(b"HTTP/1.1 401"), "before the body has come"
        assert_others_are_served(stack)


def test_signed_callbacks_with_slow_bodies_hold_a_bounded_number_of_threads(
    new_stack: NewStack,
) -> None:
    settings = {**SETTINGS, "TAKEONE_WEB_THREADS": "32"}
    head = (
        b"POST /api/v1/internal/jobs/x/status HTTP/1.1\r\nHost: x\r\nwebhook-signature: v1,x\r\n"
        b"webhook-id: a\r\nwebhook-timestamp: 1\r\nContent-Length: 1000\r\n\r\n{"
    )
    with (
        new_stack(workers=0, **settings) as own,
        connections(own.api_url, 128, head),
    ):
        assert_others_are_served(own)


def test_a_file_limit_of_1024_is_raised_and_outlived(new_stack: NewStack) -> None:
    """The soft limit is what a service manager often gives; the hard one is higher."""
    own = new_stack(workers=0, **SETTINGS)
    (web,) = own.webs
    web.command[-1] = f"ulimit -S -n 1024; {web.command[-1]}"
    with own, connections(own.api_url, 1_040):
        assert_others_are_served(own)
        assert web.is_running


def test_a_hard_file_limit_of_1024_is_outlived(new_stack: NewStack) -> None:
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


def answer_of(kept: socket.socket) -> bytes:
    """The next answer of /healthz, whole and in lower case: head and body may come apart."""
    received = b""
    while not received.endswith(b"}"):
        piece = kept.recv(1_000)
        assert piece, received
        received += piece
    return received.lower()


def test_a_stop_ends_long_polls_at_once_and_answers_once_more_on_kept_connections(
    new_stack: NewStack,
) -> None:
    own = new_stack(workers=0, **SETTINGS)
    request = b"GET /healthz HTTP/1.1\r\nHost: takeone\r\n\r\n"
    with own, connections(own.api_url, 1, request) as (kept,):
        assert b"connection: close" not in answer_of(kept)
        clients = [ApiClient(own.api_url, user, timeout_seconds=70) for user in ("alice", "bob")]
        jobs = [(client, client.uploaded_job()["id"]) for client in clients]
        answers: list[int] = []
        query = {"wait": 60, "status_not": "UPLOADED"}

        def poll(client: ApiClient, job_id: str) -> None:
            answers.append(client.job(job_id, params=query).status_code)

        polls = [threading.Thread(target=poll, args=each) for each in 2 * jobs]
        for each in polls:
            each.start()
        metrics = ApiClient(own.api_url)
        wait_until(
            lambda: "takeone_callers_waiting 4.0" in metrics.call("GET", "/metrics").text,
            10,
            "they wait",
        )
        (web,) = own.webs
        web.ask_to_stop()
        polls[0].join(15)
        kept.sendall(request)
        answer = answer_of(kept)
        assert answer.startswith(b"http/1.1 200")
        assert b"connection: close" in answer
        for each in polls:
            each.join(15)
        assert answers == [200] * 4
        wait_until(lambda: not web.is_running, 15, "the process has ended")
