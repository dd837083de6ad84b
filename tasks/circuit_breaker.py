"""The circuit breaker: a worker stops posting to an orchestrator that does not answer, for some seconds.

The packages do not fit: `circuitbreaker` lets every caller through once its time is up, and refuses none as a
context manager; `pybreaker` posts under one lock.
"""

import threading
import time
from collections.abc import Callable

from domain.claim import ClaimEvent
from orchestrators.base import Outcome

CIRCUIT_OPEN = "circuit_open"

# A refusal is an answer, and closes the circuit.
_UNANSWERED = frozenset({ClaimEvent.NOT_STARTED, ClaimEvent.LOST})


class CircuitBreaker:
    """Opens after `failures` consecutive posts without an answer, and then lets nothing through for `seconds`.

    After that, one post per `seconds` goes through as a probe. Any answer to any post closes the circuit.
    With `failures` of 0 it never opens. A process has one breaker for all its threads.
    """

    def __init__(
        self, failures: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._failures, self._seconds, self._clock = failures, seconds, clock
        self._unanswered = 0
        self._next_probe = 0.0
        self._lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether posts fail without being tried."""
        return 0 < self._failures <= self._unanswered

    def guard(self, post: Callable[[], Outcome]) -> Outcome:
        """Post and return the outcome; if the circuit is open, NOT_STARTED with the reason `circuit_open`."""
        with self._lock:
            if self.is_open:
                if self._clock() < self._next_probe:
                    return Outcome(ClaimEvent.NOT_STARTED, CIRCUIT_OPEN)
                self._next_probe = self._clock() + self._seconds
        outcome = post()
        with self._lock:
            self._unanswered = self._unanswered + 1 if outcome.event in _UNANSWERED else 0
            if self._unanswered == self._failures:
                self._next_probe = self._clock() + self._seconds
        return outcome
