"""How many callers may wait in this process, and how many of them for one user.

A thread waits for each of them, and goes on waiting when its caller hangs up: WSGI has no way to tell. So
the bounds hold what one user can take from others, whatever that user's callers do.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from domain.errors import ServiceUnavailable


class NoWaitSlot(ServiceUnavailable):
    """As many callers wait as may, in this process or for this user."""


class Wait(Enum):
    DISPATCH = "dispatch"
    LONG_POLL = "long_poll"


class WaitSlots:
    """`most` callers may wait at once, and half of them in long polls; one user has half of each."""

    def __init__(self, most: int) -> None:
        self._most = {Wait.DISPATCH: most, Wait.LONG_POLL: most // 2}
        self._taken: Counter[tuple[Wait, str]] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def taken(self, kind: Wait, user: str) -> Iterator[None]:
        """A slot of this user's. Raises `NoWaitSlot` if none is free."""
        most = self._most[kind]
        with self._lock:
            of_kind = sum(number for (each, _), number in self._taken.items() if each is kind)
            is_full = self._taken.total() >= self._most[Wait.DISPATCH] or of_kind >= most
            if is_full or self._taken[kind, user] >= (most + 1) // 2:
                raise NoWaitSlot
            self._taken[kind, user] += 1
        try:
            yield
        finally:
            with self._lock:
                self._taken[kind, user] -= 1
                if not self._taken[kind, user]:
                    del self._taken[kind, user]
