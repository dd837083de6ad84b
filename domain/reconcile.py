"""The rules of reconciliation: what the sweep does about a record that is due, and what an engine's word means.

The sweep and a run never ask an engine themselves: they commit an ask, and a worker asks. An answer counts
only for the record that it was asked about, but for "it is there", which is true whatever happened since.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from domain.audit import Actor, EventType, OperatorAct
from domain.claim import (
    ABANDONED_AFTER,
    ENDED_BADLY,
    FOUND,
    OUTCOME_UNKNOWN,
    SELDOM,
    TOLD_AGAIN_AFTER,
    Claim,
    ClaimEvent,
    DispatchPolicy,
    Phase,
    RunState,
)
from domain.claim_rules import resend, settlement, wants_dispatch
from domain.errors import CannotBeAsked, OrchestratorDispatchFailed
from domain.job import RUN_FAILED, Failure
from domain.job_fsm import DRAFTING_STATUSES, JobStatus, ensure_transition
from domain.record import Change, Decision, Record, TaskKind, unchanged

NO_ANSWER = "The orchestrator gave no answer."
# Before and after, a worker holds the claim.
_ASKED_BY_OPERATORS = frozenset({Phase.UNKNOWN, Phase.SENT})
LONGEST_CLAIM_LEASE = timedelta(minutes=10)
# An ask without an answer for so long is not under way any more: its worker died, or its message was lost.
ASK_LEASE = timedelta(seconds=30)
# Engines note the end of a run first, and let it report that afterwards.
LAST_REPORT = timedelta(seconds=30)
_TICK = timedelta(microseconds=1)
# How often what waits for the end of a pause is looked at: seldom, so that it crowds out nothing that goes on.
_WHILE_PAUSED = timedelta(minutes=1)


def look(record: Record, now: datetime, policy: DispatchPolicy) -> Decision[None]:
    """What the sweep does with a record that is due: nothing if it is not."""
    claim = record.claim
    due = claim.lease_until if claim else None
    is_due = due <= now if due else claim is not None and claim.phase is Phase.UNKNOWN
    if claim is None or not is_due:
        return unchanged(record)
    case = _Case(record, claim, now, policy)
    if claim.phase is Phase.CLAIMED:
        return case.redeliver()
    if claim.phase is Phase.SENDING:
        return case.call_unknown()
    if claim.phase is Phase.UNKNOWN:
        return case.look_at_unknown()
    return case.look_at_sent()


def start_ask(change: Change, policy: DispatchPolicy) -> Decision[None]:
    """Have a worker ask the engine about the dispatch; nothing if one is being asked, or none can be."""
    claim = change.record.claim
    if claim is None or not claim.is_askable(policy) or is_asked(claim, change.now):
        return unchanged(change.record)
    change.correlation_id = change.correlation_id or claim.correlation_id
    if change.act is not None:
        change.log(EventType.ASKED, Actor.OPERATOR, claim=claim)
    return _asking(change, claim)


def ask_by_operator(
    record: Record,
    act: OperatorAct,
    now: datetime,
    policy: DispatchPolicy,
    correlation_id: str | None = None,
) -> Decision[Claim]:
    """Have a worker ask about a dispatch that no worker holds; nothing changes if one is being asked.

    The result is the claim as it is being asked about. Raises `CannotBeAsked`.
    """
    claim = record.claim
    if claim is None or claim.phase not in _ASKED_BY_OPERATORS or not claim.is_askable(policy):
        raise CannotBeAsked
    asking = start_ask(Change(record, now, correlation_id, act), policy)
    return asking.with_result(asking.record.claim or claim)


def has_answered(record: Record, asked: Claim) -> bool:
    """Whether the ask that `asked` waits for is over, or its claim is."""
    claim = record.claim
    return claim is None or (claim.epoch, claim.asked_at) != (asked.epoch, asked.asked_at)


def word_of_engine(record: Record, asked: Claim) -> RunState | None:
    """What the engine said when it was asked about `asked`; None if a callback came first.

    Raises `OrchestratorDispatchFailed` if it said nothing.
    """
    claim, since = record.standing(asked.dispatch_id), asked.asked_at
    if claim is None or since is None or claim.epoch != asked.epoch:
        return RunState.NOT_FOUND  # only its absence frees a claim, or has it sent again
    reported_at = record.job.reported_at
    if reported_at is not None and reported_at >= since:
        return claim.run_state
    is_word = claim.run_state_at is not None and claim.run_state_at >= since
    if claim.run_state in (None, RunState.NO_ANSWER) or not is_word:
        raise OrchestratorDispatchFailed(RunState.NO_ANSWER, message=NO_ANSWER)
    return claim.run_state


def _asking(change: Change, claim: Claim) -> Decision[None]:
    now, word_at = change.now, claim.run_state_at
    # Words before this ask are older than it, whatever clock they have their time from.
    asked_at = max(now, word_at + _TICK) if word_at else now
    # Due only once the ask is over: looked at before, it would count as held.
    change.update_claim(asked_at=asked_at, asks=claim.asks + 1, lease_until=asked_at + ASK_LEASE)
    return change.decision(None, task=TaskKind.ASK)


def is_asked(claim: Claim, now: datetime) -> bool:
    """Whether an ask is under way."""
    return claim.asked_at is not None and now - claim.asked_at < ASK_LEASE


def answered(
    record: Record, asked: Record, state: RunState, now: datetime, policy: DispatchPolicy
) -> Decision[None]:
    """What an engine's answer leads to. `asked` is the record as the worker read it before it asked."""
    claim = record.standing(asked.token.dispatch_id)
    if claim is None or claim.is_elsewhere(policy):
        return unchanged(record)
    # The clock of the one who asked may be ahead: no answer is older than its ask.
    case = _Case(record, claim, max(now, claim.asked_at or now), policy)
    if claim.in_flight and state in FOUND:
        return case.found(state)
    is_as_asked = claim is record.claim and record.revision == asked.revision
    if is_as_asked and claim.phase is Phase.SENT:
        return case.state_of_run(state)
    if is_as_asked and claim.phase is Phase.UNKNOWN:
        return case.absent(state)
    return unchanged(record)


