"""The rules of reconciliation: what the sweep does about a record that is due, and what an engine's word means.

The sweep and a run never ask an engine themselves: they commit an ask, and a worker asks. An answer counts
only for the record that it was asked about, but for "it is there", which is true whatever happened since.
"""

from dataclasses import replace
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
from domain.claim_rules import resend, settle, settlement, wants_dispatch
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
# How often what waits for the end of a pause is looked at: seldom, so that it crowds out nothing that goes on.
_WHILE_PAUSED = timedelta(minutes=1)


def look(record: Record, now: datetime, policy: DispatchPolicy) -> Decision[None]:
    """What the sweep does with a record that is due: nothing if it is not."""
    claim = record.claim
    due = claim.lease_until if claim else None
    is_due = due <= now if due else claim is not None and claim.phase is Phase.UNKNOWN
    if claim is None or not is_due:
        return unchanged(record)
    if claim.phase is Phase.CLAIMED:
        if wants_dispatch(record.job, claim):
            return _redeliver(record, claim, now, policy)
        return settle(record, record.token, ClaimEvent.CANCELLED, "cancelled", now, policy)
    if claim.phase is Phase.SENDING:
        return _call_unknown(record, claim, now, policy)
    if claim.phase is Phase.UNKNOWN:
        return _look_at_unknown(record, claim, now, policy)
    return _look_at_sent(record, claim, now, policy)


def _call_unknown(
    record: Record, claim: Claim, now: datetime, policy: DispatchPolicy
) -> Decision[None]:
    # Its worker's intent to post is stored: whether the post left is not known.
    lost = claim.after(ClaimEvent.LEASE_OVER, now, policy, OUTCOME_UNKNOWN)
    return settlement(record, lost, ClaimEvent.LEASE_OVER, "worker_lost", now, policy)


def _redeliver(
    record: Record, claim: Claim, now: datetime, policy: DispatchPolicy
) -> Decision[None]:
    # A claim that waits for the pause to end is not lost: its lease counts from there.
    if policy.is_paused:
        return _later(record, now, _WHILE_PAUSED)
    resumed_at = policy.pause.resumed_at if policy.pause else None
    if resumed_at and resumed_at + _lease(claim.messages, policy) > now:
        return _later(record, now, resumed_at + _lease(claim.messages, policy) - now)
    lease = _lease(claim.messages + 1, policy)
    return _later(record, now, lease, TaskKind.DISPATCH, messages=claim.messages + 1)


def _lease(messages: int, policy: DispatchPolicy) -> timedelta:
    # It doubles with each message: a claim that merely waits in a long queue is not lost, and must not fill
    # that queue with copies of its message.
    return min(policy.claim_lease * (1 << min(messages - 1, 16)), LONGEST_CLAIM_LEASE)


def _look_at_unknown(
    record: Record, claim: Claim, now: datetime, policy: DispatchPolicy
) -> Decision[None]:
    if claim.is_askable(policy):
        return start_ask(record, now, policy)
    if _is_abandoned(record, claim, now):
        return _abandon(record, claim, now, policy)
    if record.job.status is JobStatus.CANCELLED:
        told = claim.cancel_due and not claim.is_elsewhere(policy)
        pause = TOLD_AGAIN_AFTER if told else SELDOM
        return _later(record, now, pause, TaskKind.TELL_CANCELLED if told else None)
    if claim.is_recognised(now, policy):
        if policy.is_paused:
            return _later(record, now, _WHILE_PAUSED)
        return resend(record, now, policy, Actor.SYSTEM)
    is_held_for_good = policy.window is not None or claim.is_elsewhere(policy)
    return _later(record, now, SELDOM) if is_held_for_good else unchanged(record)


def _look_at_sent(
    record: Record, claim: Claim, now: datetime, policy: DispatchPolicy
) -> Decision[None]:
    if claim.cancel_due:
        if claim.is_elsewhere(policy):
            return _later(record, now, SELDOM)
        return _later(record, now, TOLD_AGAIN_AFTER, TaskKind.TELL_CANCELLED)
    deadline = record.report_deadline(policy)
    if claim.ended_at is None and (deadline is None or deadline > now):
        return _later(record, now, deadline - now if deadline else None)
    change = Change(record, now, claim.correlation_id)
    if deadline is not None and deadline <= now and record.job.silent_since is None:
        change.log(EventType.SILENT, Actor.SYSTEM, claim=claim)
        change.update_job(silent_since=record.job.reported_at or claim.settled_at)
    if claim.is_askable(policy):
        return _asking(change, claim, now)
    change.update_claim(lease_until=now + _silent_pause(policy))
    return change.decision(None)


