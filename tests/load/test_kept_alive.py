"""Kept connections share the threads: one in steady use gives up its thread when another caller waits."""

import socket
import threading
from collections.abc import Iterator

import pytest

from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.conftest import NewStack
from tests.support.client import ApiClient
from tests.support.connections import connections

THREADS = 32
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: takeone\r\n\r\n"
BODY = b'{"status":"ok"}'


@pytest.fixture(scope="module")
def small_stack(new_stack: NewStack) -> Iterator[Stack]:
    with new_stack(
        workers=0, TAKEONE_WEB_THREADS=str(THREADS), TAKEONE_WEB_WAIT_SLOTS="1"
    ) as running:
        yield running


def read_answers(connection: socket.socket, number: int) -> None:
    received = b""
    while received.count(BODY) < number:
        piece = connection.recv(65_536)
        assert piece, "the server closed the connection"
        received += piece
    assert received.count(b"HTTP/1.1 200") == number


class BusyCaller(threading.Thread):
    """Sends the next request as soon as it has an answer, always on the same connection."""

    def __init__(self, connection: socket.socket, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._connection, self._stop_event = connection, stop
        self.answers = 0

    def run(self) -> None:
        while not self._stop_event.is_set():
            self._connection.sendall(REQUEST)
            read_answers(self._connection, 1)
            self.answers += 1


def test_callers_that_never_pause_do_not_keep_the_threads(small_stack: Stack) -> None:
    stop = threading.Event()
    with connections(small_stack.api_url, 3 * THREADS) as opened:
        callers = [BusyCaller(connection, stop) for connection in opened]
        try:
            for caller in callers:
                caller.start()
            wait_until(lambda: all(caller.answers > 3 for caller in callers), 10, "all are served")
            newcomer = ApiClient(small_stack.api_url, timeout_seconds=10)
            assert newcomer.call("GET", "/healthz").status_code == 200
        finally:
            stop.set()
            for caller in callers:
                caller.join(10)
    assert not any(caller.is_alive() for caller in callers)


def test_pipelined_requests_are_all_answered(small_stack: Stack) -> None:
    with connections(small_stack.api_url, 1, 3 * REQUEST) as (connection,):
        read_answers(connection, 3)
