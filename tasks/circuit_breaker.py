"""The circuit breaker: an orchestrator that is dead is noticed, and left alone for a moment.

Ours, because the packages do not fit: `circuitbreaker` lets every caller through when its time is up, and as
a context manager refuses none; `pybreaker` posts under one lock.
"""

import threading
import time
from collections.abc import Callable

from domain.claim import ClaimEvent
from orchestrators.base import Outcome

CIRCUIT_OPEN = "circuit_open"

# A refusal is an answer: an orchestrator that refuses is alive.
_DEAD = frozenset({ClaimEvent.NOT_STARTED, ClaimEvent.LOST})


class CircuitBreaker:
    """Counts posts in a row that got no answer, and after `failures` of them posts nothing for `seconds`.

    Then one post is let through every `seconds`, as a probe; the first answer, of whatever kind and to
    whichever post, closes the circuit. `failures` of 0: never opens. One a process; threads share it.
    """

    def __init__(
        self, failures: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._failures, self._seconds, self._clock = failures, seconds, clock
        self._in_a_row = 0
        self._next_probe = 0.0
        self._lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether posts fail without being tried."""
        return 0 < self._failures <= self._in_a_row

    def guard(self, post: Callable[[], Outcome]) -> Outcome:
        """Post if the circuit lets it, and return the outcome; not started, `circuit_open`, if not."""
        if self.is_open and not self._may_probe():
            return Outcome(ClaimEvent.NOT_STARTED, CIRCUIT_OPEN)
        outcome = post()
        with self._lock:
            self._in_a_row = self._in_a_row + 1 if outcome.event in _DEAD else 0
            if self._in_a_row == self._failures:
                self._next_probe = self._clock() + self._seconds
        return outcome

    def _may_probe(self) -> bool:
        with self._lock:
            now = self._clock()
            if now < self._next_probe:
                return False
            self._next_probe = now + self._seconds
            return True
