"""Who may wait: the bound of all callers, of the long polls, and of one user, each by itself."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from services.wait_slots import NoWaitSlot, Wait, WaitSlots

RUN, POLL = Wait.DISPATCH, Wait.LONG_POLL


class Waiting:
    """Callers that wait, until the test ends."""

    def __init__(self, most: int, ends: ExitStack) -> None:
        self._slots, self._ends = WaitSlots(most), ends

    def wait(self, kind: Wait, user: str, number: int = 1) -> None:
        """Let so many callers of a user's wait."""
        for _ in range(number):
            self._ends.enter_context(self._slots.taken(kind, user))

    def may_wait(self, kind: Wait, user: str) -> bool:
        """Whether one more would find a slot, which is given back."""
        try:
            with self._slots.taken(kind, user):
                return True
        except NoWaitSlot:
            return False


@pytest.fixture
def ends() -> Iterator[ExitStack]:
    """Ends every wait."""
    with ExitStack() as stack:
        yield stack


def test_no_more_wait_than_may_in_all_whatever_they_wait_for(ends: ExitStack) -> None:
    callers = Waiting(8, ends)
    for user in ("alice", "bob"):
        callers.wait(POLL, user, 2)
        callers.wait(RUN, user, 1)
    callers.wait(RUN, "carol", 1)
    assert callers.may_wait(RUN, "dave")
    callers.wait(RUN, "dave")
    assert not callers.may_wait(RUN, "erin")


def test_long_polls_have_half_of_the_slots(ends: ExitStack) -> None:
    callers = Waiting(8, ends)
    for user in ("alice", "bob"):
        callers.wait(POLL, user, 2)
    assert not callers.may_wait(POLL, "carol")
    assert callers.may_wait(RUN, "carol")


@pytest.mark.parametrize(("kind", "most", "share"), [(RUN, 8, 4), (POLL, 8, 2), (RUN, 1, 1)])
def test_one_user_has_half_of_what_a_kind_may_have_and_at_least_one(
    kind: Wait, most: int, share: int, ends: ExitStack
) -> None:
    callers = Waiting(most, ends)
    callers.wait(kind, "alice", share - 1)
    assert callers.may_wait(kind, "alice")
    callers.wait(kind, "alice")
    assert not callers.may_wait(kind, "alice")
    assert callers.may_wait(kind, "bob") is (most > 1)


def test_a_slot_comes_back_also_if_the_wait_ends_by_an_error() -> None:
    slots = WaitSlots(1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), slots.taken(RUN, "alice"):
            raise ZeroDivisionError
    with slots.taken(RUN, "bob"), pytest.raises(NoWaitSlot), slots.taken(RUN, "alice"):
        pass
