"""The load generator: callers on kept-alive connections, with one request at a time each.

It shares the cores with what is measured, so it is one thread, one selector and prepared bytes: about 0.1
ms of CPU a call, which the report states.
"""

import re
import selectors
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

from devstack.ports import HOST

_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_DRAIN_SECONDS = 30.0


class LoadFailedError(Exception):
    """The server closed a connection, or did not answer within the limit."""


@dataclass
class Load:
    """The result of a load. All times are in seconds; `cpu_seconds` are the generator's own."""

    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def done(self) -> int:
        """How many calls were answered."""
        return len(self.latencies)


@dataclass
class _Caller:
    sock: socket.socket
    received: bytes = b""
    started: float = 0.0

    def send(self, request: bytes) -> None:
        self.received, self.started = b"", time.perf_counter()
        self.sock.sendall(request)

    def answer(self) -> int | None:
        """Read what has arrived; return the status once the answer is whole."""
        data = self.sock.recv(65_536)
        if not data:
            raise LoadFailedError("the server closed a connection")
        self.received = received = self.received + data if self.received else data
        head = received.find(_HEAD_END)
        if head < 0:
            return None
        length = _LENGTH.search(received, 0, head)
        missing = head + 4 + (int(length[1]) if length else 0) - len(received)
        return None if missing > 0 else int(received[9:12])


def drive(port: int, requests: Iterator[bytes], callers: int, seconds: float) -> Load:
    """Send requests for `seconds`, or until `requests` ends, then wait for the last answers.

    Raises `LoadFailedError`.
    """
    with selectors.DefaultSelector() as selector, ExitStack() as sockets:
        connected = [_connect(port, selector, sockets) for _ in range(callers)]
        load, cpu, began = Load(), time.process_time(), time.perf_counter()
        busy = sum(_call(caller, requests) for caller in connected)
        while busy:
            busy -= _take_answers(selector, requests, load, began + seconds)
        load.seconds = time.perf_counter() - began
        load.cpu_seconds = time.process_time() - cpu
        return load


def _connect(port: int, selector: selectors.BaseSelector, sockets: ExitStack) -> _Caller:
    sock = socket.create_connection((HOST, port), timeout=_DRAIN_SECONDS)
    sockets.enter_context(sock)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    caller = _Caller(sock)
    selector.register(sock, selectors.EVENT_READ, caller)
    return caller


def _take_answers(
    selector: selectors.BaseSelector, requests: Iterator[bytes], load: Load, deadline: float
) -> int:
    """Record the answers, and call again before the deadline; return how many callers have finished."""
    ready = selector.select(_DRAIN_SECONDS)
    if not ready:
        raise LoadFailedError(f"no answer within {_DRAIN_SECONDS:g} s")
    finished = 0
    for key, _ in ready:
        caller: _Caller = key.data
        status = caller.answer()
        if status is None:
            continue
        now = time.perf_counter()
        load.latencies.append(now - caller.started)
        load.statuses[status] += 1
        finished += now >= deadline or not _call(caller, requests)
    return finished


def _call(caller: _Caller, requests: Iterator[bytes]) -> bool:
    request = next(requests, None)
    if request is not None:
        caller.send(request)
    return request is not None


def http_request(method: str, path: str, token: str = "") -> bytes:
    """The bytes of a request without a body."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}"]
    lines += [f"Authorization: Bearer {token}"] if token else []
    lines += ["Content-Length: 0"] if method == "POST" else []
    return "\r\n".join([*lines, "", ""]).encode()
