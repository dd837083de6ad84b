"""The rules of the orchestrator's status callback."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from domain import errors
from domain.audit import Actor, EventType
from domain.claim import Claim, ClaimEvent, DispatchKind, Phase, Refusal
from domain.job import Failure, Job
from domain.job_fsm import TERMINAL_STATUSES, TRANSITIONS, JobStatus
from domain.record import AppliedEvent, Change, Decision, Record
from domain.run import run_dispatch_id

# How many superseded executions a claim remembers. Each of them leaves one event on the trail.
_MAX_SUPERSEDED = 8
# Every report is kept for good, to recognise its replay. The limits leave room for each step of a run, and
# for some two hundred rounds of editing.
_MAX_REPEATS = 200
_MAX_REPORTS = 1_000

# A claim that was released for one of these reasons may have been received by the orchestrator all the same.
_MAYBE_RECEIVED = frozenset({*Refusal, ClaimEvent.SETTLED_RELEASE})


@dataclass(frozen=True, slots=True)
class StatusCallback:
    """One callback. `digest` is of its canonical payload without `occurred_at`."""

    event_id: str
    digest: str
    status: JobStatus
    occurred_at: datetime
    correlation_id: str
    actor: Actor = Actor.ORCHESTRATOR
    execution_id: str | None = None
    dispatch_id: str | None = None
    artifact_updates: Mapping[str, Any] = field(default_factory=dict)
    failure: Failure | None = None


def apply_callback(change: Change, callback: StatusCallback) -> Decision[bool]:
    """Apply a callback once. The result is whether this was a replay.

    Raises `EventIdPayloadMismatch`, `CallbackOutOfOrder`, what the FSM raises, `ManifestFull`, and
    `ExecutionSuperseded` for a callback of another dispatch than the current one. For another execution of
    the current dispatch, `ExecutionSuperseded` is the decision's `error`, because it leaves an event on the
    trail.
    """
    record, claim = change.record, change.record.latest_claim
    change.correlation_id = callback.correlation_id
    # Without a claim the workflow was started by other means, or the claim was lost. Either way it is the
    # run.
    current = claim.dispatch_id if claim else run_dispatch_id(record.job.id)
    if _is_replay(record.seen, callback, current):
        return change.decision(True)
    superseded = errors.ExecutionSuperseded(claim.execution_id if claim else None)
    if callback.dispatch_id not in (None, current):
        raise superseded
    if _is_superseded(record, callback.execution_id):
        return _note_superseded(change, callback, superseded)
    resumes = _resumes(change, callback)
    # Each dispatch begins a new order: the clock of the one before may have been ahead.
    latest = record.job.latest_occurred_at
    if not resumes and latest is not None and callback.occurred_at < latest:
        raise errors.CallbackOutOfOrder(latest, record.job.status, callback.status)
    _ensure_not_too_often(record.job, callback.status)
    _take_step(change, callback, resumes=resumes)
    _keep_report(change, callback, is_first=resumes)
    change.set_next_look()
    return change.decision(
        False, callback=(callback.event_id, AppliedEvent(callback.digest, current))
    )


def _is_replay(seen: AppliedEvent | None, callback: StatusCallback, current: str) -> bool:
    """Whether this callback was applied before. Raises `EventIdPayloadMismatch`.

    An event id is unique within its dispatch. A workflow that derives it from the job alone uses it again
    under a retry: that is a new event if the callback names its dispatch, and ambiguous if it does not.
    """
    if seen is None:
        return False
    if not seen.dispatch_id:
        return True  # an earlier release's digest is of another form
    is_same_dispatch = seen.dispatch_id == (callback.dispatch_id or current)
    if callback.dispatch_id is not None and not is_same_dispatch:
        return False
    if not is_same_dispatch or seen.digest != callback.digest:
        raise errors.EventIdPayloadMismatch(callback.event_id)
    return True


def _ensure_not_too_often(job: Job, status: JobStatus) -> None:
    """Raise `FsmTransitionInvalid` for a step that the FSM allows, but that was reported too often.

    After too many repeats a job must leave its state, after too many reports it must end.
    """
    steps = allowed = TRANSITIONS[job.status]
    if job.reports >= _MAX_REPORTS:
        allowed = tuple(step for step in steps if step in TERMINAL_STATUSES)
    elif job.repeats >= _MAX_REPEATS:
        allowed = tuple(step for step in steps if step is not job.status)
    if status in steps and status not in allowed:
        raise errors.FsmTransitionInvalid(job.status, status, list(allowed))


def _is_superseded(record: Record, execution_id: str | None) -> bool:
    if execution_id is None:
        return False
    claim = record.latest_claim
    if claim is not None and claim.execution_id is not None:
        return claim.execution_id != execution_id
    return any(past.execution_id == execution_id for past in record.replaced)


def _note_superseded(
    change: Change, callback: StatusCallback, error: errors.ExecutionSuperseded
) -> Decision[bool]:
    claim, execution_id = change.record.claim, callback.execution_id or ""
    known = claim.superseded if claim else ()
    if claim is not None and execution_id not in known and len(known) < _MAX_SUPERSEDED:
        change.log(EventType.SUPERSEDED, Actor.ORCHESTRATOR, claim=claim, execution_id=execution_id)
        change.update_claim(superseded=(*known, execution_id))
    return change.decision(False, error=error)


def _take_step(change: Change, callback: StatusCallback, *, resumes: bool) -> None:
    claim, checkpoint = change.record.latest_claim, None
    if claim is not None and _is_late(change.job, claim, callback):
        # The engine said first that the run ended badly. The run's own report has its artifacts and failure.
        change.log(EventType.REPORTED_LATE, callback.actor, occurred_at=callback.occurred_at)
        return
    if claim is not None and resumes:
        checkpoint = _checkpoint(claim, callback.status)
        _prove(change, claim)
        change.update_claim(resumed=True)
        change.update_job(failure=None)
    elif change.job.status is JobStatus.UPLOADED:
        _leave_uploaded(change, claim, callback)
    change.move(
        callback.status, callback.actor, occurred_at=callback.occurred_at, checkpoint=checkpoint
    )


def _is_late(job: Job, claim: Claim, callback: StatusCallback) -> bool:
    # Limited like any other report. For a retry it must name the dispatch, or it may be an earlier run's.
    is_own = claim.kind is DispatchKind.RUN or callback.dispatch_id is not None
    is_ended = claim.is_dead and job.status is JobStatus.FAILED
    return is_ended and is_own and job.reports < _MAX_REPORTS


def _resumes(change: Change, callback: StatusCallback) -> bool:
    """Whether this callback is a retry's first, which takes the job out of FAILED.

    Where the engine can be asked, no dispatch depends on a callback to be settled: there the callback must
    name its dispatch, because a late one of an earlier run must not resume the job.
    """
    claim = change.record.latest_claim
    if claim is None or change.job.status is not JobStatus.FAILED:
        return False
    if change.policy.can_be_asked and callback.dispatch_id is None:
        return False
    # Before anything of this retry was sent, a callback is a late one of an earlier execution. If it resumed
    # the job, the retry would never be dispatched.
    return claim.awaits_resume and _maybe_received(change.record, claim)


def _maybe_received(record: Record, claim: Claim) -> bool:
    if claim.phase is Phase.CLAIMED and not claim.sends:
        freed = record.released
        if freed is None or freed.dispatch_id != claim.dispatch_id:
            return False
        return _maybe_received(record, freed)
    # An orchestrator that answered with an error, or whose answer was lost, can still have started a released
    # retry, but not if nothing was ever sent.
    return claim.phase is not Phase.RELEASED or claim.reason in _MAYBE_RECEIVED or claim.sends > 1


def _checkpoint(claim: Claim, status: JobStatus) -> JobStatus:
    """The state from which a retry's first callback, to `status`, is judged."""
    resumed_from = claim.retry.resume_from_status if claim.retry else JobStatus.UPLOADED
    if status is JobStatus.FAILED and resumed_from is JobStatus.UPLOADED:
        # A retry from the very start may fail at once. UPLOADED cannot fail, but its first step can. If this
        # were refused, the retry would count as under way for ever.
        return JobStatus.AUDIO_EXTRACTING
    return resumed_from