@dataclass(frozen=True, slots=True)
class _Case:
    """A standing claim with its record, at one moment and under one policy."""

    record: Record
    claim: Claim
    now: datetime
    policy: DispatchPolicy

    def change(self) -> Change:
        return Change(self.record, self.now, self.claim.correlation_id)

    def settle(
        self, event: ClaimEvent, reason: str | None = None, shown: str | None = None
    ) -> Decision[None]:
        return settlement(self.change(), self.claim, event, reason, self.policy, shown)

    def later(
        self, pause: timedelta | None, task: TaskKind | None = None, **fields: int
    ) -> Decision[None]:
        change = self.change()
        due = self.now + pause if pause is not None else None
        change.update_claim(lease_until=due, **fields)
        return change.decision(None, task=task)

    def redeliver(self) -> Decision[None]:
        claim, pause = self.claim, self.policy.pause
        if not wants_dispatch(self.record.job, claim):
            return self.settle(ClaimEvent.CANCELLED, "cancelled")
        # A claim that waits for the pause to end is not lost: its lease counts from there.
        if self.policy.is_paused:
            return self.later(_WHILE_PAUSED)
        if pause and pause.resumed_at:
            left = pause.resumed_at + self.lease(claim.messages) - self.now
            if left > timedelta():
                return self.later(left)
        messages = claim.messages + 1
        return self.later(self.lease(messages), TaskKind.DISPATCH, messages=messages)

    def lease(self, messages: int) -> timedelta:
        # It doubles with each message: a claim that merely waits in a long queue is not lost, and must not
        # fill that queue with copies of its message.
        return min(self.policy.claim_lease * (1 << min(messages - 1, 16)), LONGEST_CLAIM_LEASE)

    def call_unknown(self) -> Decision[None]:
        # Its worker's intent to post is stored: whether the post left is not known.
        return self.settle(ClaimEvent.LEASE_OVER, OUTCOME_UNKNOWN, "worker_lost")

    def look_at_unknown(self) -> Decision[None]:
        claim, policy = self.claim, self.policy
        if claim.is_askable(policy):
            return start_ask(self.change(), policy)
        if self.is_abandoned():
            return self.settle(ClaimEvent.ABANDONED, ClaimEvent.ABANDONED.value)
        if self.record.job.status is JobStatus.CANCELLED:
            return self.tell_cancelled()
        if claim.is_recognised(self.now, policy):
            if policy.is_paused:
                return self.later(_WHILE_PAUSED)
            return resend(self.change(), policy, Actor.SYSTEM)
        is_held_for_good = policy.window is not None or claim.is_elsewhere(policy)
        return self.later(SELDOM) if is_held_for_good else unchanged(self.record)

    def tell_cancelled(self) -> Decision[None]:
        if self.claim.cancel_due and not self.claim.is_elsewhere(self.policy):
            return self.later(TOLD_AGAIN_AFTER, TaskKind.TELL_CANCELLED)
        return self.later(SELDOM)

    def is_abandoned(self) -> bool:
        # Only for a cancelled job may absence close a claim: none starts it again.
        since = self.claim.sent_at or self.claim.claimed_at
        is_cancelled = self.record.job.status is JobStatus.CANCELLED
        return is_cancelled and self.now - since >= ABANDONED_AFTER

    def look_at_sent(self) -> Decision[None]:
        claim, now = self.claim, self.now
        if claim.cancel_due:
            return self.tell_cancelled()
        deadline = self.record.report_deadline(self.policy)
        is_overdue = deadline is not None and deadline <= now
        if claim.ended_at is None and not is_overdue:
            return self.later(deadline - now if deadline else None)
        change = self.change()
        if is_overdue and change.job.silent_since is None:
            change.log(EventType.SILENT, Actor.SYSTEM, claim=claim)
            # The last report may be of the dispatch before.
            heard = filter(None, (change.job.reported_at, claim.settled_at))
            change.update_job(silent_since=max(heard))
        if claim.is_askable(self.policy):
            return _asking(change, claim)
        change.update_claim(lease_until=now + _silent_pause(self.policy))
        return change.decision(None)

    def found(self, state: RunState) -> Decision[None]:
        change = self.change()
        settlement(change, self.claim, ClaimEvent.FOUND, None, self.policy)
        _note_state(change, state, self.policy)
        return change.decision(None)

    def absent(self, state: RunState) -> Decision[None]:
        """Absent never means released: the first request may still be travelling."""
        claim, now, policy = self.claim, self.now, self.policy
        if state is RunState.NOT_FOUND:
            if self.is_abandoned():
                return self.settle(ClaimEvent.ABANDONED, ClaimEvent.ABANDONED.value)
            is_wanted = wants_dispatch(self.record.job, claim) and not policy.is_paused
            if is_wanted and claim.is_recognised(now, policy):
                return resend(self.change(), policy, Actor.SYSTEM)
        change = self.change()
        due = claim.next_try(now, policy)
        change.update_claim(asked_at=None, run_state=state, run_state_at=now, lease_until=due)
        return change.decision(None)

    def state_of_run(self, state: RunState) -> Decision[None]:
        change = self.change()
        ended_at, reported_at = self.claim.ended_at, change.job.reported_at
        is_second = ended_at is not None and self.now - ended_at >= LAST_REPORT
        is_unreported = reported_at is None or ended_at is None or reported_at < ended_at
        if state in ENDED_BADLY and is_second and is_unreported and _may_fail(self.record):
            _fail(change, self.claim, state)
        else:
            _note_state(change, state, self.policy)
        return change.decision(None)


