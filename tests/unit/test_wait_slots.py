"""How many callers may wait: in all, in long polls, and of one user."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from services.wait_slots import NoWaitSlot, Wait, WaitSlots

RUN, POLL = Wait.DISPATCH, Wait.LONG_POLL


class Callers:
    """Callers that wait until the test ends."""

    def __init__(self, slots: int, waits: ExitStack) -> None:
        self._slots, self._waits = WaitSlots(slots), waits

    def wait(self, kind: Wait, user: str, number: int = 1) -> None:
        """Let callers of a user wait."""
        for _ in range(number):
            self._waits.enter_context(self._slots.taken(kind, user))

    def may_wait(self, kind: Wait, user: str) -> bool:
        """Whether there is a slot for another caller; it stays free."""
        try:
            with self._slots.taken(kind, user):
                return True
        except NoWaitSlot:
            return False


@pytest.fixture
def waits() -> Iterator[ExitStack]:
    """Ends every wait."""
    with ExitStack() as stack:
        yield stack


def test_all_waits_together_take_no_more_than_all_slots(waits: ExitStack) -> None:
    callers = Callers(8, waits)
    for user in ("alice", "bob"):
        callers.wait(POLL, user, 2)
        callers.wait(RUN, user, 1)
    callers.wait(RUN, "carol", 1)
    assert callers.may_wait(RUN, "dave")
    callers.wait(RUN, "dave")
    assert not callers.may_wait(RUN, "erin")


def test_long_polls_take_half_of_the_slots(waits: ExitStack) -> None:
    callers = Callers(8, waits)
    for user in ("alice", "bob"):
        callers.wait(POLL, user, 2)
    assert not callers.may_wait(POLL, "carol")
    assert callers.may_wait(RUN, "carol")


@pytest.mark.parametrize(("kind", "slots", "share"), [(RUN, 8, 4), (POLL, 8, 2), (RUN, 1, 1)])
def test_a_user_takes_half_of_a_kind_s_slots_and_at_least_one(
    kind: Wait, slots: int, share: int, waits: ExitStack
) -> None:
    callers = Callers(slots, waits)
    callers.wait(kind, "alice", share - 1)
    assert callers.may_wait(kind, "alice")
    callers.wait(kind, "alice")
    assert not callers.may_wait(kind, "alice")
    assert callers.may_wait(kind, "bob") is (slots > 1)


def test_a_wait_that_ends_by_an_error_frees_its_slot() -> None:
    slots = WaitSlots(1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), slots.taken(RUN, "alice"):
            raise ZeroDivisionError
    with slots.taken(RUN, "bob"), pytest.raises(NoWaitSlot), slots.taken(RUN, "alice"):
        pass
