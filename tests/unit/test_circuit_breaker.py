"""The circuit breaker, with a clock that the test sets."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from domain.claim import ClaimEvent
from orchestrators.base import Outcome
from tasks.circuit_breaker import CircuitBreaker

FAILURES, SECONDS = 3, 5.0
ACCEPTED = Outcome(ClaimEvent.ACCEPTED, None, 202)
REFUSED = Outcome(ClaimEvent.REFUSED, "refused", 500)
NOT_STARTED = Outcome(ClaimEvent.NOT_STARTED, "not_started")
LOST = Outcome(ClaimEvent.LOST, "outcome_unknown")
CIRCUIT_OPEN = Outcome(ClaimEvent.NOT_STARTED, "circuit_open")


class Circuit:
    """A breaker, its clock, and the number of posts that it let through."""

    def __init__(self, failures: int = FAILURES) -> None:
        self.now, self.posts = 100.0, 0
        self.breaker = CircuitBreaker(failures, SECONDS, lambda: self.now)

    def post(self, outcome: Outcome) -> Outcome:
        """Try a post that has this outcome if it is made."""

        def post() -> Outcome:
            self.posts += 1
            return outcome

        return self.breaker.guard(post)

    def open(self) -> None:
        """Open the circuit, and count posts from then on."""
        for _ in range(FAILURES):
            self.post(NOT_STARTED)
        assert self.breaker.is_open
        self.posts = 0


@pytest.fixture
def circuit() -> Circuit:
    return Circuit()


@pytest.mark.parametrize("unanswered", [NOT_STARTED, LOST])
def test_consecutive_posts_without_an_answer_open_the_circuit(
    unanswered: Outcome, circuit: Circuit
) -> None:
    assert [circuit.post(unanswered) for _ in range(FAILURES)] == [unanswered] * FAILURES
    assert circuit.post(ACCEPTED) == CIRCUIT_OPEN
    assert circuit.posts == FAILURES


@pytest.mark.parametrize("answered", [ACCEPTED, REFUSED])
def test_an_answer_resets_the_count(answered: Outcome, circuit: Circuit) -> None:
    for outcome in (NOT_STARTED, LOST, answered, LOST, NOT_STARTED):
        assert circuit.post(outcome) == outcome
    assert not circuit.breaker.is_open


def test_refusals_never_open_the_circuit(circuit: Circuit) -> None:
    assert [circuit.post(REFUSED) for _ in range(10 * FAILURES)] == [REFUSED] * 10 * FAILURES


def test_an_open_circuit_lets_one_probe_through_per_interval(circuit: Circuit) -> None:
    circuit.open()
    circuit.now += SECONDS - 0.01
    assert circuit.post(LOST) == CIRCUIT_OPEN
    circuit.now += 0.01
    assert [circuit.post(LOST) for _ in range(3)] == [LOST, CIRCUIT_OPEN, CIRCUIT_OPEN]
    circuit.now += SECONDS
    assert [circuit.post(LOST) for _ in range(3)] == [LOST, CIRCUIT_OPEN, CIRCUIT_OPEN]
    assert circuit.posts == 2


@pytest.mark.parametrize("answered", [ACCEPTED, REFUSED])
def test_an_answer_to_a_probe_closes_the_circuit(answered: Outcome, circuit: Circuit) -> None:
    circuit.open()
    circuit.now += SECONDS
    assert circuit.post(answered) == answered
    assert not circuit.breaker.is_open
    assert [circuit.post(NOT_STARTED) for _ in range(FAILURES - 1)] == [NOT_STARTED] * (
        FAILURES - 1
    )
    assert circuit.post(ACCEPTED) == ACCEPTED


def test_a_late_failure_does_not_postpone_the_probe(circuit: Circuit) -> None:
    def fail_while_open() -> Outcome:
        circuit.open()
        circuit.now += SECONDS - 1
        return LOST

    assert circuit.breaker.guard(fail_while_open) == LOST
    circuit.now += 1
    assert circuit.post(ACCEPTED) == ACCEPTED


def test_zero_failures_turn_the_breaker_off() -> None:
    circuit = Circuit(failures=0)
    assert [circuit.post(LOST) for _ in range(50)] == [LOST] * 50
    assert not circuit.breaker.is_open


def test_posts_are_concurrent_and_only_one_thread_gets_the_probe(circuit: Circuit) -> None:
    barrier = threading.Barrier(8)

    def post() -> Outcome:
        barrier.wait(5)  # breaks if posts are made one after the other
        return NOT_STARTED

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: circuit.breaker.guard(post), range(8))) == [NOT_STARTED] * 8
        circuit.now += SECONDS
        outcomes = list(pool.map(lambda _: circuit.post(LOST), range(8)))
    assert outcomes.count(LOST) == 1
    assert outcomes.count(CIRCUIT_OPEN) == 7
