"""The invariants can be broken: without any one of the protocol's guards, one of them is."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pytest

from domain import callbacks, claim, dispatch_steps, dispatching
from domain.change import Change, Draft, Errand, Record
from domain.claim import Claim, ClaimEvent, DispatchPolicy, Phase
from store.in_flight import InFlightIndex
from tests.model import world
from tests.model.explorer import explore
from tests.model.scenarios import CANCEL, INDEX, OWN_BROKER, RETRIES, RUNS, TWO_WORKERS
from tests.model.world import Scenario

ONE_POST = "at most one POST can start an execution"
NOT_ANOTHERS = "nobody moves another's claim"
FOUND = "the sweep finds every claim that nobody works on"

pytestmark = pytest.mark.timeout(300)

Break = Callable[[pytest.MonkeyPatch], None]


def without_epoch(patch: pytest.MonkeyPatch) -> None:
    def holds(held: Claim | None, dispatch_id: str, epoch: int) -> bool:
        return held is not None and held.dispatch_id == dispatch_id

    patch.setattr(claim, "holds", holds)


def without_owner(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(claim, "holds", lambda held, dispatch_id, epoch: held is not None)


def with_one_epoch_for_all(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Record, "next_epoch", property(lambda record: 1))


def _with_phases(patch: pytest.MonkeyPatch, more: dict[Any, Phase]) -> None:
    patch.setattr(claim, "NEXT_PHASE", {**claim.NEXT_PHASE, **more})


def without_phase(patch: pytest.MonkeyPatch) -> None:
    begins = {(phase, ClaimEvent.BEGIN): Phase.SENDING for phase in (Phase.SENDING, Phase.UNKNOWN)}
    _with_phases(patch, begins)


def without_sent_at(patch: pytest.MonkeyPatch) -> None:
    """What a dead worker may have sent is taken for what nobody has sent."""

    def send_again(
        record: Record, held: Claim, now: datetime, policy: DispatchPolicy
    ) -> Change | None:
        draft = Draft(record, now)
        lease = {"phase": Phase.CLAIMED, "lease_until": now + policy.claim_lease}
        draft.set_claim(held.model_copy(update=lease))
        return draft.change(errand=Errand.DISPATCH)

    patch.setattr(dispatch_steps, "_call_unknown", send_again)


def without_asking_the_job(patch: pytest.MonkeyPatch) -> None:
    for module in (dispatching, dispatch_steps):
        patch.setattr(module, "wants_dispatch", lambda job, held: True)


def without_hold(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(claim, "may_resend", lambda held, now: True)


def with_unknown_released(patch: pytest.MonkeyPatch) -> None:
    _with_phases(patch, {(Phase.SENDING, ClaimEvent.LOST): Phase.RELEASED})


def without_order_of_the_index(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(InFlightIndex, "additions", staticmethod(lambda job_id, before, after: []))


def with_any_entry_dropped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(world, "is_the_same", lambda entry, seen: True)


def with_stragglers_believed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(callbacks, "_maybe_received", lambda record, held: True)


def as_it_is(patch: pytest.MonkeyPatch) -> None:
    """Nothing in production is changed; the scenario is."""


@dataclass(frozen=True)
class Mutant:
    """A guard left out, the scenario that misses it, and what breaks."""

    name: str
    leave_out: Break
    scenario: Scenario
    breaks: str


MUTANTS = [
    Mutant("the epoch is not checked", without_epoch, TWO_WORKERS, NOT_ANOTHERS),
    Mutant("the dispatch is not checked", without_owner, RETRIES, NOT_ANOTHERS),
    Mutant("epochs do not grow", with_one_epoch_for_all, TWO_WORKERS, "epochs only grow"),
    Mutant("the phase is not checked", without_phase, TWO_WORKERS, ONE_POST),
    Mutant("sent_at is not looked at", without_sent_at, TWO_WORKERS, ONE_POST),
    Mutant("the job is not asked", without_asking_the_job, CANCEL, "a cancelled job is not tried again"),
    Mutant("the hold is not waited for", without_hold, RUNS, ONE_POST),
    Mutant(
        "an unknown outcome is freed", with_unknown_released, RUNS,
        "no claim is freed that may be running",
    ),
    Mutant("commits do not compare", as_it_is, replace(RUNS, compares=False), NOT_ANOTHERS),
    Mutant(
        "commits of a broker's own do not compare", as_it_is, replace(OWN_BROKER, compares=False),
        NOT_ANOTHERS,
    ),
    Mutant(
        "a worker's clock starts after its intent", as_it_is,
        replace(TWO_WORKERS, clock_before_intent=False), "nobody posts what another holds by now",
    ),
    Mutant("no index entry is written", without_order_of_the_index, INDEX, FOUND),
    Mutant("a drop takes any entry", with_any_entry_dropped, INDEX, FOUND),
    Mutant(
        "a straggler proves a retry", with_stragglers_believed, RETRIES,
        "no retry is proved that was not begun",
    ),
]  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_without_a_guard_an_invariant_breaks(
    mutant: Mutant, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant.leave_out(monkeypatch)
    found = explore(mutant.scenario, first_only=True)
    assert mutant.breaks in found.broken, f"{found.states} states, broken: {found.story()}"
