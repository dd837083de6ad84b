"""Raw connections: many at once, and bytes that come one by one."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit


@contextmanager
def connections(url: str, number: int, first_bytes: bytes = b"") -> Iterator[list[socket.socket]]:
    """This many connections that have sent `first_bytes`, closed at the end."""
    where = urlsplit(url)
    with ExitStack() as opened:
        made = []
        for _ in range(number):
            connection = socket.create_connection((where.hostname, where.port), timeout=10)
            opened.enter_context(connection)
            connection.sendall(first_bytes)
            made.append(connection)
        yield made


@contextmanager
def dripped(slow: list[socket.socket], data: bytes) -> Iterator[None]:
    """While this lasts, each connection sends `data` byte by byte."""
    done = threading.Event()

    def drip() -> None:
        for byte in data:
            for connection in slow:
                connection.sendall(bytes([byte]))
            if done.wait(0.01):
                return

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        yield
    finally:
        done.set()
        dripping.join()
