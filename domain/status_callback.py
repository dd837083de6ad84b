"""The rules of the orchestrator's status callback: replay, dispatch, execution, order, step, and proof."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from domain import errors
from domain.audit import Actor, EventType
from domain.claim import Claim, ClaimEvent, DispatchKind, DispatchPolicy, Phase, Refusal
from domain.job import Failure, Job
from domain.job_fsm import TERMINAL_STATUSES, TRANSITIONS, JobStatus, ensure_transition
from domain.record import AppliedEvent, Change, Decision, Record
from domain.run import run_dispatch_id

# How many superseded executions a claim remembers, so that each of them leaves one event on the trail.
_MOST_SUPERSEDED = 8
# Every report is kept for good, to know it again. The three states that may follow themselves leave room
# for each step of a run, and for some two hundred rounds of editing.
_MOST_REPEATS = 200
_MOST_REPORTS = 1_000

# Why a claim was released that the orchestrator may have received all the same.
_MAYBE_RECEIVED = frozenset({*Refusal, ClaimEvent.SETTLED_RELEASE})


@dataclass(frozen=True, slots=True)
class StatusCallback:
    """One callback as it was sent. `digest` is of its canonical payload without `occurred_at`."""

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


def apply_callback(
    record: Record, callback: StatusCallback, now: datetime, policy: DispatchPolicy
) -> Decision[bool]:
    """Apply a callback once. The result is whether this was a replay.

    Raises `EventIdPayloadMismatch`, `CallbackOutOfOrder`, what the FSM raises, `ManifestFull`, and
    `ExecutionSuperseded` for a callback that names another dispatch than the current one. A superseded
    execution is answered with that error by the decision, and leaves an event on the trail.
    """
    claim = record.shown_claim
    # Without a claim the workflow was started around this service, or the claim was lost: a run in any case.
    current = claim.dispatch_id if claim else run_dispatch_id(record.job.id)
    if _is_replay(record.seen, callback, current):
        return Decision(True, record)
    superseded = errors.ExecutionSuperseded(claim.execution_id if claim else None)
    if callback.dispatch_id not in (None, current):
        raise superseded
    if _is_superseded(record, callback.execution_id):
        return _note_superseded(record, callback, now, superseded)
    resumes = _resumes(record, callback, policy)
    # Each dispatch begins an order of its own: the one before may have had a clock that was ahead.
    latest = record.job.latest_occurred_at
    if not resumes and latest is not None and callback.occurred_at < latest:
        raise errors.CallbackOutOfOrder(latest, record.job.status, callback.status)
    _ensure_not_too_often(record.job, callback.status)
    change = Change(record, now, callback.correlation_id)
    _take_step(change, callback, policy, resumes=resumes)
    _keep_report(change, record.job, callback, is_first=resumes)
    change.set_next_look(policy)
    return change.decision(
        False, callback=(callback.event_id, AppliedEvent(callback.digest, current))
    )


def _is_replay(seen: AppliedEvent | None, callback: StatusCallback, current: str) -> bool:
    """Whether this callback was applied before. Raises `EventIdPayloadMismatch`.

    An event id counts within its dispatch. A workflow that makes it of the job alone names the same one
    under a retry: that is a new event if the callback names its dispatch, and cannot be told if not.
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
    """Raise `FsmTransitionInvalid` for a step that the FSM allows and that was reported too often.

    After too many repeats a job can only go on, after too many reports only end.
    """
    allowed = TRANSITIONS[job.status]
    if job.reports >= _MOST_REPORTS:
        allowed = tuple(each for each in allowed if each in TERMINAL_STATUSES)
    elif job.repeats >= _MOST_REPEATS:
        allowed = tuple(each for each in allowed if each is not job.status)
    if status in TRANSITIONS[job.status] and status not in allowed:
        raise errors.FsmTransitionInvalid(job.status, status, list(allowed))


def _is_superseded(record: Record, execution_id: str | None) -> bool:
    if execution_id is None:
        return False
    claim = record.shown_claim
    if claim is not None and claim.execution_id is not None:
        return claim.execution_id != execution_id
    return any(past.execution_id == execution_id for past in record.followed)


def _note_superseded(
    record: Record, callback: StatusCallback, now: datetime, error: errors.ExecutionSuperseded
) -> Decision[bool]:
    claim, execution_id = record.claim, callback.execution_id or ""
    known = claim.superseded if claim else ()
    if claim is None or execution_id in known or len(known) >= _MOST_SUPERSEDED:
        return Decision(False, record, error=error)
    change = Change(record, now, callback.correlation_id)
    change.log(EventType.SUPERSEDED, Actor.ORCHESTRATOR, claim=claim, execution_id=execution_id)
    change.update_claim(superseded=(*known, execution_id))
    return change.decision(False, error=error)