def _silent_pause(policy: DispatchPolicy) -> timedelta:
    return min(policy.silent_after or SELDOM, SELDOM)


def _later(
    record: Record,
    now: datetime,
    pause: timedelta | None,
    task: TaskKind | None = None,
    **fields: int,
) -> Decision[None]:
    change = Change(record, now)
    change.update_claim(lease_until=now + pause if pause is not None else None, **fields)
    return change.decision(None, task=task)


def start_ask(
    record: Record,
    now: datetime,
    policy: DispatchPolicy,
    correlation_id: str | None = None,
    act: OperatorAct | None = None,
) -> Decision[None]:
    """Have a worker ask the engine about the dispatch; nothing if one is being asked, or none can be."""
    claim = record.claim
    if claim is None or not claim.is_askable(policy) or is_asked(claim, now):
        return unchanged(record)
    change = Change(record, now, correlation_id or claim.correlation_id, act)
    if act is not None:
        change.log(EventType.ASKED, Actor.OPERATOR, claim=claim)
    return _asking(change, claim, now)


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
    asking = start_ask(record, now, policy, correlation_id, act)
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


def _asking(change: Change, claim: Claim, now: datetime) -> Decision[None]:
    change.update_claim(asked_at=now, asks=claim.asks + 1, lease_until=now + ASK_LEASE)
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
    if claim.in_flight and state in FOUND:
        return _found(record, claim, state, now, policy)
    if claim is not record.claim or record.revision != asked.revision:
        return unchanged(record)  # it speaks of a record that is no more
    if claim.phase is Phase.SENT:
        return _state_of_run(record, claim, state, now, policy)
    if claim.phase is Phase.UNKNOWN:
        return _absent(record, claim, state, now, policy)
    return unchanged(record)


def _found(
    record: Record, claim: Claim, state: RunState, now: datetime, policy: DispatchPolicy
) -> Decision[None]:
    settled = claim.after(ClaimEvent.FOUND, now, policy)
    found = settlement(record, settled, ClaimEvent.FOUND, None, now, policy)
    change = Change(found.record, now, claim.correlation_id)
    _note_state(change, state, policy)
    noted = change.decision(None)
    return replace(noted, events=(*found.events, *noted.events))


def _absent(
    record: Record, claim: Claim, state: RunState, now: datetime, policy: DispatchPolicy
) -> Decision[None]:
    """Absent never means released: the first request may still be travelling."""
    if state is RunState.NOT_FOUND:
        if _is_abandoned(record, claim, now):
            return _abandon(record, claim, now, policy)
        is_wanted = wants_dispatch(record.job, claim) and not policy.is_paused
        if is_wanted and claim.is_recognised(now, policy):
            return resend(record, now, policy, Actor.SYSTEM)
    change = Change(record, now, claim.correlation_id)
    due = claim.next_try(now, policy)
    change.update_claim(asked_at=None, run_state=state, run_state_at=now, lease_until=due)
    return change.decision(None)


def _is_abandoned(record: Record, claim: Claim, now: datetime) -> bool:
    # Only for a cancelled job may absence close a claim: none starts it again.
    since = claim.sent_at or claim.claimed_at
    return record.job.status is JobStatus.CANCELLED and now - since >= ABANDONED_AFTER


def _abandon(record: Record, claim: Claim, now: datetime, policy: DispatchPolicy) -> Decision[None]:
    event = ClaimEvent.ABANDONED
    return settlement(
        record, claim.after(event, now, policy, event.value), event, event.value, now, policy
    )


def _state_of_run(
    record: Record, claim: Claim, state: RunState, now: datetime, policy: DispatchPolicy
) -> Decision[None]:
    change = Change(record, now, claim.correlation_id)
    ended_at, reported_at = claim.ended_at, record.job.reported_at
    is_second = ended_at is not None and now - ended_at >= LAST_REPORT
    is_unreported = reported_at is None or ended_at is None or reported_at < ended_at
    if state in ENDED_BADLY and is_second and is_unreported and _may_fail(record):
        _fail(change, claim, state)
        return change.decision(None)
    _note_state(change, state, policy)
    return change.decision(None)


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
    change.update_job(failure=Failure(code=RUN_FAILED), silent_since=None)
    change.update_claim(asked_at=None, run_state=state, run_state_at=change.now)
    change.update_claim(is_dead=True, lease_until=None)
