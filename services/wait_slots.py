"""How many callers may wait in this process, in total and per user.

Each waiting caller holds a thread, even after hanging up: WSGI cannot tell. The limits keep one user from
taking all threads.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from domain.errors import ServiceUnavailable


class NoWaitSlot(ServiceUnavailable):
    """All wait slots of this process, or of this user, are taken."""


class Wait(Enum):
    DISPATCH = "dispatch"
    LONG_POLL = "long_poll"


class WaitSlots:
    """`most` callers may wait at once, half of them in long polls; one user may have half of either."""

    def __init__(self, most: int) -> None:
        self._most = {Wait.DISPATCH: most, Wait.LONG_POLL: most // 2}
        self._taken: Counter[tuple[Wait, str]] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def taken(self, kind: Wait, user: str) -> Iterator[None]:
        """Hold a slot for this user. Raises `NoWaitSlot` if none is free."""
        most = self._most[kind]
        with self._lock:
            of_kind = sum(number for (other, _), number in self._taken.items() if other is kind)
            is_full = self._taken.total() >= self._most[Wait.DISPATCH] or of_kind >= most
            if is_full or self._taken[kind, user] >= (most + 1) // 2:
                raise NoWaitSlot
            self._taken[kind, user] += 1
        try:
            yield
        finally:
            with self._lock:
                self._taken -= {(kind, user): 1}  # keeps only users who wait
