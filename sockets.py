"""Connections of a busy process: the kernel limits their waits, and they keep the GIL where they can.

Python gives the GIL away for each call on a socket, also for one that sets a flag or copies 300 bytes
into a buffer. Where other threads wait for it, each of these costs a change of threads, there and back
(spec/decisions/0014).
"""

import ctypes
import struct
from socket import MSG_DONTWAIT, SO_RCVTIMEO, SO_SNDTIMEO, SOL_SOCKET, socket
from typing import Any, Self

# A PyDLL's functions are called without giving the GIL away: only for what cannot block. Its arguments are
# converted by their own types (bytes, int), which are the right ones, and sooner than by declared ones.
_send = ctypes.PyDLL(None).send
_MOST_AT_ONCE = 1 << 20


def limit_waits(connection: socket, seconds: float) -> None:
    """Let the kernel end each wait of a blocking socket to send or receive; it shows as BlockingIOError.

    A timeout of Python's own asks `poll` before each call, and gives the GIL away for it.
    """
    limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
    connection.setsockopt(SOL_SOCKET, SO_RCVTIMEO, limit)
    connection.setsockopt(SOL_SOCKET, SO_SNDTIMEO, limit)


class PromptSocket(socket):
    """A connection that gives the GIL away only where it may have to wait."""

    @classmethod
    def taking_over(cls, connection: socket) -> Self:
        """The same connection; `connection` itself is not to be used any more."""
        timeout = connection.gettimeout()
        own = cls(connection.family, connection.type, connection.proto, connection.detach())
        own.settimeout(timeout)
        return own

    def settimeout(self, value: float | None, /) -> None:
        """As a socket's, and nothing if it is so already."""
        if value != self.gettimeout():
            super().settimeout(value)

    def setblocking(self, flag: bool, /) -> None:
        """As a socket's, and nothing if it is so already."""
        self.settimeout(None if flag else 0.0)

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """As a socket's. What the kernel's buffer has room for goes there at once."""
        sent = 0
        if type(data) is bytes and len(data) <= _MOST_AT_ONCE and not flags:
            sent = _send(self.fileno(), data, len(data), MSG_DONTWAIT)
            if sent == len(data):
                return
        # The buffer is full, or the connection broken, which this call will say.
        super().sendall(memoryview(data)[max(0, sent) :], flags)
