"""The rules of run: which call claims the dispatch, which joins it, and what a waiting call returns."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from domain.audit import Actor, EventType
from domain.claim import (
    OUTCOME_UNKNOWN,
    Claim,
    ClaimEvent,
    DispatchKind,
    DispatchPolicy,
    Phase,
    RetryTerms,
)
from domain.claim_rules import resend
from domain.errors import OrchestratorDispatchFailed
from domain.job_fsm import TERMINAL_STATUSES, JobStatus, forbidden_step
from domain.reconcile import is_asked, start_ask
from domain.record import Change, Decision, Record, TaskKind


class CallOutcome(StrEnum):
    """What a call of run or retry did."""

    STARTED = "started"  # it made the claim
    JOINED = "joined"  # another call made the claim, and its outcome is not known yet
    REPLAYED = "replayed"  # the dispatch was accepted before


@dataclass(frozen=True, slots=True)
class DispatchResult:
    """The answer to a run or a retry: what the call did, the dispatch, and the job's state."""

    outcome: CallOutcome
    claim: Claim
    status: JobStatus

    @property
    def started(self) -> bool:
        """Whether this call made the claim: 202, and else 200 (contract)."""
        return self.outcome is CallOutcome.STARTED


def run_dispatch_id(job_id: str) -> str:
    """The dispatch id of this job's run, always the same: `[a-z][a-z0-9-]{0,62}`."""
    return f"run-{job_id}"


def decide_run(change: Change) -> Decision[DispatchResult]:
    """Claim, join or replay a run, in the contract's order of checks.

    Raises `FsmTerminalImmutable`, `FsmTransitionInvalid`, or `OrchestratorDispatchFailed` while the outcome
    of an earlier try is unknown and held.
    """
    job, target = change.job, JobStatus.AUDIO_EXTRACTING
    if job.status in TERMINAL_STATUSES:
        raise forbidden_step(job.status, target)
    dispatch_id = run_dispatch_id(job.id)
    if (known := change.record.standing(dispatch_id)) is not None:
        return decide_again(change, known)
    # AUDIO_EXTRACTING may follow itself, but only by a callback: a run starts from UPLOADED.
    if job.status is not JobStatus.UPLOADED or not job.manifest.video_uri:
        raise forbidden_step(job.status, target)
    return start(change, DispatchKind.RUN, dispatch_id)


def start(
    change: Change, kind: DispatchKind, dispatch_id: str, retry: RetryTerms | None = None
) -> Decision[DispatchResult]:
    """Claim a dispatch that the caller has checked to be allowed, and ask for a worker."""
    record = change.record
    claim = Claim(
        kind=kind,
        dispatch_id=dispatch_id,
        epoch=record.next_epoch,
        phase=Phase.CLAIMED,
        claimed_at=change.now,
        lease_until=change.now + change.policy.claim_lease,
        correlation_id=change.correlation_id,
        retry=retry,
    )
    change.log(EventType.CLAIMED, Actor.EDITOR, claim=claim)
    if record.claim is not None:
        change.add_past_claim(record.claim)
    change.set_claim(claim)
    change.task = TaskKind.DISPATCH
    return change.decision(DispatchResult(CallOutcome.STARTED, claim, record.job.status))


def decide_again(change: Change, claim: Claim) -> Decision[DispatchResult]:
    """Replay an accepted dispatch, join one that is under way, or send an unknown one again.

    Raises `OrchestratorDispatchFailed` while an unknown outcome is held.
    """
    now, policy = change.now, change.policy
    may_send = claim.is_recognised(now, policy) or hold_is_over(claim, now, policy)
    if claim.phase is Phase.SENT:
        outcome = CallOutcome.REPLAYED
    # `start_ask` and `resend` make the change and return True, or return False.
    elif claim.phase is not Phase.UNKNOWN or is_asked(claim, now) or start_ask(change):
        outcome = CallOutcome.JOINED
    elif may_send and resend(change, claim, Actor.EDITOR):
        # This call makes a dispatch, so it starts it; the call before was answered 502.
        outcome = CallOutcome.STARTED
    else:
        raise unknown_outcome(claim, now)
    current = change.record.standing(claim.dispatch_id) or claim
    return change.decision(DispatchResult(outcome, current, change.job.status))


def hold_is_over(claim: Claim, now: datetime, policy: DispatchPolicy) -> bool:
    """Whether an unknown dispatch may be sent again to an engine that recognises nothing."""
    hold = policy.unknown_hold
    if policy.window is not None or policy.can_be_asked or hold is None:
        return False
    # Under other settings it may have been due earlier, for another reason, or never.
    over = (claim.sent_at or claim.claimed_at) + hold
    return now >= max(claim.lease_until or over, over)


def unknown_outcome(claim: Claim, now: datetime) -> OrchestratorDispatchFailed:
    """The error while it is not known whether the orchestrator has the dispatch."""
    held = (claim.lease_until - now).total_seconds() if claim.lease_until else 60
    return OrchestratorDispatchFailed(
        OUTCOME_UNKNOWN,
        retry_after=max(1, int(held) + 1),
        message="It is not known whether the workflow was started.",
    )


def outcome_of(
    record: Record, awaited: Claim, now: datetime, *, is_last: bool = False
) -> Claim | None:
    """The accepted claim that a caller waits for as `awaited`; None while its outcome is open.

    Raises `OrchestratorDispatchFailed` if the dispatch failed, and `FsmTerminalImmutable` if the job was
    cancelled meanwhile. While the engine is being asked, an unknown outcome is raised only if `is_last`: the
    wait is over.
    """
    if record.job.status is JobStatus.CANCELLED:
        # Checked first: a late acceptance changes nothing for a caller who still waits.
        raise forbidden_step(record.job.status, JobStatus.AUDIO_EXTRACTING)
    claim, released = record.standing(awaited.dispatch_id), record.released
    if claim is not None and claim.phase is Phase.SENT:
        return claim
    if released is not None and released.epoch >= awaited.epoch:
        raise OrchestratorDispatchFailed(released.reason or ClaimEvent.REFUSED)
    if claim and claim.phase is Phase.UNKNOWN and (is_last or not is_asked(claim, now)):
        raise unknown_outcome(claim, now)
    return None
