"""Raw connections: many concurrent ones, and slow senders."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit


@contextmanager
def connections(url: str, number: int, first_bytes: bytes = b"") -> Iterator[list[socket.socket]]:
    """Open `number` connections and send `first_bytes` on each; close them at the end."""
    parts = urlsplit(url)
    with ExitStack() as opened:
        made = []
        for _ in range(number):
            connection = socket.create_connection((parts.hostname, parts.port), timeout=10)
            made.append(opened.enter_context(connection))
            connection.sendall(first_bytes)
        yield made


@contextmanager
def sending_slowly(connections: list[socket.socket], data: bytes) -> Iterator[None]:
    """Send `data` byte by byte on each connection, in the background, until the context ends."""
    done = threading.Event()

    def send() -> None:
        for byte in data:
            for connection in connections:
                connection.sendall(bytes([byte]))
            if done.wait(0.01):
                return

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
