"""The HTTP client for orchestrators: one request, bounded as a whole, with proof of what was sent."""

import random
import time
from collections.abc import Callable
from http.cookiejar import DefaultCookiePolicy

import requests
import structlog

from observability import tracing
from orchestrators.base import Answer, Exchange, Request
from orchestrators.bounded_session import BoundedSession, sending
from settings import Settings

log = structlog.get_logger("orchestrators")

_MAX_BYTES = 65_536
# A request that began longer ago than this is checked again before its first byte.
_RECENT_SECONDS = 0.2


class OrchestratorClient:
    """Sends requests on kept-alive connections. One per process; threads share it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session = BoundedSession(settings.ca_file, settings.worker_concurrency)
        self._session.headers.clear()
        self._session.headers["User-Agent"] = "takeone"
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))

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
        sending.end_by(deadline, self._settings.orchestrator_idle_seconds)
        try:
            return Exchange(True, self._answer(request, max(0.05, sending.seconds_left)))
        except Exception as error:  # whatever it was: all that counts is whether anything was sent
            if not isinstance(error, requests.RequestException):
                log.warning("orchestrator.client_failed", error=type(error).__name__)
            return Exchange(sending.is_sent)

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
