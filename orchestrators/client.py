"""The HTTP client for orchestrators: one request, bounded as a whole, with proof of what was sent.

It is `requests` on connections that record when the first byte of the *request* is sent. DNS, connecting, TLS
and the exchange with a proxy come before and prove nothing, nor does the type of an exception.
"""

import random
import re
import threading
import time
from collections.abc import Callable
from http.client import HTTPResponse, IncompleteRead
from http.cookiejar import DefaultCookiePolicy
from io import BufferedReader, BytesIO, RawIOBase
from socket import IPPROTO_TCP, SO_KEEPALIVE, SOL_SOCKET, TCP_KEEPIDLE, TCP_NODELAY
from typing import Any

import requests
import structlog
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

from observability import tracing
from orchestrators.base import Answer, Exchange, Request
from settings import Settings

log = structlog.get_logger("orchestrators")

_MAX_BYTES = 65_536  # of a head, and of a body
_INTERIM = re.compile(rb"HTTP/1\.\d 1(?!01)\d\d\b")  # 101 was not asked for: it is no answer
_LENGTHS = ("Content-Length", "Transfer-Encoding")
# A request that began longer ago than this is checked again before its first byte.
_RECENT_SECONDS = 0.2
_SOCKET_OPTIONS = [
    (IPPROTO_TCP, TCP_NODELAY, 1),
    (SOL_SOCKET, SO_KEEPALIVE, 1),
    (IPPROTO_TCP, TCP_KEEPIDLE, 30),
]


class _Sending(threading.local):
    """The request that this thread is sending."""

    deadline = 0.0
    idle_seconds = 0.0
    is_sent = False

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    def begin(self) -> float:
        seconds = self.seconds_left
        if seconds <= 0:
            raise TimeoutError("another worker may hold the claim by now")
        self.is_sent = True
        return seconds


_sending = _Sending()


class _BoundedStream(RawIOBase):
    """Reads a socket until the deadline; a socket's own timeout starts anew with each read."""

    def __init__(self, sock: Any, raw: RawIOBase) -> None:
        self._sock, self._raw = sock, raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        seconds = _sending.seconds_left
        if seconds <= 0:
            raise TimeoutError
        self._sock.settimeout(seconds)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _FinalResponse(HTTPResponse):
    """http.client's response, bounded by the deadline, after any interim ones (RFC 9110, section 15.2).

    Its head must be whole; http.client accepts one that breaks off.
    """

    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = BufferedReader(_BoundedStream(sock, self.fp.detach()))

    def begin(self) -> None:
        stream: Any = self.fp
        head = _read_head(stream)
        while _INTERIM.match(head):
            head = _read_head(stream)
        self.fp = BytesIO(head)  # type: ignore[assignment]
        try:
            super().begin()
        finally:
            self.fp = stream


def _read_head(stream: BufferedReader) -> bytes:
    head = b""
    while not head.endswith((b"\n\r\n", b"\n\n")):
        line = stream.readline(_MAX_BYTES)
        head += line
        if not line or len(head) > _MAX_BYTES:
            raise IncompleteRead(head)
    return head


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
        self.sock.settimeout(_sending.begin())
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
        return super().is_connected and seconds_idle < _sending.idle_seconds


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


class _Session(requests.Session):
    """Knows no redirect: requests unpacks the whole body of one, even if it is not to follow it."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class OrchestratorClient:
    """Sends requests on kept-alive connections. One per process; threads share it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session = _Session()
        self._session.trust_env = False  # a .netrc would add credentials
        self._session.verify = settings.ca_file or True
        self._session.headers.clear()
        self._session.headers["User-Agent"] = "takeone"
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        adapter = _TrackingAdapter(pool_maxsize=settings.worker_concurrency, max_retries=0)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def send(
        self,
        request: Request,
        still_wanted: Callable[[], bool] = lambda: True,
        began: float | None = None,
        seconds: float | None = None,
    ) -> Exchange:
        """Send a request; return whether it was sent, and the answer. Never raises.

        As long as nothing was sent it tries again a few times. Each try, except a first one right after
        `began`, is made only if `still_wanted()`. The time limit of the settings, or `seconds` if that is less,
        counts from `began`, a `time.monotonic()`; by default from now.
        """
        limit = self._settings.orchestrator_timeout_seconds
        now = time.monotonic()
        began = now if began is None else began
        deadline = began + min(limit, seconds or limit)
        exchange = Exchange(is_sent=False)
        for attempt in range(self._settings.orchestrator_connect_tries):
            if attempt:
                time.sleep(random.uniform(0.05, 0.15) * 2**attempt)  # noqa: S311 - jitter
            is_recent = not attempt and now - began < _RECENT_SECONDS
            if time.monotonic() >= deadline or not (is_recent or still_wanted()):
                break
            exchange = self._exchange(request, deadline)
            if exchange.is_sent:
                break
        return exchange

    def _exchange(self, request: Request, deadline: float) -> Exchange:
        _sending.deadline, _sending.is_sent = deadline, False
        _sending.idle_seconds = self._settings.orchestrator_idle_seconds
        try:
            return Exchange(True, self._answer(request, max(0.05, _sending.seconds_left)))
        except Exception as error:  # whatever it was: all that counts is whether anything was sent
            if not isinstance(error, requests.RequestException):
                log.warning("orchestrator.client_failed", error=type(error).__name__)
            return Exchange(_sending.is_sent)

    def _answer(self, request: Request, seconds: float) -> Answer:
        use_proxies = self._settings.orchestrator_use_proxies
        with self._session.request(
            request.method,
            request.url,
            data=request.body or None,
            headers={
                "Content-Type": "application/json",
                **(request.headers or {}),
                **tracing.headers(),
            },
            stream=True,
            timeout=(min(self._settings.orchestrator_connect_timeout_seconds, seconds), seconds),
            proxies=requests.utils.get_environ_proxies(request.url) if use_proxies else {},
        ) as response:
            return Answer(response.status_code, response.headers, *_read(response))


def _read(response: requests.Response) -> tuple[bytes, bool]:
    """Read the body up to a limit; return it, and whether it is whole up to that limit."""
    raw, content = response.raw, b""
    try:
        while len(content) < _MAX_BYTES:
            piece = raw.read(_MAX_BYTES - len(content), decode_content=False)
            if not piece:
                break
            content += piece
    except Exception:  # whatever a broken body raises, it only means that the body is broken
        return content, False
    return content, response.status_code >= 200
