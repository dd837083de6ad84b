"""The rules of reconciliation: what the sweep does about a due record, and what an engine's answer means.

The sweep and a run never ask an engine themselves: they commit an ask, and a worker asks. An answer counts
only for the record that it was asked about, except "it is there", which stays true whatever happened since.
"""

from datetime import datetime, timedelta

from domain.audit import Actor, EventType
from domain.claim import (
    ABANDONED_AFTER,
    CANCEL_AGAIN_AFTER,
    ENDED_BADLY,
    FOUND,
    OUTCOME_UNKNOWN,
    RECHECK_AFTER,
    Claim,
    ClaimEvent,
    Phase,
    RunState,
)
from domain.claim_rules import resend, settle_claim, wants_dispatch
from domain.errors import CannotBeAsked, OrchestratorDispatchFailed
from domain.job import RUN_FAILED, Failure, Job
from domain.job_fsm import DRAFTING_STATUSES, JobStatus
from domain.lifecycle import cancel_notified
from domain.record import Change, Decision, Record, TaskKind

NO_ANSWER = "The orchestrator gave no answer."
LONGEST_CLAIM_LEASE = timedelta(minutes=10)
# An ask without an answer for so long is over: its worker died, or its message was lost.
ASK_LEASE = timedelta(seconds=30)
# Engines note the end of a run first, and let it report that afterwards.
LAST_REPORT = timedelta(seconds=30)
_TICK = timedelta(microseconds=1)
# How often a claim that waits for the end of a pause is looked at: seldom, to leave room for other claims.
_WHILE_PAUSED = timedelta(minutes=1)


def look(change: Change) -> Decision[None]:
    """What the sweep does with a record; nothing if it is not due."""
    claim = change.record.claim
    due = claim.lease_until if claim else None
    is_due = due <= change.now if due else claim is not None and claim.phase is Phase.UNKNOWN
    if claim is None or not is_due:
        return change.decision(None)
    change.correlation_id = claim.correlation_id
    match claim.phase:
        case Phase.CLAIMED:
            _redeliver(change, claim)
        case Phase.SENDING:
            # Its worker stored the intent to post: whether it posted is not known.
            settle_claim(change, claim, ClaimEvent.LEASE_OVER, OUTCOME_UNKNOWN, "worker_lost")
        case Phase.UNKNOWN:
            _look_at_unknown(change, claim)
        case _:
            _look_at_sent(change, claim)
    return change.decision(None)


def start_ask(change: Change) -> bool:
    """Have a worker ask the engine about the current dispatch; whether it can be, and is not being asked."""
    claim = change.record.claim
    if claim is None or not claim.is_askable(change.policy) or is_asked(claim, change.now):
        return False
    change.correlation_id = change.correlation_id or claim.correlation_id
    if change.act is not None:
        change.log(EventType.ASKED, Actor.OPERATOR, claim=claim)
    answered_at = claim.run_state_at
    # Earlier answers are older than this ask, whichever clock set their time.
    asked_at = max(change.now, answered_at + _TICK) if answered_at else change.now
    # Due only once the ask is over: looked at before, it would count as held. While no answer comes, the lease
    # doubles, for the reason of `_lease`.
    last = claim.lease_until - claim.asked_at if claim.asked_at and claim.lease_until else _TICK
    due = asked_at + min(max(ASK_LEASE, 2 * last), LONGEST_CLAIM_LEASE)
    change.update_claim(asked_at=asked_at, asks=claim.asks + 1, lease_until=due)
    change.task = TaskKind.ASK
    return True


def ask_by_operator(change: Change) -> Decision[Claim]:
    """Have a worker ask about a dispatch that no worker holds; nothing changes if one is being asked.

    The result is the claim as it is being asked about. Raises `CannotBeAsked`.
    """
    claim = change.record.claim
    # In CLAIMED and SENDING a worker holds the claim.
    is_held = claim is not None and claim.phase in (Phase.CLAIMED, Phase.SENDING)
    if claim is None or is_held or not claim.is_askable(change.policy):
        raise CannotBeAsked
    start_ask(change)
    return change.decision(change.record.claim or claim)


