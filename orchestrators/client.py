"""The HTTP client for orchestrators: one request, bounded as a whole, and the proof of what was sent.

It is `requests` over connections that say when the first byte of the *request* leaves: DNS, connecting, TLS
and whatever is said to a proxy before come first, and prove nothing. The kind of exception proves nothing
either.
"""

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPResponse, IncompleteRead, UnknownProtocol
from http.cookiejar import DefaultCookiePolicy
from socket import IPPROTO_TCP, SHUT_RDWR, SO_KEEPALIVE, SOL_SOCKET, TCP_KEEPIDLE, TCP_NODELAY
from typing import Any, ClassVar

import requests
import structlog
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from observability import tracing
from orchestrators.base import Answer, Exchange, Request
from settings import Settings

log = structlog.get_logger("orchestrators")

_JSON = {"Content-Type": "application/json"}
_MOST_ANSWER_BYTES = 65_536
_SWITCHING_PROTOCOLS = 101
_CHECK_SECONDS = 0.1
# A worker that has been at it for longer looks again before the first byte whether the request is wanted.
_SURE_SECONDS = 0.2
_SOCKET_OPTIONS = [
    (IPPROTO_TCP, TCP_NODELAY, 1),
    (SOL_SOCKET, SO_KEEPALIVE, 1),
    (IPPROTO_TCP, TCP_KEEPIDLE, 30),
]


class DeadlinePassed(Exception):
    """Too late to send the first byte: another worker may hold the claim by now."""


@dataclass(slots=True)
class _Sending:
    """The request that this thread sends, as its connection reports of it."""

    deadline: float
    idle_seconds: float
    is_sent: bool = False
    is_cut: bool = False
    sock: Any = None

    def begin(self, sock: Any) -> None:
        if time.monotonic() >= self.deadline:
            raise DeadlinePassed
        self.sock, self.is_sent = sock, True

    @property
    def seconds_left(self) -> float:
        return max(0.05, self.deadline - time.monotonic())


_current = threading.local()


class _Head:
    """The lines of an answer's head, on their way to http.client."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.close = stream.close
        self.last_line = b""

    def readline(self, limit: int) -> bytes:
        self.last_line = self._stream.readline(limit)
        return self.last_line


class _FinalAnswer(HTTPResponse):
    """http.client's response, with a whole head, and interim answers read past (RFC 9110, section 15.2)."""

    def begin(self) -> None:
        stream: Any = self.fp
        head: Any = _Head(stream)
        self.fp = head
        try:
            super().begin()
            while 100 <= self.status < 200:
                if self.status == _SWITCHING_PROTOCOLS:  # which was not asked for
                    raise UnknownProtocol(str(self.status))
                # Without it, begin() would take the head for read.
                self.headers = self.msg = None  # type: ignore[assignment]
                super().begin()
        finally:
            if self.fp is head:
                self.fp = stream
        # http.client takes a head that broke off for whole.
        if head.last_line not in (b"\r\n", b"\n"):
            raise IncompleteRead(head.last_line)


class _TrackingConnection(HTTPConnection):
    """A connection that reports when the request begins to leave, and is not reused after a quiet time.

    Firewalls and load balancers forget quiet connections without a word.
    """

    response_class = _FinalAnswer
    _used_at = float("inf")

    def request(self, *args: Any, **options: Any) -> None:
        if self.sock is None:
            self.connect()
        _current.sending.begin(self.sock)
        super().request(*args, **options)

    def getresponse(self) -> Any:
        response = super().getresponse()
        self._used_at = time.monotonic()
        return response

    @property
    def is_connected(self) -> bool:
        quiet_seconds = time.monotonic() - self._used_at
        return super().is_connected and quiet_seconds < _current.sending.idle_seconds


class _TrackingTlsConnection(_TrackingConnection, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _TrackingConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TrackingTlsConnection


class _TrackingAdapter(HTTPAdapter):
    """requests' adapter, over such connections."""

    _pools: ClassVar = {"http": _Pool, "https": _TlsPool}

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, socket_options=_SOCKET_OPTIONS, **options)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*args, socket_options=_SOCKET_OPTIONS, **options)
        manager.pool_classes_by_scheme = self._pools
        return manager


