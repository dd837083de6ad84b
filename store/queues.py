"""The queues that messages ride to, as whoever takes from them sees them."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path

from store.link import Link, Script

_TAKE = Script.load(Path(__file__).with_name("take.lua"))


class Queues:
    """Takes messages from several queues, each time beginning with the next one, so that all are served."""

    def __init__(self, link: Link, names: Sequence[str]) -> None:
        self._link = link
        self._names = tuple(names)
        self._turns = count()

    def take(self) -> bytes | None:
        """The next message, None if there is none. Raises `StoreUnavailable`: one may then be lost."""
        first = next(self._turns) % len(self._names)
        message: bytes | None = self._link.run(
            _TAKE, [*self._names[first:], *self._names[:first]], []
        )
        return message
