"""The stub orchestrator: accepts dispatches as fast as Python can, in a process of its own.

    PORT=9000 python -m bench.orchestrator

`POST /dispatches` is answered 202 after the current delay. `POST /delay?<seconds>` sets it, and
`POST /reset?<seconds>` also resets the counts; `GET /stats` returns them: posts, distinct Idempotency-Keys,
how many were in flight at most and on average, how long a dispatch took. It uses no HTTP library, because it
shares the cores with what is measured.
"""

import asyncio
import json
import os
import re
import time
from dataclasses import dataclass, field

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_KEY = re.compile(rb"idempotency-key: *(\S+)", re.IGNORECASE)
_ACCEPTED = (
    b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
)


@dataclass
class Count:
    """The counts since the last reset. Times are in seconds."""

    delay: float = 0.0
    posts: int = 0
    answered: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    keys: set[bytes] = field(default_factory=set)
    since: float = field(default_factory=time.monotonic)
    flight_seconds: float = 0.0
    seconds_inside: float = 0.0
    _changed: float = field(default_factory=time.monotonic)

    def arrive(self, key: bytes) -> float:
        """Count a dispatch; return its time of arrival."""
        now = self._pass_time()
        self.posts += 1
        self.keys.add(key)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        return now

    def leave(self, arrived: float) -> None:
        """Count the answer to a dispatch that arrived at `arrived`."""
        self.seconds_inside += self._pass_time() - arrived
        self.answered += 1
        self.in_flight -= 1

    def _pass_time(self) -> float:
        now = time.monotonic()
        self.flight_seconds += self.in_flight * (now - self._changed)
        self._changed = now
        return now

    def report(self) -> dict[str, float]:
        """What `/stats` answers."""
        seconds = self._pass_time() - self.since
        return {
            "posts": self.posts,
            "distinct": len(self.keys),
            "in_flight": self.in_flight,
            "most_in_flight": self.most_in_flight,
            "mean_in_flight": self.flight_seconds / seconds,
            "mean_seconds": self.seconds_inside / self.answered if self.answered else 0.0,
            "answered_per_second": self.answered / seconds,
        }


_count = Count()


class Connection(asyncio.Protocol):
    """One kept-alive connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport for the answers."""
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._received = transport, b""

    def data_received(self, data: bytes) -> None:
        """Answer each complete request."""
        self._received += data
        while (end := self._end_of_request()) is not None:
            request, self._received = self._received[:end], self._received[end:]
            self._answer(request)

    def _end_of_request(self) -> int | None:
        head = self._received.find(b"\r\n\r\n")
        if head < 0:
            return None
        length = _LENGTH.search(self._received, 0, head)
        end = head + 4 + (int(length[1]) if length else 0)
        return end if len(self._received) >= end else None

    def _answer(self, request: bytes) -> None:
        global _count
        if request.startswith(b"POST /dispatches"):
            self._take_dispatch(request)
            return
        if request.startswith(b"POST /reset?"):
            _count = Count(float(request[12:].split(b" ", 1)[0]))
        if request.startswith(b"POST /delay?"):
            _count.delay = float(request[12:].split(b" ", 1)[0])
        body = json.dumps(_count.report()).encode()
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    def _take_dispatch(self, request: bytes) -> None:
        key, count = _KEY.search(request), _count
        arrived = count.arrive(key[1] if key else b"")
        if count.delay:
            loop = asyncio.get_running_loop()
            loop.call_later(count.delay, self._accept, count, arrived)
        else:
            self._accept(count, arrived)

    def _accept(self, count: Count, arrived: float) -> None:
        count.leave(arrived)
        self._transport.write(_ACCEPTED)


async def serve(port: int) -> None:
    """Listen until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(os.environ["PORT"])))