def _silent_pause(policy: DispatchPolicy) -> timedelta:
    return min(policy.silent_after or SELDOM, SELDOM)


def _note_state(change: Change, state: RunState, policy: DispatchPolicy) -> None:
    claim = change.record.claim
    if claim is None or claim.phase is not Phase.SENT:
        return
    if state is RunState.NO_ANSWER:
        pause = LAST_REPORT if claim.ended_at else _silent_pause(policy)
        change.update_claim(asked_at=None, lease_until=change.now + pause)
        return
    change.update_claim(asked_at=None, run_state=state, run_state_at=change.now, ended_at=None)
    if claim.cancel_due:
        change.set_next_look(policy)
    elif state in ENDED_BADLY and _may_fail(change.record):
        change.update_claim(
            ended_at=claim.ended_at or change.now, lease_until=change.now + LAST_REPORT
        )
    elif change.job.silent_since is not None:
        change.update_claim(lease_until=change.now + _silent_pause(policy))
    else:
        change.set_next_look(policy)


def _may_fail(record: Record) -> bool:
    claim, status = record.claim, record.job.status
    resumes = claim is not None and claim.awaits_resume and status is JobStatus.FAILED
    # Later the draft is the editor's, and the run may have ended well long ago.
    return resumes or status in DRAFTING_STATUSES


def _fail(change: Change, claim: Claim, state: RunState) -> None:
    """The run ended badly and will not report: a retry must be possible."""
    if change.job.status is JobStatus.FAILED:
        change.log(EventType.RUN_FAILED, Actor.SYSTEM, claim=claim, reason=state)
        change.update_job(status_since=change.now)
    else:
        status = ensure_transition(change.job.status, JobStatus.FAILED)
        change.move(status, Actor.SYSTEM, EventType.RUN_FAILED)
    change.update_job(failure=Failure(code=RUN_FAILED))
    change.update_claim(
        asked_at=None, run_state=state, run_state_at=change.now, is_dead=True, lease_until=None
    )
