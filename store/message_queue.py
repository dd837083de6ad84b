"""The dispatch queues, as a worker's threads take messages from them."""

from collections.abc import Callable
from dataclasses import dataclass

from redis import Redis

from store import keys
from store.client import redis_errors


@dataclass(slots=True)
class MessageQueue:
    """Takes messages from several queues in turn: from each that has one, before the first one again.

    `wait_seconds` is how long to wait for a message; it must be shorter than the client's timeout, and not
    below 2 ms (Redis before 7 takes less for "for ever"). While `is_paused`, only the last queue is taken from.
    """

    client: Redis
    names: list[str]
    wait_seconds: float
    is_paused: Callable[[], bool]
    # Threads that take at the same moment may begin with the same queue: they all go on from there.
    _first: int = 0

    def take(self) -> bytes | None:
        """The next message; None if none comes. Raises `StoreUnavailable`: a message may then be lost."""
        names, first = self.names, self._first
        wanted = names[-1:] if self.is_paused() else (*names[first:], *names[:first])
        with redis_errors("BRPOP"):
            taken = self.client.brpop(wanted, self.wait_seconds)
        if taken is None:
            return None
        name, message = taken
        self._first = (self.names.index(name.decode()) + 1) % len(names)
        return bytes(message)

    def put_aside(self, message: bytes) -> None:
        """Keep a message for a release that can read it. Raises `StoreUnavailable`."""
        with redis_errors("LPUSH"):
            self.client.lpush(keys.PUT_ASIDE, message)

    def take_aside(self) -> bytes | None:
        """The message that was put aside first; None if none was. Raises `StoreUnavailable`."""
        with redis_errors("RPOP"):
            message: bytes | None = self.client.rpop(keys.PUT_ASIDE)
        return message
