"""Behaviours of the stub orchestrator: how it answers a request, or fails to.

A behaviour is a function of an Exchange. It sends an answer, or leaves the caller without one.
"""

import itertools
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import requests


@dataclass
class Request:
    """A request that was read completely; `answered` is the status of the answer, if one was begun."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    received_at: float
    answered: int | None = None
    callbacks: list[requests.Response] = field(default_factory=list)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def job_id(self) -> str | None:
        """The `job_id` in the body, if any."""
        try:
            return str(self.json["job_id"])
        except (ValueError, KeyError, TypeError):
            return None

    @property
    def dispatch_id(self) -> str | None:
        """The Idempotency-Key header."""
        return self.headers.get("idempotency-key")


@dataclass
class Exchange:
    """A request and its raw connection; `stopping` is set when the stub stops."""

    request: Request
    connection: socket.socket
    stopping: threading.Event
    keep_alive: bool = True

    def send(self, data: bytes) -> None:
        """Send raw bytes; raise OSError if the caller has closed the connection."""
        self.connection.sendall(data)

    def begin(self, status: int, headers: dict[str, str]) -> None:
        """Send the head of an answer."""
        self.request.answered = status
        lines = [
            f"HTTP/1.1 {status} Scripted",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        self.send("\r\n".join([*lines, "", ""]).encode())

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send a complete answer."""
        self.request.answered = status
        head = f"HTTP/1.1 {status} Scripted\r\nContent-Length: {len(body)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.send(
            head.encode() + b"\r\n" + body
        )  # in one call, so that it is never cut by accident

    def close(self) -> None:
        """Close the connection after this exchange."""
        self.keep_alive = False


Behaviour = Callable[[Exchange], None]
JSON = {"Content-Type": "application/json"}


def reset(connection: socket.socket) -> None:
    """Close a connection with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())


def accept(status: int = 202, body: bytes = b'{"accepted": true}', after: float = 0.0) -> Behaviour:
    """Answer `status` with the JSON `body`, after a delay in seconds."""
    return answer(status, body, JSON, after)


def refuse(status: int, body: bytes = b'{"error": "scripted"}', after: float = 0.0) -> Behaviour:
    """Answer an error `status` with the JSON `body`, after a delay in seconds."""
    return answer(status, body, JSON, after)


def redirect(location: str, status: int = 302) -> Behaviour:
    return answer(status, b"", {"Location": location})


def empty_body(status: int = 200) -> Behaviour:
    return answer(status, b"", {})


def not_json(status: int = 200) -> Behaviour:
    """Accept with a body that claims to be JSON and is not."""
    return answer(status, b"<html>\xff accepted", JSON)


def answer(
    status: int, body: bytes, headers: dict[str, str] | None = None, after: float = 0.0
) -> Behaviour:
    """Answer with exactly this, after a delay in seconds."""

    def behave(exchange: Exchange) -> None:
        exchange.stopping.wait(after)
        exchange.answer(status, body, headers or {})

    return behave


def answer_after_wait(body: bytes) -> Behaviour:
    """Answer 200 as a long poll without news is: after the seconds that the query's `wait` asks for."""

    def behave(exchange: Exchange) -> None:
        exchange.stopping.wait(int(exchange.request.path.partition("wait=")[2]))
        exchange.answer(200, body, JSON)

    return behave


def huge_body(status: int = 200, megabytes: int = 64) -> Behaviour:
    """Accept with a body that is too large to read."""

    def behave(exchange: Exchange) -> None:
        exchange.begin(status, {**JSON, "Content-Length": str(megabytes * 2**20)})
        for _ in range(megabytes):
            exchange.send(b"x" * 2**20)

    return behave


def truncated_body(status: int = 200) -> Behaviour:
    """Begin an answer, and close the connection before its Content-Length."""

    def behave(exchange: Exchange) -> None:
        exchange.begin(status, {**JSON, "Content-Length": "1000"})
        exchange.send(b'{"accepted":')
        exchange.close()

    return behave


def truncated_head(status: int = 200) -> Behaviour:
    """Close the connection in the middle of the answer's head."""

    def behave(exchange: Exchange) -> None:
        exchange.send(f"HTTP/1.1 {status} Scripted\r\nContent-Le".encode())
        exchange.close()

    return behave


def early_hints(then: Behaviour) -> Behaviour:
    """Send an interim 103, then continue with `then`."""

    def behave(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n")
        then(exchange)

    return behave


def not_http() -> Behaviour:
    """Answer with bytes that are not HTTP."""

    def behave(exchange: Exchange) -> None:
        exchange.send(b"SSH-2.0-OpenSSH_9.6\r\n")
        exchange.close()

    return behave


def reset_after_read() -> Behaviour:
    """Reset the connection after the whole request was read."""
    return lambda exchange: reset(exchange.connection)


def close_after_read() -> Behaviour:
    """Close the connection after the whole request was read, without an answer."""
    return Exchange.close


def hang(seconds: float = 3600.0) -> Behaviour:
    """Wait for a time in seconds, then close the connection without an answer."""

    def behave(exchange: Exchange) -> None:
        exchange.stopping.wait(seconds)
        exchange.close()

    return behave


def drip_head(status: int = 200, interval_seconds: float = 0.1) -> Behaviour:
    """Send an endless head, a byte at a time."""
    return _drip(f"HTTP/1.1 {status} Scripted\r\nX-Endless: ".encode(), interval_seconds, None)


def drip_body(status: int = 200, interval_seconds: float = 0.1) -> Behaviour:
    """Send a complete head and then an endless body, a byte at a time."""
    head = f"HTTP/1.1 {status} Scripted\r\nContent-Length: 1000000\r\n\r\n".encode()
    return _drip(head, interval_seconds, status)


def _drip(head: bytes, interval_seconds: float, status: int | None) -> Behaviour:
    def behave(exchange: Exchange) -> None:
        exchange.request.answered = status
        exchange.send(head)
        while not exchange.stopping.wait(interval_seconds):
            exchange.send(b"x")

    return behave


def call_back_first(report: dict[str, Any], secret: str, then: Behaviour) -> Behaviour:
    """Send a status callback, append its response to `request.callbacks`, then continue with `then`."""

    def behave(exchange: Exchange) -> None:
        request = exchange.request
        headers = {"X-Callback-Secret": secret}
        with requests.Session() as session:
            session.trust_env = False
            url = request.json["callback_url"]
            request.callbacks.append(session.post(url, json=report, headers=headers, timeout=15))
        then(exchange)

    return behave


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """Use the behaviours for one request each, in order; the last one also for all further requests."""
    turns: Iterable[Behaviour] = itertools.chain(behaviours, itertools.repeat(behaviours[-1]))
    upcoming, lock = iter(turns), threading.Lock()

    def behave(exchange: Exchange) -> None:
        with lock:
            behaviour = next(upcoming)
        behaviour(exchange)

    return behave