def _leave_uploaded(change: Change, claim: Claim | None, callback: StatusCallback) -> None:
    first_step = JobStatus.AUDIO_EXTRACTING
    if claim is not None or callback.status is first_step:
        _prove(change, claim or _external_claim(change))
    if claim is not None and callback.status not in (first_step, JobStatus.CANCELLED):
        # The callback has overtaken the answer to the dispatch.
        change.move(first_step, callback.actor)


def _prove(change: Change, claim: Claim) -> None:
    proved = claim.after(ClaimEvent.PROVED, change.now, change.policy)
    if proved is not None:
        change.log(EventType.PROVED, Actor.ORCHESTRATOR, claim=proved)
        change.set_claim(proved)


def _external_claim(change: Change) -> Claim:
    # The workflow was started by other means and runs, so this service must never start it again.
    return Claim(
        kind=DispatchKind.RUN,
        dispatch_id=run_dispatch_id(change.job.id),
        epoch=change.record.next_epoch,
        phase=Phase.RELEASED,
        claimed_at=change.now,
        lease_until=None,
    )


def _keep_report(change: Change, callback: StatusCallback, *, is_first: bool) -> None:
    before = change.before.job
    change.update_job(
        latest_occurred_at=callback.occurred_at,
        reported_at=change.now,
        silent_since=None,
        reports=1 if is_first else before.reports + 1,
        repeats=before.repeats + 1 if callback.status is before.status else 0,
    )
    if callback.artifact_updates:
        change.update_job(manifest=change.job.manifest.merged(dict(callback.artifact_updates)))
    if callback.status is JobStatus.FAILED:
        change.update_job(failure=callback.failure or Failure())
    claim = change.record.claim
    execution_id = (claim and claim.execution_id) or callback.execution_id
    change.update_claim(execution_id=execution_id, asked_at=None, run_state=None, ended_at=None)
