"""Connections in steady use: served by the thread that they have, as long as no caller waits for one."""

import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.conftest import NewStack
from tests.support.client import ApiClient

THREADS = 4
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: takeone\r\n\r\n"
BODY = b'{"status":"ok"}'


@pytest.fixture(scope="module")
def narrow(new_stack: NewStack) -> Iterator[Stack]:
    with new_stack(
        workers=0, TAKEONE_WEB_THREADS=str(THREADS), TAKEONE_WEB_WAIT_SLOTS="1"
    ) as running:
        yield running


def connect(stack: Stack) -> socket.socket:
    where = urlsplit(stack.api_url)
    return socket.create_connection((where.hostname, where.port), timeout=10)


def read_answers(connection: socket.socket, number: int) -> None:
    received = b""
    while received.count(BODY) < number:
        piece = connection.recv(65_536)
        assert piece, "the server closed the connection"
        received += piece
    assert received.count(b"HTTP/1.1 200") == number


class Relentless(threading.Thread):
    """Asks again the moment that it is answered, always on the same connection."""

    def __init__(self, stack: Stack, enough: threading.Event) -> None:
        super().__init__(daemon=True)
        self._connection, self._enough = connect(stack), enough
        self.answers = 0

    def run(self) -> None:
        with self._connection:
            while not self._enough.is_set():
                self._connection.sendall(REQUEST)
                read_answers(self._connection, 1)
                self.answers += 1


def test_callers_that_never_pause_keep_no_thread_from_the_others(narrow: Stack) -> None:
    enough = threading.Event()
    callers = [Relentless(narrow, enough) for _ in range(3 * THREADS)]
    try:
        for caller in callers:
            caller.start()
        wait_until(lambda: all(caller.answers > 3 for caller in callers), 10, "all are served")
        newcomer = ApiClient(narrow.api_url, timeout_seconds=10)
        assert newcomer.call("GET", "/healthz").status_code == 200
    finally:
        enough.set()
    for caller in callers:
        caller.join(10)
    assert not any(caller.is_alive() for caller in callers)


def test_requests_that_are_sent_at_one_go_are_answered_one_after_the_other(narrow: Stack) -> None:
    with connect(narrow) as connection:
        connection.sendall(3 * REQUEST)
        read_answers(connection, 3)