class _Deadlines:
    """Ends exchanges at their deadline: `requests` limits each read, not the whole."""

    def __init__(self) -> None:
        self._by_id: dict[int, _Sending] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, sending: _Sending) -> None:
        with self._lock:
            self._by_id[id(sending)] = sending
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
                self._thread.start()

    def remove(self, sending: _Sending) -> None:
        with self._lock:
            self._by_id.pop(id(sending), None)

    def _run(self) -> None:
        while True:
            time.sleep(_CHECK_SECONDS)
            with self._lock:
                # Under the lock, so that no connection is cut that its thread has already given back.
                for sending in self._by_id.values():
                    if time.monotonic() >= sending.deadline and sending.sock is not None:
                        sending.is_cut = True
                        with suppress(OSError):
                            sending.sock.shutdown(SHUT_RDWR)


class OrchestratorClient:
    """Sends requests over kept-alive connections. One a process; threads share it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session = requests.Session()
        self._session.trust_env = False  # a .netrc would add credentials
        self._session.verify = settings.ca_file or True
        self._session.headers.clear()
        self._session.headers["User-Agent"] = "takeone"
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        adapter = _TrackingAdapter(pool_maxsize=settings.worker_concurrency, max_retries=0)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        self._deadlines = _Deadlines()

    def send(
        self,
        request: Request,
        still_wanted: Callable[[], bool],
        began: float | None = None,
        seconds: float | None = None,
    ) -> Exchange:
        """Send a request, and say what became of it. Never raises.

        Where nothing was sent it tries again a few times, as long as `still_wanted()`; so it does the first
        time if `began` is a while ago. The time limit, that of the settings or fewer `seconds`, counts from
        `began`, a `time.monotonic()`; from now without it.
        """
        limit = self._settings.orchestrator_timeout_seconds
        now = time.monotonic()
        since = now if began is None else began
        deadline = since + min(limit, seconds or limit)
        exchange = Exchange(is_sent=False)
        for attempt in range(self._settings.orchestrator_connect_tries):
            if attempt:
                time.sleep(random.uniform(0.05, 0.15) * 2**attempt)  # noqa: S311 - jitter
            is_sure = not attempt and now - since < _SURE_SECONDS
            if time.monotonic() >= deadline or not (is_sure or still_wanted()):
                break
            exchange = self._exchange(request, deadline)
            if exchange.is_sent:
                break
        return exchange

    def _exchange(self, request: Request, deadline: float) -> Exchange:
        sending = _Sending(deadline, self._settings.orchestrator_idle_seconds)
        _current.sending = sending
        self._deadlines.add(sending)
        try:
            return Exchange(True, self._send(request, sending))
        except Exception as error:  # whatever it was: what counts is whether anything was sent
            if not isinstance(error, requests.RequestException | DeadlinePassed):
                log.warning("orchestrator.client_failed", error=type(error).__name__)
            return Exchange(sending.is_sent)
        finally:
            self._deadlines.remove(sending)

    def _send(self, request: Request, sending: _Sending) -> Answer:
        use_proxies = self._settings.orchestrator_use_proxies
        connect = self._settings.orchestrator_connect_timeout_seconds
        with self._session.request(
            request.method,
            request.url,
            data=request.body or None,
            headers={**_JSON, **(request.headers or {}), **tracing.headers()},
            stream=True,
            allow_redirects=False,
            timeout=(min(connect, sending.seconds_left), sending.seconds_left),
            proxies=requests.utils.get_environ_proxies(request.url) if use_proxies else {},
        ) as response:
            content, is_whole = _read(response)
            return Answer(
                response.status_code, response.headers, content, is_whole and not sending.is_cut
            )


def _read(response: requests.Response) -> tuple[bytes, bool]:
    """Read the body up to a bound, and whether it came to its end or to the bound.

    The connection goes back to the pool only if nothing more can come on it.
    """
    raw, content = response.raw, b""
    try:
        while len(content) < _MOST_ANSWER_BYTES:
            piece = raw.read(_MOST_ANSWER_BYTES - len(content), decode_content=False)
            if not piece:
                break
            content += piece
    except Exception:  # whatever a broken body raises, it only means that the body is broken
        raw.close()
        return content, False
    both_lengths = "Content-Length" in response.headers and "Transfer-Encoding" in response.headers
    if len(content) >= _MOST_ANSWER_BYTES or both_lengths or response.status_code < 200:
        raw.close()
    else:
        raw.release_conn()
    return content, True
