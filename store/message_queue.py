"""The dispatch queues, as a worker's threads take messages from them."""

from collections.abc import Callable, Sequence

from redis import Redis

from store import keys
from store.client import redis_errors


class MessageQueue:
    """Takes messages from several queues in turn: from each that has one, before the first one again.

    `wait_seconds` is how long to wait for a message; it must be shorter than the client's timeout, and not
    below 2 ms (Redis before 7 takes less for "for ever"). While `is_paused`, only the last queue is taken from.
    """

    def __init__(
        self,
        client: Redis,
        names: Sequence[str],
        wait_seconds: float,
        is_paused: Callable[[], bool],
    ) -> None:
        self._client = client
        self._names = tuple(names)
        self._wait_seconds = wait_seconds
        self._is_paused = is_paused
        # Threads that take at the same moment may begin with the same queue: they all go on from there.
        self._first = 0

    def take(self) -> bytes | None:
        """The next message; None if none comes. Raises `StoreUnavailable`: a message may then be lost."""
        names, first = self._names, self._first
        wanted = names[-1:] if self._is_paused() else (*names[first:], *names[:first])
        with redis_errors("BRPOP"):
            taken = self._client.brpop(wanted, self._wait_seconds)
        if taken is None:
            return None
        name, message = taken
        self._first = (self._names.index(name.decode()) + 1) % len(names)
        return bytes(message)

    def put_aside(self, message: bytes) -> None:
        """Keep a message for a release that can read it. Raises `StoreUnavailable`."""
        with redis_errors("LPUSH"):
            self._client.lpush(keys.PUT_ASIDE, message)

    def take_aside(self) -> bytes | None:
        """The message that was put aside first; None if none was. Raises `StoreUnavailable`."""
        with redis_errors("RPOP"):
            message: bytes | None = self._client.rpop(keys.PUT_ASIDE)
        return message
