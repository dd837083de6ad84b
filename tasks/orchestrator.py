"""The orchestrator's client: one POST, bounded as a whole, and what may be concluded from how it went.

Only whether bytes of the request left tells "not started" from "unknown", so the connection itself says
when they do (`_Exchange.sending`); the kind of exception is no witness.
"""

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPResponse as AnswerReader
from http.client import IncompleteRead
from socket import SHUT_RDWR
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.response import HTTPResponse

from domain.claim import ClaimEvent
from domain.dispatching import OUTCOME_UNKNOWN

# A gateway that gave up on the orchestrator does not know what the orchestrator did.
_ANSWERS_NOTHING = frozenset({408, 502, 504})
_MOST_ANSWER_BYTES = 65_536
_WATCH_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class PostOutcome:
    """What came of a post: the claim's event, the reason shown to callers, the answer's status."""

    event: ClaimEvent
    reason: str | None = None
    http_status: int | None = None


class DeadlinePassed(Exception):
    """Too late to begin sending: somebody else may already hold the claim."""


@dataclass(slots=True)
class _Exchange:
    deadline: float
    sent: bool = False
    cut: bool = False
    sock: Any = field(default=None, repr=False)

    def sending(self, sock: Any) -> None:
        """Called with the connected socket, right before bytes of the request leave."""
        if not self.sent and time.monotonic() >= self.deadline:
            raise DeadlinePassed
        self.sock, self.sent = sock, True

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


class _WholeHeadReader(AnswerReader):
    # http.client takes a head that broke off for a whole one.
    def begin(self) -> None:
        stream: Any = self.fp
        head: Any = _Head(stream)
        self.fp = head
        try:
            super().begin()
        finally:
            if self.fp is head:
                self.fp = stream
        if head.last_line not in (b"\r\n", b"\n"):
            raise IncompleteRead(head.last_line)


class _Witness(HTTPConnection):
    response_class = _WholeHeadReader
    _pieces: list[bytes] | None = None

    def request(self, *args: Any, **options: Any) -> None:
        # Head and body leave together, in one call and one packet.
        pieces: list[bytes] = []
        self._pieces = pieces
        try:
            super().request(*args, **options)
        finally:
            self._pieces = None
        self.send(b"".join(pieces))

    def send(self, data: Any) -> None:
        if self._pieces is not None:
            self._pieces.append(data)
            return
        if self.sock is None:
            self.connect()
        _current.exchange.sending(self.sock)
        super().send(data)


