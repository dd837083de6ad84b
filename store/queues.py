"""The queues that messages ride to, as whoever takes from them sees them."""

from collections.abc import Sequence
from pathlib import Path

from store.link import Link, Script

_TAKE = Script.load(Path(__file__).with_name("take.lua"))


class Queues:
    """Takes messages from several queues in turn: from each that has one, before the first one again."""

    def __init__(self, link: Link, names: Sequence[str]) -> None:
        self._link = link
        self._names = tuple(names)
        # Threads that take at the same moment may begin with the same queue: they all go on from there.
        self._first = 0

    def take(self) -> bytes | None:
        """The next message, None if there is none. Raises `StoreUnavailable`: one may then be lost."""
        first = self._first
        taken = self._link.run(_TAKE, [*self._names[first:], *self._names[:first]], [])
        if taken is None:
            return None
        place, message = taken
        self._first = (first + place) % len(self._names)
        return bytes(message)