def has_answered(record: Record, asked: Claim) -> bool:
    """Whether the ask that `asked` waits for is over, or its claim is."""
    claim = record.claim
    return claim is None or (claim.epoch, claim.asked_at) != (asked.epoch, asked.asked_at)


def engine_answer(record: Record, asked: Claim) -> RunState | None:
    """The engine's answer to the ask about `asked`; None if a callback came first.

    Raises `OrchestratorDispatchFailed` if it gave none.
    """
    claim, since = record.standing(asked.dispatch_id), asked.asked_at
    if claim is None or since is None or claim.epoch != asked.epoch:
        return RunState.NOT_FOUND  # nothing else releases a claim, or has it sent again
    reported_at = record.job.reported_at
    if reported_at is not None and reported_at >= since:
        return claim.run_state
    is_answer = claim.run_state_at is not None and claim.run_state_at >= since
    if claim.run_state in (None, RunState.NO_ANSWER) or not is_answer:
        raise OrchestratorDispatchFailed(RunState.NO_ANSWER, message=NO_ANSWER)
    return claim.run_state


def is_asked(claim: Claim, now: datetime) -> bool:
    """Whether an ask is under way."""
    return claim.asked_at is not None and now - claim.asked_at < ASK_LEASE


def answered(change: Change, asked: Record, state: RunState) -> Decision[None]:
    """What an engine's answer leads to. `asked` is the record as the worker read it before it asked."""
    record = change.record
    claim = record.standing(asked.token.dispatch_id)
    if claim is None or claim.is_elsewhere(change.policy):
        return change.decision(None)
    change.correlation_id = claim.correlation_id
    # The clock of the process that asked may be ahead: no answer is older than its ask.
    change.now = max(change.now, claim.asked_at or change.now)
    is_as_asked = record.revision == asked.revision
    if claim.in_flight and state in FOUND:
        settle_claim(change, claim, ClaimEvent.FOUND)
        _note_sent(change, state)
    elif is_as_asked and claim.phase is Phase.SENT:
        _note_sent(change, state)
    elif is_as_asked and claim.phase is Phase.UNKNOWN:
        _note_absent(change, claim, state)
    return change.decision(None)


def _redeliver(change: Change, claim: Claim) -> None:
    now, policy, messages = change.now, change.policy, claim.messages + 1
    # A claim that waits for the end of a pause is not lost: its lease counts from there.
    resumed_at = policy.pause.resumed_at if policy.pause else None
    due = resumed_at + _lease(policy.claim_lease, claim.messages) if resumed_at else now
    if not wants_dispatch(change.job, claim):
        settle_claim(change, claim, ClaimEvent.CANCELLED, ClaimEvent.CANCELLED.value)
    elif policy.is_paused:
        change.update_claim(lease_until=now + _WHILE_PAUSED)
    elif now < due <= now + LONGEST_CLAIM_LEASE:  # later, if a clock that was ahead ended the pause
        change.update_claim(lease_until=due)
    else:
        due = now + _lease(policy.claim_lease, messages)
        change.update_claim(lease_until=due, messages=messages)
        change.task = TaskKind.DISPATCH


def _lease(first: timedelta, messages: int) -> timedelta:
    # It doubles with each message: one that merely waits in a long queue is not lost, and must not fill that
    # queue with copies of itself.
    return min(first * (1 << min(messages - 1, 16)), LONGEST_CLAIM_LEASE)


def _look_at_unknown(change: Change, claim: Claim) -> None:
    now, policy = change.now, change.policy
    if claim.is_askable(policy):
        start_ask(change)
    elif _is_abandoned(change.job, claim, now):
        settle_claim(change, claim, ClaimEvent.ABANDONED, ClaimEvent.ABANDONED.value)
    elif change.job.status is JobStatus.CANCELLED:
        _cancel_again(change, claim)
    elif claim.is_recognised(now, policy):
        if policy.is_paused:
            change.update_claim(lease_until=now + _WHILE_PAUSED)
        else:
            resend(change, claim, Actor.SYSTEM)
    elif policy.window is not None or claim.is_elsewhere(policy):  # held for good
        change.update_claim(lease_until=now + RECHECK_AFTER)


