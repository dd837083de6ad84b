"""The circuit breaker, with a clock of the test's own."""

import threading
from collections.abc import Callable
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
SPARED = Outcome(ClaimEvent.NOT_STARTED, "circuit_open")


class Rig:
    """A breaker, its clock, and how many posts it let through."""

    def __init__(self, failures: int = FAILURES) -> None:
        self.now, self.posts = 100.0, 0
        self.breaker = CircuitBreaker(failures, SECONDS, lambda: self.now)

    def post(self, outcome: Outcome) -> Outcome:
        return self.breaker.guard(self.posting(outcome))

    def posting(self, outcome: Outcome) -> Callable[[], Outcome]:
        def post() -> Outcome:
            self.posts += 1
            return outcome

        return post

    def opened(self) -> "Rig":
        for _ in range(FAILURES):
            self.post(NOT_STARTED)
        assert self.breaker.is_open
        self.posts = 0
        return self


@pytest.mark.parametrize("dead", [NOT_STARTED, LOST])
def test_after_so_many_posts_without_an_answer_in_a_row_the_next_fails_without_being_tried(
    dead: Outcome,
) -> None:
    rig = Rig()
    assert [rig.post(dead) for _ in range(FAILURES)] == [dead] * FAILURES
    assert rig.post(ACCEPTED) == SPARED
    assert rig.posts == FAILURES


@pytest.mark.parametrize("alive", [ACCEPTED, REFUSED])
def test_an_answer_of_any_kind_begins_the_count_anew(alive: Outcome) -> None:
    rig = Rig()
    for outcome in (NOT_STARTED, LOST, alive, LOST, NOT_STARTED):
        assert rig.post(outcome) == outcome
    assert not rig.breaker.is_open


def test_refusals_never_open_the_circuit() -> None:
    rig = Rig()
    assert [rig.post(REFUSED) for _ in range(10 * FAILURES)] == [REFUSED] * 10 * FAILURES


def test_one_probe_is_let_through_each_time_the_time_is_up() -> None:
    rig = Rig().opened()
    rig.now += SECONDS - 0.01
    assert rig.post(LOST) == SPARED
    rig.now += 0.01
    assert [rig.post(LOST) for _ in range(3)] == [LOST, SPARED, SPARED]
    rig.now += SECONDS
    assert [rig.post(LOST) for _ in range(3)] == [LOST, SPARED, SPARED]
    assert rig.posts == 2


@pytest.mark.parametrize("alive", [ACCEPTED, REFUSED])
def test_a_probe_that_is_answered_closes_the_circuit(alive: Outcome) -> None:
    rig = Rig().opened()
    rig.now += SECONDS
    assert rig.post(alive) == alive
    assert not rig.breaker.is_open
    assert [rig.post(NOT_STARTED) for _ in range(FAILURES - 1)] == [NOT_STARTED] * (FAILURES - 1)
    assert rig.post(ACCEPTED) == ACCEPTED


def test_a_failure_that_comes_late_does_not_put_off_the_probe() -> None:
    rig = Rig()

    def fails_when_the_circuit_is_long_open() -> Outcome:
        rig.opened()
        rig.now += SECONDS - 1
        return LOST

    assert rig.breaker.guard(fails_when_the_circuit_is_long_open) == LOST
    rig.now += 1
    assert rig.post(ACCEPTED) == ACCEPTED


def test_zero_failures_turn_it_off() -> None:
    rig = Rig(failures=0)
    assert [rig.post(LOST) for _ in range(50)] == [LOST] * 50
    assert not rig.breaker.is_open


def test_posts_go_on_side_by_side_and_only_one_thread_gets_the_probe() -> None:
    together = threading.Barrier(8)

    def meet() -> Outcome:
        together.wait(5)  # breaks if the posts were made one after the other
        return NOT_STARTED

    rig = Rig()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: rig.breaker.guard(meet), range(8))) == [NOT_STARTED] * 8
        rig.now += SECONDS
        outcomes = list(pool.map(lambda _: rig.post(LOST), range(8)))
    assert outcomes.count(LOST) == 1
    assert outcomes.count(SPARED) == 7
