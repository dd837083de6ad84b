"""Sessions of `requests` whose exchanges end by a deadline, and which know whether the request was sent.

Their connections record when the first byte of the *request* is sent. DNS, connecting, TLS and the exchange
with a proxy come before and prove nothing, nor does the type of an exception.
"""

import re
import threading
import time
from http.client import HTTPResponse, IncompleteRead
from io import BufferedReader, BytesIO, RawIOBase
from socket import IPPROTO_TCP, SO_KEEPALIVE, SOL_SOCKET, TCP_KEEPIDLE, TCP_NODELAY
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

_MAX_HEAD_BYTES = 65_536
# An answer with more is endless: that of the longest head and body, in the smallest chunks, has less.
_MAX_ANSWER_BYTES = 1_048_576
_PIECE_BYTES = 8_192
_HEAD_END = re.compile(rb"\n\r?\n")
_INTERIM = re.compile(rb"HTTP/1\.\d 1(?!01)\d\d\b")  # 101 was not asked for: it is no answer
_LENGTHS = ("Content-Length", "Transfer-Encoding")
_SOCKET_OPTIONS = [
    (IPPROTO_TCP, TCP_NODELAY, 1),
    (SOL_SOCKET, SO_KEEPALIVE, 1),
    (IPPROTO_TCP, TCP_KEEPIDLE, 30),
]


class _Sending(threading.local):
    """The request that this thread is sending, and whether its first byte was sent."""

    deadline = 0.0
    idle_seconds = 0.0
    is_sent = False

    def end_by(self, deadline: float, idle_seconds: float = 0.0) -> None:
        """Set when the next request ends, and how long a connection for it may have been idle."""
        self.deadline, self.idle_seconds, self.is_sent = deadline, idle_seconds, False

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    def begin(self) -> float:
        seconds = self.seconds_left
        if seconds <= 0:
            raise TimeoutError("another worker may hold the claim by now")
        self.is_sent = True
        return seconds


sending = _Sending()


class _Answer(RawIOBase):
    """One answer, read until the deadline, without the interim ones before it (RFC 9110, section 15.2).

    Its head must be whole; http.client accepts one that breaks off.
    """

    def __init__(self, sock: Any) -> None:
        self._sock, self._raw = sock, sock.makefile("rb", buffering=0)
        self._bytes = 0
        self._begin: BytesIO | None = None  # what was received from the head on; not read yet

    def makefile(self, _: str) -> BufferedReader:
        """The file that http.client's response makes of what it takes for a socket."""
        return BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._begin is None:
            self._begin = BytesIO(self._receive_head())
        return self._begin.readinto(buffer) or self._receive(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()

    def _receive_head(self) -> bytes:
        """The final head, with what came with its end."""
        received, piece, searched = b"", bytearray(_PIECE_BYTES), 0
        while True:
            end = _HEAD_END.search(received, searched)
            if (end.end() if end else len(received)) > _MAX_HEAD_BYTES:
                raise IncompleteRead(received)
            if end and not _INTERIM.match(received):
                return received
            if end:
                received, searched = received[end.end() :], 0
            elif count := self._receive(piece):
                searched = max(0, len(received) - 2)
                received += piece[:count]
            else:
                raise IncompleteRead(received)

    def _receive(self, buffer: Any) -> int:
        seconds = sending.seconds_left
        if seconds <= 0 or self._bytes > _MAX_ANSWER_BYTES:
            raise TimeoutError
        self._sock.settimeout(seconds)  # it would start anew with each read
        count = self._raw.readinto(buffer) or 0
        self._bytes += count
        return count


class _FinalResponse(HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        answer: Any = _Answer(sock)
        super().__init__(answer, *args, **options)


class _TrackingConnection(HTTPConnection):
    """A connection that records when its request begins.

    It is reused only if nothing more can come on it, and not once it was idle for too long: firewalls and
    load balancers drop idle connections without telling either end.
    """

    response_class = _FinalResponse
    _used_at = float("inf")

    def request(self, *args: Any, **options: Any) -> None:
        if self.sock is None:
            self.connect()
        # A reused socket has the timeout of its last read.
        self.sock.settimeout(sending.begin())
        super().request(*args, **options)

    def getresponse(self) -> Any:
        response = super().getresponse()
        lengths = sum(name in response.headers for name in _LENGTHS)
        # With two lengths, or one for what has no body, the rest may come when the next answer is awaited.
        is_clear = lengths <= (response.status not in (204, 304)) and response.status != 101
        self._used_at = time.monotonic() if is_clear else float("-inf")
        return response

    @property
    def is_connected(self) -> bool:
        seconds_idle = time.monotonic() - self._used_at
        return super().is_connected and seconds_idle < sending.idle_seconds


class _TrackingTlsConnection(_TrackingConnection, HTTPSConnection):
    pass


class _TrackingAdapter(HTTPAdapter):
    """requests' adapter, with such connections."""

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **options)
        is_tls = pool.scheme == "https"
        pool.ConnectionCls = _TrackingTlsConnection if is_tls else _TrackingConnection
        pool.conn_kw["socket_options"] = _SOCKET_OPTIONS
        return pool


class BoundedSession(requests.Session):
    """Its requests end by the deadline of `sending`, and use no setting of the environment.

    It knows no redirect: requests unpacks the whole body of one, even if it is not to follow it.
    """

    def __init__(self, ca_file: str, connections: int = 1) -> None:
        super().__init__()
        self.trust_env = False  # a .netrc would add credentials
        self.verify = ca_file or True
        adapter = _TrackingAdapter(pool_maxsize=connections, max_retries=0)
        self.mount("http://", adapter)
        self.mount("https://", adapter)

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None