def _cancel_again(change: Change, claim: Claim) -> None:
    is_possible = change.policy.can_cancel and not claim.is_elsewhere(change.policy)
    is_due = claim.cancel_due and is_possible
    pause = _lease(CANCEL_AGAIN_AFTER, claim.messages) if is_due else RECHECK_AFTER
    change.update_claim(lease_until=change.now + pause, messages=claim.messages + is_due)
    change.task = TaskKind.TELL_CANCELLED if is_due else None


def _is_abandoned(job: Job, claim: Claim, now: datetime) -> bool:
    # Absence may release a claim only if its job is cancelled: nothing starts it again.
    since = claim.sent_at or claim.claimed_at
    return job.status is JobStatus.CANCELLED and now - since >= ABANDONED_AFTER


def _look_at_sent(change: Change, claim: Claim) -> None:
    if claim.cancel_due:
        waited = change.now - change.job.in_state_since
        if claim.is_elsewhere(change.policy) and waited >= ABANDONED_AFTER:
            # The settings will hardly name that engine again, and the job must come to rest.
            cancel_notified(change, change.record.token, ClaimEvent.ABANDONED, is_over=True)
        else:
            _cancel_again(change, claim)
        return
    deadline = change.record.report_deadline(change.policy)
    is_overdue = deadline is not None and deadline <= change.now
    if claim.ended_at is None and not is_overdue:
        change.update_claim(lease_until=deadline)
        return
    if is_overdue and change.job.silent_since is None:
        change.log(EventType.SILENT, Actor.SYSTEM, claim=claim)
        # The last report may be of the dispatch before.
        heard = filter(None, (change.job.reported_at, claim.settled_at))
        change.update_job(silent_since=max(heard))
    if not start_ask(change):
        change.update_claim(lease_until=change.now + _silent_pause(change))


def _note_absent(change: Change, claim: Claim, state: RunState) -> None:
    # Absent never means released: the first request may still be travelling.
    now, policy, is_absent = change.now, change.policy, state is RunState.NOT_FOUND
    may_resend = is_absent and claim.is_recognised(now, policy) and not policy.is_paused
    if is_absent and _is_abandoned(change.job, claim, now):
        settle_claim(change, claim, ClaimEvent.ABANDONED, ClaimEvent.ABANDONED.value)
    elif not (may_resend and resend(change, claim, Actor.SYSTEM)):
        due = claim.next_try(now, policy)
        change.update_claim(asked_at=None, run_state=state, run_state_at=now, lease_until=due)


def _silent_pause(change: Change) -> timedelta:
    return min(change.policy.silent_after or RECHECK_AFTER, RECHECK_AFTER)


def _note_sent(change: Change, state: RunState) -> None:
    claim, now = change.record.claim, change.now
    if claim is None or claim.phase is not Phase.SENT:
        return
    if state is RunState.NO_ANSWER:
        pause = LAST_REPORT if claim.ended_at else _silent_pause(change)
        change.update_claim(asked_at=None, lease_until=now + pause)
        return
    # Later than the first draft the run may have ended well long ago, and the draft is the editor's.
    may_fail = change.record.awaits_resume or change.job.status in DRAFTING_STATUSES
    ended_badly = state in ENDED_BADLY and may_fail
    change.update_claim(asked_at=None, run_state=state, run_state_at=now, ended_at=None)
    # A callback in between would have cleared `ended_at`.
    if ended_badly and claim.ended_at and now - claim.ended_at >= LAST_REPORT:
        _fail(change, claim, state)
    elif ended_badly:
        change.update_claim(ended_at=claim.ended_at or now, lease_until=now + LAST_REPORT)
    elif change.job.silent_since is not None:
        change.update_claim(lease_until=now + _silent_pause(change))
    else:
        change.set_next_look()


def _fail(change: Change, claim: Claim, state: RunState) -> None:
    """The run ended badly and will not report: a retry must be possible."""
    if change.job.status is JobStatus.FAILED:
        change.log(EventType.RUN_FAILED, Actor.SYSTEM, claim=claim, reason=state)
        change.update_job(status_since=change.now)
    else:
        change.move(JobStatus.FAILED, Actor.SYSTEM, EventType.RUN_FAILED)
    change.update_job(failure=Failure(code=RUN_FAILED))
    change.update_claim(ended_at=claim.ended_at, is_dead=True, lease_until=None)