def _take_step(
    change: Change, callback: StatusCallback, policy: DispatchPolicy, *, resumes: bool
) -> None:
    claim, status = change.record.shown_claim, change.job.status
    if claim is not None and _is_late(change.job, claim, callback):
        # The engine's word came before the run's own last report, whose artifacts and failure are kept.
        change.log(EventType.REPORTED_LATE, callback.actor, occurred_at=callback.occurred_at)
        return
    if claim is not None and resumes:
        to_status = _leave_failed(change, claim, callback, policy)
    elif status is JobStatus.UPLOADED:
        to_status = _leave_uploaded(change, claim, callback, policy)
    else:
        to_status = ensure_transition(status, callback.status)
    change.move(to_status, callback.actor, occurred_at=callback.occurred_at)


def _is_late(job: Job, claim: Claim, callback: StatusCallback) -> bool:
    # As often as any other report; and of a retry, only if it says that it is not an earlier run's.
    is_own = claim.kind is DispatchKind.RUN or callback.dispatch_id is not None
    is_ended = claim.is_dead and job.status is JobStatus.FAILED
    return is_ended and is_own and job.reports < _MOST_REPORTS


def _resumes(record: Record, callback: StatusCallback, policy: DispatchPolicy) -> bool:
    """Whether this callback is a retry's first, which takes the job out of FAILED.

    An engine that can be asked does not depend on a callback to settle a dispatch: there only a callback that
    names its dispatch may do so, because a late one of an earlier run must not.
    """
    claim = record.shown_claim
    if claim is None or record.job.status is not JobStatus.FAILED:
        return False
    if policy.can_be_asked and callback.dispatch_id is None:
        return False
    # A callback that comes before anything of this retry was sent is late and of an earlier execution. It
    # would take the job on, and the retry's dispatch would never be sent.
    return claim.awaits_resume and _maybe_received(record, claim)


def _maybe_received(record: Record, claim: Claim) -> bool:
    if claim.phase is Phase.CLAIMED and not claim.sends:
        freed = record.released
        same = freed is not None and freed.dispatch_id == claim.dispatch_id
        return same and freed is not None and _maybe_received(record, freed)
    # A released retry can still have been started by an orchestrator that answered with an error, or
    # whose answer was lost, but not if nothing was ever sent.
    return claim.phase is not Phase.RELEASED or claim.reason in _MAYBE_RECEIVED or claim.sends > 1


def _leave_failed(
    change: Change, claim: Claim, callback: StatusCallback, policy: DispatchPolicy
) -> JobStatus:
    resumed_from = claim.retry.resume_from_status if claim.retry else JobStatus.UPLOADED
    if callback.status is JobStatus.FAILED and resumed_from is JobStatus.UPLOADED:
        # A retry from the very start may fail at once. UPLOADED cannot fail, its first step can; were this
        # refused, the retry would count as under way for ever.
        resumed_from = JobStatus.AUDIO_EXTRACTING
    status = ensure_transition(resumed_from, callback.status)
    proved = _prove(change, claim, policy)
    change.set_claim(proved.model_copy(update={"resumed": True}))
    change.update_job(failure=None)
    return status


def _leave_uploaded(
    change: Change, claim: Claim | None, callback: StatusCallback, policy: DispatchPolicy
) -> JobStatus:
    step = JobStatus.AUDIO_EXTRACTING
    is_direct = claim is None or callback.status in (step, JobStatus.CANCELLED)
    # Otherwise the orchestrator is already further than the answer to its dispatch.
    status = ensure_transition(change.job.status if is_direct else step, callback.status)
    if claim is not None or status is step:
        change.set_claim(_prove(change, claim or _external_claim(change), policy))
    if not is_direct:
        change.move(ensure_transition(change.job.status, step), callback.actor)
    return status


def _prove(change: Change, claim: Claim, policy: DispatchPolicy) -> Claim:
    proved = claim.after(ClaimEvent.PROVED, change.now, policy)
    if proved is None:
        return claim
    change.log(EventType.PROVED, Actor.ORCHESTRATOR, claim=proved)
    return proved


def _external_claim(change: Change) -> Claim:
    # The workflow was started around this service. It runs, so a run of ours must never start it again.
    return Claim(
        kind=DispatchKind.RUN,
        dispatch_id=run_dispatch_id(change.job.id),
        epoch=change.record.next_epoch,
        phase=Phase.RELEASED,
        claimed_at=change.now,
        lease_until=None,
    )


def _keep_report(change: Change, before: Job, callback: StatusCallback, *, is_first: bool) -> None:
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