class _SecureWitness(_Witness, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Witness


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureWitness


class _WitnessAdapter(HTTPAdapter):
    """Spares, too, what would be found out anew for each request, and what nobody reads of an answer."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._pools: dict[str | None, Any] = {}
        self._paths: dict[str | None, str] = {}

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        if proxies:
            return super().get_connection_with_tls_context(request, verify, proxies, cert)
        pool = self._pools.get(request.url)
        if pool is None:
            pool = super().get_connection_with_tls_context(request, verify, proxies, cert)
            self._pools[request.url] = pool
        return pool

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        if proxies:
            return super().request_url(request, proxies)
        path = self._paths.get(request.url)
        if path is None:
            path = self._paths[request.url] = super().request_url(request, proxies)
        return path

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        response = requests.Response()
        response.request, response.raw, response.status_code = req, resp, resp.status
        return response

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self._instrument(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        self._instrument(manager)
        return manager

    @staticmethod
    def _instrument(manager: PoolManager) -> None:
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}


class _Watchdog:
    """Ends exchanges at their deadline: `requests` limits each read, not the whole."""

    def __init__(self) -> None:
        self._by_id: dict[int, _Exchange] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def watch(self, exchange: _Exchange) -> None:
        with self._lock:
            self._by_id[id(exchange)] = exchange
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
                self._thread.start()

    def forget(self, exchange: _Exchange) -> None:
        with self._lock:
            self._by_id.pop(id(exchange), None)

    def _run(self) -> None:
        while True:
            time.sleep(_WATCH_SECONDS)
            with self._lock:
                # Under the lock, so that no connection is cut that its thread has already given back.
                for exchange in self._by_id.values():
                    if time.monotonic() >= exchange.deadline and exchange.sock is not None:
                        exchange.cut = True
                        with suppress(OSError):
                            exchange.sock.shutdown(SHUT_RDWR)


class OrchestratorClient:
    """Posts JSON over kept-alive connections. One a process; threads share it."""

    def __init__(
        self,
        *,
        timeout_seconds: float,
        connect_timeout_seconds: float,
        connect_tries: int,
        connections: int,
        use_proxies: bool = False,
        ca_file: str = "",
    ) -> None:
        self._timeout = timeout_seconds
        self._connect_timeout = connect_timeout_seconds
        self._tries = connect_tries
        self._trusted: str | bool = ca_file or True
        self._session = requests.Session()
        self._session.trust_env = use_proxies
        self._session.headers = CaseInsensitiveDict({"User-Agent": "takeone"})
        self._adapter = _WitnessAdapter(pool_maxsize=connections, max_retries=0)
        self._session.mount("http://", self._adapter)
        self._session.mount("https://", self._adapter)
        self._watchdog = _Watchdog()
        self._templates: dict[str, requests.PreparedRequest] = {}

    def post(
        self,
        url: str,
        body: bytes,
        headers: dict[str, str],
        still_wanted: Callable[[], bool],
        began: float | None = None,
    ) -> PostOutcome:
        """Post `body` and say what may be concluded. Never raises for anything the network does.

        Where nothing was sent it tries again a few times, as long as `still_wanted()`. The time limit
        counts from `began`, a `time.monotonic()`; from now without it.
        """
        deadline = (time.monotonic() if began is None else began) + self._timeout
        outcome = PostOutcome(ClaimEvent.NOT_STARTED, ClaimEvent.NOT_STARTED)
        for attempt in range(self._tries):
            if attempt:
                time.sleep(random.uniform(0.05, 0.15) * 2**attempt)  # noqa: S311 - jitter
                if time.monotonic() >= deadline or not still_wanted():
                    break
            outcome = self._exchange(url, body, headers, deadline)
            if outcome.event is not ClaimEvent.NOT_STARTED:
                break
        return outcome

    def _exchange(
        self, url: str, body: bytes, headers: dict[str, str], deadline: float
    ) -> PostOutcome:
        exchange = _current.exchange = _Exchange(deadline)
        self._watchdog.watch(exchange)
        try:
            response = self._send(self._request(url, body, headers), exchange)
            return self._conclude(response, exchange)
        except (requests.RequestException, DeadlinePassed, OSError):
            if exchange.sent:
                return PostOutcome(ClaimEvent.LOST, OUTCOME_UNKNOWN)
            return PostOutcome(ClaimEvent.NOT_STARTED, ClaimEvent.NOT_STARTED)
        finally:
            self._watchdog.forget(exchange)

    def _request(self, url: str, body: bytes, headers: dict[str, str]) -> requests.PreparedRequest:
        # Preparing costs more than sending; all that differs between two posts is set by hand.
        template = self._templates.get(url)
        if template is None:
            blank = requests.Request("POST", url, headers={"Content-Type": "application/json"})
            template = self._templates[url] = self._session.prepare_request(blank)
        request = requests.PreparedRequest()
        request.method, request.url, request.body = template.method, template.url, body
        length = {"Content-Length": str(len(body))}
        # A plain dict: no header of ours is looked for under another spelling.
        request.headers = {**template.headers, **headers, **length}  # type: ignore[assignment]
        return request

    def _send(self, request: requests.PreparedRequest, exchange: _Exchange) -> requests.Response:
        proxies = (
            requests.utils.get_environ_proxies(request.url or "") if self._session.trust_env else {}
        )
        return self._adapter.send(
            request,
            stream=True,
            timeout=(min(self._connect_timeout, exchange.seconds_left), exchange.seconds_left),
            verify=self._trusted,
            proxies=proxies,
        )

    @staticmethod
    def _conclude(response: requests.Response, exchange: _Exchange) -> PostOutcome:
        status = response.status_code
        whole = _read_whole(response.raw) and not exchange.cut
        if 200 <= status < 300:
            return PostOutcome(ClaimEvent.ACCEPTED, None, status)
        if status in _ANSWERS_NOTHING or not whole:
            return PostOutcome(ClaimEvent.LOST, OUTCOME_UNKNOWN, status)
        return PostOutcome(ClaimEvent.REFUSED, ClaimEvent.REFUSED, status)


def _read_whole(raw: HTTPResponse) -> bool:
    """Read the answer's body up to a bound, so that the connection can be kept.

    Returns whether it came to its end or to the bound; a body that broke off did neither. What it says is
    not looked at.
    """
    try:
        left = _MOST_ANSWER_BYTES
        while left and (piece := raw.read(left, decode_content=False)):
            left -= len(piece)
    except Exception:  # whatever a broken body raises, it only means that the body is broken
        raw.close()
        return False
    if left:
        raw.release_conn()
    else:
        raw.close()
    return True
