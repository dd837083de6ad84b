"""The queues that messages ride to, as whoever takes from them sees them."""

from collections.abc import Sequence

from store.link import Link

# BRPOP takes 0 for "for ever", and Redis before 7 takes 0.001 for 0.
_SHORTEST_WAIT_SECONDS = 0.002


class Queues:
    """Takes messages from several queues in turn: from each that has one, before the first one again."""

    def __init__(self, link: Link, names: Sequence[str]) -> None:
        self._link = link
        self._names = tuple(names)
        self._places = {name.encode(): place for place, name in enumerate(names)}
        # Threads that take at the same moment may begin with the same queue: they all go on from there.
        self._first = 0

    def take(self, wait_seconds: float = 0) -> bytes | None:
        """The next message; None if there is none, and comes none within `wait_seconds`.

        The wait has to be shorter than the store's timeout. Raises `StoreUnavailable`: a message may then
        be lost.
        """
        names, first = self._names, self._first
        wait = max(_SHORTEST_WAIT_SECONDS, wait_seconds)
        (taken,) = self._link.call(("BRPOP", *names[first:], *names[:first], wait))
        if taken is None:
            return None
        name, message = taken
        self._first = (self._places[name] + 1) % len(names)
        return bytes(message)
