"""Each guard of the protocol is needed: without it, an invariant breaks."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from domain import claim, claim_rules, lifecycle, reconcile, run, status_callback
from domain.claim import Claim, ClaimEvent, FencingToken, Phase, RunState
from domain.job_fsm import TERMINAL_STATUSES
from domain.record import Change, Decision, Record, TaskKind
from tests.model.explorer import explore
from tests.model.scenarios import (
    ASKED,
    CANCEL,
    OWN_BROKER,
    RECOGNISED,
    RETRIES,
    RETRIES_ASKED,
    RUNS,
    TWO_WORKERS,
    WINDOW,
)
from tests.model.world import Scenario

FREED = "no claim is freed that may be running"
ONE_POST = "at most one POST can start an execution"
NOT_ANOTHERS = "no process moves another's claim"
NOT_AT_REST = "no job expires that is not at rest"

pytestmark = pytest.mark.timeout(300)

Break = Callable[[pytest.MonkeyPatch], None]


def without_epoch(patch: pytest.MonkeyPatch) -> None:
    def holds(held: Claim, token: FencingToken) -> bool:
        return held.dispatch_id == token.dispatch_id

    patch.setattr(Claim, "holds", holds)


def without_owner(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Claim, "holds", lambda held, token: True)


def with_one_epoch_for_all(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Record, "next_epoch", property(lambda record: 1))


def _with_phases(patch: pytest.MonkeyPatch, more: dict[Any, Phase]) -> None:
    patch.setattr(claim, "NEXT_PHASE", {**claim.NEXT_PHASE, **more})


def without_phase(patch: pytest.MonkeyPatch) -> None:
    begins = {(phase, ClaimEvent.BEGIN): Phase.SENDING for phase in (Phase.SENDING, Phase.UNKNOWN)}
    _with_phases(patch, begins)


def without_sent_at(patch: pytest.MonkeyPatch) -> None:
    """A dispatch that a dead worker may have sent is treated as never sent."""

    settle_claim = claim_rules.settle_claim

    def send_again(change: Change, held: Claim, event: ClaimEvent, *reasons: str) -> None:
        if event is not ClaimEvent.LEASE_OVER:
            settle_claim(change, held, event, *reasons)
            return
        lease_until = change.now + change.policy.claim_lease
        change.update_claim(phase=Phase.CLAIMED, lease_until=lease_until)
        change.task = TaskKind.DISPATCH

    patch.setattr(reconcile, "settle_claim", send_again)


def without_checking_the_job(patch: pytest.MonkeyPatch) -> None:
    for module in (claim_rules, reconcile):
        patch.setattr(module, "wants_dispatch", lambda job, held: True)


def without_hold(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(run, "hold_is_over", lambda held, now, policy: True)


def with_unknown_released(patch: pytest.MonkeyPatch) -> None:
    _with_phases(patch, {(Phase.SENDING, ClaimEvent.LOST): Phase.RELEASED})


def with_refusals_for_earlier_sends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Claim, "earlier_sends", property(lambda held: 0))


def with_late_acceptances_dropped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(claim_rules, "_PROOF", frozenset())


def with_late_callbacks_accepted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(status_callback, "_maybe_received", lambda record, held: True)


def without_a_window(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Claim, "may_be_sent", lambda held, now, policy: True)


def with_absent_released(patch: pytest.MonkeyPatch) -> None:
    def free(change: Change, held: Claim, state: RunState) -> None:
        claim_rules.settle_claim(change, held, ClaimEvent.SETTLED_RELEASE, "absent")

    patch.setattr(reconcile, "_note_absent", free)


def with_answers_for_any_dispatch(patch: pytest.MonkeyPatch) -> None:
    answered = reconcile.answered

    def for_the_current_one(change: Change, asked: Record, state: RunState) -> Decision[None]:
        return answered(change, change.record, state)

    patch.setattr(reconcile, "answered", for_the_current_one)


def with_any_ended_job_at_rest(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lifecycle, "is_at_rest", lambda record: record.job.status in TERMINAL_STATUSES)


def unpatched(patch: pytest.MonkeyPatch) -> None:
    """The scenario is changed, not the rules."""


@dataclass(frozen=True)
class Mutant:
    """A guard that is left out, the scenario that shows it, and the invariant that breaks."""

    name: str
    leave_out: Break
    scenario: Scenario
    breaks: str


MUTANTS = [
    Mutant("the epoch is not checked", without_epoch, TWO_WORKERS, NOT_ANOTHERS),
    Mutant("the dispatch is not checked", without_owner, RETRIES, NOT_ANOTHERS),
    Mutant("epochs do not grow", with_one_epoch_for_all, TWO_WORKERS, "epochs only grow"),
    Mutant("the phase is not checked", without_phase, TWO_WORKERS, ONE_POST),
    Mutant("sent_at is ignored", without_sent_at, TWO_WORKERS, ONE_POST),
    Mutant("the job is not checked", without_checking_the_job, CANCEL, "a cancelled job is not tried again"),
    Mutant("the hold is not waited for", without_hold, RUNS, ONE_POST),
    Mutant("an unknown outcome is freed", with_unknown_released, RUNS, FREED),
    Mutant("a refusal counts for earlier sends too", with_refusals_for_earlier_sends, RECOGNISED, FREED),
    Mutant(
        "an older epoch's acceptance is dropped", with_late_acceptances_dropped, RUNS,
        "an acceptance counts under any epoch",
    ),
    Mutant("the engine's window is ignored", without_a_window, WINDOW, ONE_POST),
    Mutant("absent means released", with_absent_released, ASKED, FREED),
    Mutant(
        "an answer counts for any dispatch", with_answers_for_any_dispatch, RETRIES_ASKED,
        "what is found was executed",
    ),
    Mutant("commits do not compare", unpatched, replace(RUNS, compares=False), NOT_ANOTHERS),
    Mutant(
        "commits with a separate broker do not compare", unpatched, replace(OWN_BROKER, compares=False),
        NOT_ANOTHERS,
    ),
    Mutant(
        "a worker's clock starts after its intent", unpatched,
        replace(TWO_WORKERS, clock_before_intent=False), "no worker posts what another holds by now",
    ),
    Mutant(
        "a late callback proves a retry", with_late_callbacks_accepted, RETRIES,
        "no retry is proved that was not begun",
    ),
    Mutant(
        "a retry does not remove the time to live", unpatched,
        replace(RETRIES, persists=False), NOT_AT_REST,
    ),
    Mutant("a job with an open outcome expires", with_any_ended_job_at_rest, CANCEL, NOT_AT_REST),
    Mutant("a job with an open retry expires", with_any_ended_job_at_rest, RETRIES, NOT_AT_REST),
]  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_without_a_guard_an_invariant_breaks(
    mutant: Mutant, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant.leave_out(monkeypatch)
    found = explore(mutant.scenario, first_only=True)
    assert mutant.breaks in found.broken, f"{found.states} states, broken: {found.story()}"
