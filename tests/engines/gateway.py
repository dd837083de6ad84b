"""A gateway between Take One and an engine: it forwards requests, and treats the next start as it is told."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

from devstack.ports import HOST
from tests.support.behaviours import Behaviour, Exchange, Request, answer, reset
from tests.support.orchestrator import StubOrchestrator

FORWARD_SECONDS = 60.0
_OF_ONE_CONNECTION = {"connection", "content-length", "keep-alive", "transfer-encoding"}


class Gateway(StubOrchestrator):
    """Stands before the engine at `engine_url`; `is_start` tells a request that starts a run from all others.

    `requests` records what came, with the status of the engine's own answer in `answered`. Where the engine
    does not answer, it says 502, as gateways do.
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
        """The requests that start a run, in the order of their arrival."""
        return [request for request in list(self.requests) if self._is_start(request)]

    def drop_next_answers(self, count: int = 1) -> None:
        """Forward the next starts, and reset the connection once the engine has answered."""
        self._upcoming.extend([self._drop_answer] * count)

    def hold_next_start(self, seconds: float) -> None:
        """Forward the next start after so many seconds, also if its caller has given up by then."""

        def hold(exchange: Exchange) -> None:
            if not exchange.stopping.wait(seconds):
                self._forward(exchange)

        self._upcoming.append(hold)

    def answer_next_start(self, status: int) -> None:
        """Answer the next start with a page of the gateway's own; the engine never sees it."""
        page = f"<html><h1>{status} from the gateway</h1></html>".encode()
        self._upcoming.append(answer(status, page, {"Content-Type": "text/html"}))

    def behaviour_for(self, request: Request) -> Behaviour:
        """What was told for the next start; all else is forwarded."""
        with self.lock:
            if self._upcoming and self._is_start(request):
                return self._upcoming.popleft()
        return self._forward

    def reset_behaviour(self) -> None:
        """Forget what was told and recorded; forward everything again."""
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
            connection.request(
                request.method, request.path, request.body, _passed_on(request.headers)
            )
            response = connection.getresponse()
            body = response.read()
        except (OSError, HTTPException):
            return 502, b"<html><h1>502 Bad Gateway</h1></html>", {"Content-Type": "text/html"}
        finally:
            connection.close()
        request.answered = response.status
        return response.status, body, _passed_on(dict(response.getheaders()))


def _passed_on(headers: dict[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in headers.items() if name.lower() not in _OF_ONE_CONNECTION
    }
