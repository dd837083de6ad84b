"""The dispatch queues, as a worker's threads take messages from them."""

from dataclasses import dataclass

from redis import Redis

from store.client import redis_errors


@dataclass(slots=True)
class MessageQueue:
    """Takes messages from several queues in turn. Every method raises `StoreUnavailable`.

    `wait_seconds` is how long to wait for a message: shorter than the client's timeout, and at least 2 ms
    (Redis before 7 takes less for "for ever"). While `is_paused`, only the last queue is read.
    """

    client: Redis
    names: list[str]
    wait_seconds: float
    is_paused: bool = False
    # The next queue to read. Threads may use the same one at once, which does no harm.
    _first: int = 0

    def take(self) -> bytes | None:
        """The next message; None if none comes. If this raises, a message may be lost."""
        names, first = self.names, self._first
        wanted = names[-1:] if self.is_paused else (*names[first:], *names[:first])
        with redis_errors("BRPOP"):
            taken = self.client.brpop(wanted, self.wait_seconds)
        if taken is None:
            return None
        name, message = taken
        self._first = (self.names.index(name.decode()) + 1) % len(names)
        return bytes(message)
