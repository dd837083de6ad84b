"""What is sent on a connection, and when a connection is reused: against raw sockets."""

import gzip
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from devstack.ports import HOST
from domain.claim import ClaimEvent
from orchestrators.base import Exchange, Request
from orchestrators.client import OrchestratorClient
from orchestrators.engine import start_outcome
from tests.integration.test_orchestrator_client import BODY, KEY, WEBHOOK, client
from tests.support.certificates import Authority

ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
REFUSED = b"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n"

Serve = Callable[[socket.socket, int], None]


def read_request(connection: socket.socket) -> bytes:
    """Read one request; empty if the connection ended."""
    received = b""
    while not received.endswith(BODY):
        piece = connection.recv(65_536)
        if not piece:
            return b""
        received += piece
    return received


class Server:
    """A server that calls `serve` with each connection and its number."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._listener = socket.create_server((HOST, 0))
        self.accepted = 0
        self.url = f"http://{HOST}:{self._listener.getsockname()[1]}/dispatches"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            arguments = (connection, self.accepted)
            threading.Thread(target=self._one, args=arguments, daemon=True).start()

    def _one(self, connection: socket.socket, number: int) -> None:
        with connection, suppress(OSError):  # the client may be gone
            self._serve(connection, number)

    def close(self) -> None:
        self._listener.close()


@contextmanager
def serving(serve: Serve) -> Iterator[Server]:
    server = Server(serve)
    try:
        yield server
    finally:
        server.close()


def answering(*answers: bytes) -> Serve:
    """Answer every request with the same bytes, in pieces some time apart."""

    def serve(connection: socket.socket, _: int) -> None:
        while read_request(connection):
            for piece in answers:
                connection.sendall(piece)
                time.sleep(0.05)  # so that pieces arrive in reads of their own

    return serve


def post(sender: OrchestratorClient, url: str) -> Exchange:
    return sender.send(Request("POST", url, BODY, KEY), lambda: True)


@pytest.mark.parametrize(
    "interim",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",
        b"HTTP/1.1 199 Later\r\n\r\n" * 3,
    ],
)
def test_interim_answers_are_skipped(interim: bytes) -> None:
    with serving(answering(interim, REFUSED)) as server:
        sender = client()
        for _ in range(2):
            outcome = start_outcome(WEBHOOK, post(sender, server.url))
            assert (outcome.event, outcome.http_status) == (ClaimEvent.REFUSED, 409)


HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a-page-with-a-long-name>; rel=preload\r\n\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        (REFUSED[:-3], REFUSED[-3:]),
        (REFUSED[:-2], REFUSED[-2:]),
        (REFUSED[:-1], REFUSED[-1:]),
        (HINTS[:-1], HINTS[-1:] + REFUSED),
        (HINTS + HINTS + REFUSED[:1], REFUSED[1:]),
        (REFUSED.replace(b"\r\n", b"\n"),),  # RFC 9112, section 2.2
    ],
)
def test_an_answer_is_read_however_it_is_cut_into_pieces(pieces: tuple[bytes, ...]) -> None:
    with serving(answering(*pieces)) as server:
        sender = client()
        for _ in range(2):
            outcome = start_outcome(WEBHOOK, post(sender, server.url))
            assert (outcome.event, outcome.http_status) == (ClaimEvent.REFUSED, 409)
        assert server.accepted == 1


def test_an_unrequested_protocol_switch_is_no_answer() -> None:
    with serving(answering(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")) as server:
        assert start_outcome(WEBHOOK, post(client(), server.url)).event is ClaimEvent.LOST


def test_a_connection_with_unread_data_is_not_reused() -> None:
    """The next dispatch would take the rest as its own answer."""
    with serving(answering(REFUSED, ACCEPTED)) as server:
        sender = client()
        assert start_outcome(WEBHOOK, post(sender, server.url)).http_status == 409
        time.sleep(0.2)  # until the second answer has arrived
        assert start_outcome(WEBHOOK, post(sender, server.url)).http_status == 409
        assert server.accepted == 2


LENGTH, ENCODING = b"Content-Length: 0\r\n", b"Transfer-Encoding: identity\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"204 No Content\r\nContent-Length: 43\r\n",
        b"304 Not Modified\r\nContent-Length: 43\r\n",
        b"204 No Content\r\n" + ENCODING,
        b"409 Conflict\r\n" + ENCODING + LENGTH,
        b"101 Switching Protocols\r\nUpgrade: other\r\n",
    ],
)
def test_a_connection_on_which_more_may_come_is_not_reused(head: bytes) -> None:
    """It can come after the next request: the next dispatch would take it as its answer."""

    def serve(connection: socket.socket, _: int) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 " + head + b"\r\n")
        read_request(connection)
        connection.sendall(ACCEPTED)

    with serving(serve) as server:
        sender = client(timeout_seconds=1)
        for _ in range(2):
            answer = post(sender, server.url).answer
            assert answer is not None
            assert f"{answer.status}".encode() in head
        assert server.accepted == 2


def test_a_redirect_is_a_refusal_whose_body_is_neither_unpacked_nor_read_in_full() -> None:
    packed = gzip.compress(bytes(100_000_000))
    head = b"HTTP/1.1 302 Found\r\nLocation: http://[\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    with serving(answering(head % len(packed) + packed)) as server:
        tracemalloc.start()
        try:
            exchange = post(client(), server.url)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert start_outcome(WEBHOOK, exchange).event is ClaimEvent.REFUSED
    assert exchange.answer is not None
    assert packed.startswith(exchange.answer.body)
    assert most < 10_000_000


@pytest.mark.parametrize("forgotten_by", ["reset", "silence"])
def test_an_idle_connection_is_not_reused(forgotten_by: str) -> None:
    """A firewall forgets an idle connection: what is sent on it is reset, or goes nowhere."""
    is_reused = threading.Event()

    def serve(connection: socket.socket, number: int) -> None:
        read_request(connection)
        connection.sendall(ACCEPTED)
        if read_request(connection) and number == 1:
            is_reused.set()
            if forgotten_by == "silence":
                time.sleep(3)

    with serving(serve) as server:
        sender = client(idle_seconds=0.2)
        assert start_outcome(WEBHOOK, post(sender, server.url)).event is ClaimEvent.ACCEPTED
        time.sleep(0.3)
        assert start_outcome(WEBHOOK, post(sender, server.url)).event is ClaimEvent.ACCEPTED
        assert not is_reused.is_set()
        assert server.accepted == 2


def test_a_connection_in_use_is_reused() -> None:
    with serving(answering(ACCEPTED)) as server:
        sender = client()
        for _ in range(3):
            assert start_outcome(WEBHOOK, post(sender, server.url)).event is ClaimEvent.ACCEPTED
        assert server.accepted == 1


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Callable[..., OrchestratorClient]:
    """Makes a client that reaches an https orchestrator through a proxy."""

    def make(proxy: str, **more: Any) -> OrchestratorClient:
        for name in ("https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy.removesuffix("/dispatches"))
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.setenv(name, "")
        return client(use_proxies=True, timeout_seconds=1, **more)

    return make


PROXY_ANSWERS = {
    "403": b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
    "407": b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
    "503": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
    "closed": b"",
    "200, and then no TLS": b"HTTP/1.1 200 OK\r\n\r\nhello, this is no TLS",
}


@pytest.mark.parametrize("case", PROXY_ANSWERS)
def test_if_the_proxy_refuses_connect_nothing_counts_as_sent(
    case: str, proxied: Callable[[str], OrchestratorClient]
) -> None:
    def serve(connection: socket.socket, _: int) -> None:
        assert connection.recv(65_536).startswith(b"CONNECT orchestrator.example:443 ")
        connection.sendall(PROXY_ANSWERS[case])

    with serving(serve) as proxy:
        exchange = post(proxied(proxy.url), "https://orchestrator.example/dispatches")
    assert exchange == Exchange(is_sent=False)
    assert start_outcome(WEBHOOK, exchange).event is ClaimEvent.NOT_STARTED


def test_after_the_deadline_nothing_is_sent_through_a_proxy(
    proxied: Callable[[str], OrchestratorClient],
) -> None:
    """The TLS handshake through the proxy takes longer than the worker may."""
    received: list[bytes] = []

    def serve(connection: socket.socket, _: int) -> None:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        received.append(connection.recv(65_536))  # the client's hello
        time.sleep(1.5)
        while piece := connection.recv(65_536):
            received.append(piece)

    with serving(serve) as proxy:
        sender = proxied(proxy.url)
        exchange = post(sender, "https://orchestrator.example/dispatches")
        assert exchange == Exchange(is_sent=False)
    assert not any(BODY in piece for piece in received)


def test_a_request_past_its_deadline_is_not_sent() -> None:
    with serving(answering(ACCEPTED)) as server:
        sender = client(timeout_seconds=1)
        late = time.monotonic() - 2
        exchange = sender.send(Request("POST", server.url, BODY, KEY), lambda: True, late)
        assert exchange == Exchange(is_sent=False)


def test_a_request_whose_connection_took_until_the_deadline_is_not_sent(
    proxied: Callable[..., OrchestratorClient], tmp_path: Path
) -> None:
    """Each step of connecting is in time, and all together are not."""
    authority, received = Authority(tmp_path), threading.Event()
    context, is_connected = authority.server_context(), threading.Event()

    def serve(connection: socket.socket, _: int) -> None:
        connection.recv(65_536)
        time.sleep(0.6)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        time.sleep(0.6)
        with context.wrap_socket(connection, server_side=True) as tls:
            is_connected.set()
            if tls.recv(65_536):
                received.set()

    with serving(serve) as proxy:
        sender = proxied(proxy.url, ca_file=str(authority.ca_file))
        assert post(sender, f"https://{HOST}/dispatches") == Exchange(is_sent=False)
        assert is_connected.wait(20)
    assert not received.is_set()


def test_an_answer_that_stalls_ends_at_the_deadline() -> None:
    """The time limit of a read does not start anew with each byte."""

    def serve(connection: socket.socket, _: int) -> None:
        read_request(connection)
        time.sleep(1.5)
        connection.sendall(b"H")
        read_request(connection)

    with serving(serve) as server:
        began = time.monotonic()
        assert post(client(timeout_seconds=2), server.url) == Exchange(is_sent=True)
        assert time.monotonic() - began < 3


def test_an_endless_head_is_no_answer_and_is_not_read_until_the_deadline() -> None:
    def serve(connection: socket.socket, _: int) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 202 Accepted\r\n")
        while True:
            connection.sendall(b"X: y\r\n" * 1_000)

    with serving(serve) as server:
        began = time.monotonic()
        assert post(client(timeout_seconds=40), server.url) == Exchange(is_sent=True)
        assert time.monotonic() - began < 20


@pytest.mark.parametrize(("padding", "is_answer"), [(30_000, True), (33_000, False)])
def test_a_head_of_more_than_64_kib_is_no_answer(padding: int, is_answer: bool) -> None:
    lines = b"X: " + b"y" * padding + b"\r\n"
    with serving(answering(ACCEPTED.replace(b"\r\n\r\n", b"\r\n" + lines * 2 + b"\r\n"))) as server:
        exchange = post(client(), server.url)
        assert (exchange.is_sent, exchange.answer is not None) == (True, is_answer)


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 202 Accep", b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n"]
)
def test_a_head_that_breaks_off_is_no_answer_and_is_not_awaited(head: bytes) -> None:
    def serve(connection: socket.socket, _: int) -> None:
        read_request(connection)
        connection.sendall(head)
        connection.close()

    with serving(serve) as server:
        began = time.monotonic()
        assert post(client(timeout_seconds=40), server.url) == Exchange(is_sent=True)
        assert time.monotonic() - began < 20


CHUNKED = b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 1_000),
        (CHUNKED + b"-1\r\n", b"x" * 50_000),  # read until the connection ends
        (CHUNKED + b"0\r\n", b"Trailer: x\r\n" * 1_000),
    ],
)
def test_an_endless_answer_is_neither_read_until_the_deadline_nor_kept(
    head: bytes, piece: bytes
) -> None:
    def serve(connection: socket.socket, _: int) -> None:
        read_request(connection)
        connection.sendall(head)
        while True:
            connection.sendall(piece)

    with serving(serve) as server:
        began = time.monotonic()
        tracemalloc.start()
        try:
            exchange = post(client(timeout_seconds=20), server.url)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert time.monotonic() - began < 10
    assert exchange.is_sent
    assert exchange.answer is None or not exchange.answer.is_whole
    assert most < 10_000_000


def test_each_try_after_the_first_is_made_only_if_it_is_still_wanted() -> None:
    answers = [True, False]
    with socket.create_server((HOST, 0)) as listener:
        url = f"http://{HOST}:{listener.getsockname()[1]}/dispatches"
    request = Request("POST", url, BODY, KEY)
    exchange = client(connect_tries=5).send(request, lambda: answers.pop(0))
    assert (exchange, answers) == (Exchange(is_sent=False), [])
