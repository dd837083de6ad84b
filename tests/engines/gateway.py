"""A gateway between Take One and an engine: forwards requests, and can spoil the next starts."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

from devstack.ports import HOST
from tests.support.behaviours import Behaviour, Exchange, Request, answer, reset
from tests.support.orchestrator import StubOrchestrator

FORWARD_SECONDS = 60.0
_HOP_BY_HOP = {"connection", "content-length", "keep-alive", "transfer-encoding"}


class Gateway(StubOrchestrator):
    """In front of the engine at `engine_url`; `is_start` recognises requests that start a run.

    `requests` records all requests, with the status of the engine's own answer in `answered`. If the engine
    does not answer, the gateway answers 502.
    """

    def __init__(self, engine_url: str, is_start: Callable[[Request], bool]) -> None:
        super().__init__()
        self.engine_url = engine_url
        self._is_start = is_start
        self._upcoming: deque[Behaviour] = deque()

    @property
    def url(self) -> str:
        """The base URL to use in place of the engine's."""
        return f"http://{HOST}:{self.port}"

    @property
    def starts(self) -> list[Request]:
        """The requests that start a run, in the order of arrival."""
        return [request for request in list(self.requests) if self._is_start(request)]

    def drop_next_answers(self, count: int = 1) -> None:
        """Forward the next starts, and reset the connection once the engine has answered."""
        self._upcoming.extend([self._drop_answer] * count)

    def hold_next_start(self, seconds: float) -> None:
        """Forward the next start after `seconds`, even if its caller has given up."""

        def hold(exchange: Exchange) -> None:
            if not exchange.stopping.wait(seconds):
                self._forward(exchange)

        self._upcoming.append(hold)

    def answer_next_start(self, status: int) -> None:
        """Answer the next start with an HTML page; the engine does not get it."""
        page = f"<html><h1>{status} from the gateway</h1></html>".encode()
        self._upcoming.append(answer(status, page, {"Content-Type": "text/html"}))

    def behaviour_for(self, request: Request) -> Behaviour:
        """The behaviour set for the next start; everything else is forwarded."""
        with self.lock:
            if self._upcoming and self._is_start(request):
                return self._upcoming.popleft()
        return self._forward

    def reset_behaviour(self) -> None:
        """Forget all behaviours and requests; forward everything again."""
        super().reset_behaviour()
        self._upcoming.clear()

    def _forward(self, exchange: Exchange) -> None:
        status, body, headers = self._ask_engine(exchange.request)
        with suppress(OSError):  # the caller may have given up
            exchange.answer(status, body, headers)

    def _drop_answer(self, exchange: Exchange) -> None:
        self._ask_engine(exchange.request)
        reset(exchange.connection)

    def _ask_engine(self, request: Request) -> tuple[int, bytes, dict[str, str]]:
        connection = HTTPConnection(urlsplit(self.engine_url).netloc, timeout=FORWARD_SECONDS)
        try:
            headers = _end_to_end(request.headers)
            connection.request(request.method, request.path, request.body, headers)
            response = connection.getresponse()
            body = response.read()
        except (OSError, HTTPException):
            return 502, b"<html><h1>502 Bad Gateway</h1></html>", {"Content-Type": "text/html"}
        finally:
            connection.close()
        request.answered = response.status
        return response.status, body, _end_to_end(dict(response.getheaders()))


def _end_to_end(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP}
