"""The rules of the orchestrator's status callback: replay, order, execution, step, and proof."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from domain import claim as protocol
from domain.change import Decision, Draft, Record
from domain.claim import Claim, ClaimEvent, DispatchKind, DispatchPolicy, Phase
from domain.dispatching import retry_awaits_resume, run_dispatch_id
from domain.errors import (
    CallbackOutOfOrder,
    EventIdPayloadMismatch,
    ExecutionSuperseded,
)
from domain.job_fsm import JobStatus, ensure_transition
from domain.models import Failure
from domain.trail import Actor, EventType

# How many superseded executions a claim remembers, so that each of them leaves one line on the trail.
_MOST_SUPERSEDED = 8


@dataclass(frozen=True, slots=True)
class StatusCallback:
    """One callback as it was sent. `digest` is of its canonical payload."""

    event_id: str
    digest: str
    status: JobStatus
    occurred_at: datetime
    correlation_id: str
    actor: Actor = Actor.ORCHESTRATOR
    execution_id: str | None = None
    artifact_updates: Mapping[str, Any] = field(default_factory=dict)
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class CallbackAnswer:
    """Whether the callback had been applied before, and the record as it now stands."""

    replayed: bool
    record: Record


def apply_callback(
    record: Record,
    seen_digest: str | None,
    callback: StatusCallback,
    now: datetime,
    policy: DispatchPolicy,
) -> Decision[CallbackAnswer]:
    """Apply a callback once. `seen_digest` is what this event_id brought before, if it came before.

    Raises `EventIdPayloadMismatch`, `CallbackOutOfOrder` and what the FSM raises; answers a superseded
    execution with the error `ExecutionSuperseded` and a line on the trail.
    """
    if seen_digest is not None:
        if seen_digest != callback.digest:
            raise EventIdPayloadMismatch(callback.event_id)
        return Decision(CallbackAnswer(True, record))
    if _is_superseded(record, callback.execution_id):
        return _refuse_superseded(record, callback, now)
    _ensure_in_order(record, callback)
    draft = Draft(record, now, callback.correlation_id)
    _take_step(draft, callback, policy)
    _keep_execution(draft, callback)
    _merge(draft, callback)
    change = draft.change(callback=(callback.event_id, callback.digest))
    return Decision(CallbackAnswer(False, draft.record), change)


def _ensure_in_order(record: Record, callback: StatusCallback) -> None:
    latest = record.job.latest_occurred_at
    if latest is not None and callback.occurred_at < latest:
        raise CallbackOutOfOrder(latest, record.job.status, callback.status)


def _is_superseded(record: Record, execution_id: str | None) -> bool:
    if execution_id is None:
        return False
    claim = record.shown_claim
    if claim is not None and claim.execution_id is not None:
        return claim.execution_id != execution_id
    return any(earlier.execution_id == execution_id for earlier in record.job.earlier.values())


def _refuse_superseded(
    record: Record, callback: StatusCallback, now: datetime
) -> Decision[CallbackAnswer]:
    claim, execution_id = record.claim, callback.execution_id or ""
    answer = CallbackAnswer(False, record)
    kept = record.shown_claim
    error = ExecutionSuperseded(kept.execution_id if kept else None)
    if (
        claim is None
        or execution_id in claim.superseded
        or len(claim.superseded) >= _MOST_SUPERSEDED
    ):
        return Decision(answer, error=error)
    draft = Draft(record, now, callback.correlation_id)
    draft.note(EventType.SUPERSEDED, Actor.ORCHESTRATOR, claim=claim, execution_id=execution_id)
    noted = claim.model_copy(update={"superseded": (*claim.superseded, execution_id)})
    draft.set_claim(noted)
    return Decision(answer, draft.change(), error)


def _take_step(draft: Draft, callback: StatusCallback, policy: DispatchPolicy) -> None:
    record, claim, job = draft.record, draft.record.shown_claim, draft.job
    if job.status is JobStatus.FAILED and claim is not None and _may_leave_failed(record, claim):
        _leave_failed(draft, claim, callback, policy)
    elif job.status is JobStatus.UPLOADED:
        _leave_uploaded(draft, claim, callback, policy)
    else:
        _move(draft, callback, ensure_transition(job.status, callback.status))


def _may_leave_failed(record: Record, claim: Claim) -> bool:
    # A callback that comes before anything of this retry was sent is a straggler of an earlier
    # execution. It would take the job on, and the retry's dispatch would never be sent.
    return retry_awaits_resume(claim) and _maybe_received(record, claim)


def _maybe_received(record: Record, claim: Claim) -> bool:
    if claim.phase is Phase.CLAIMED and not claim.sends:
        freed = record.job.released
        same = freed is not None and freed.dispatch_id == claim.dispatch_id
        return same and freed is not None and _maybe_received(record, freed)
    # A released retry can still have been started by an orchestrator that answered with an error, or
    # whose answer was lost, but not if nothing was ever sent.
    return (
        claim.phase is not Phase.RELEASED
        or claim.reason in (ClaimEvent.REFUSED, ClaimEvent.SETTLED_RELEASE)
        or claim.sends > 1
    )


def _leave_failed(
    draft: Draft, claim: Claim, callback: StatusCallback, policy: DispatchPolicy
) -> None:
    assert claim.retry is not None
    resumed_from = claim.retry.resume_from_status
    if callback.status is JobStatus.FAILED and resumed_from is JobStatus.UPLOADED:
        # A retry from the very start may fail at once. UPLOADED cannot fail, its first step can; were this
        # refused, the retry would count as under way for ever.
        resumed_from = JobStatus.AUDIO_EXTRACTING
    status = ensure_transition(resumed_from, callback.status)
    proved = _prove(draft, claim, policy)
    draft.set_claim(proved.model_copy(update={"resumed": True}))
    draft.update_job(failure=None)
    _move(draft, callback, status)


def _leave_uploaded(
    draft: Draft, claim: Claim | None, callback: StatusCallback, policy: DispatchPolicy
) -> None:
    step = JobStatus.AUDIO_EXTRACTING
    is_direct = claim is None or callback.status in (step, JobStatus.CANCELLED)
    # Otherwise the orchestrator is already further than the answer to its dispatch.
    status = ensure_transition(draft.job.status if is_direct else step, callback.status)
    if claim is not None or status is step:
        draft.set_claim(_prove(draft, claim, policy))
    if not is_direct:
        draft.move(ensure_transition(draft.job.status, step), callback.actor)
    _move(draft, callback, status)


def _prove(draft: Draft, claim: Claim | None, policy: DispatchPolicy) -> Claim:
    if claim is None:
        claim = _claim_nobody_made(draft)
    proved = protocol.settle(claim, ClaimEvent.PROVED, draft.now, policy)
    if proved is None:
        return claim
    draft.note(EventType.PROVED, Actor.ORCHESTRATOR, claim=proved)
    return proved


def _claim_nobody_made(draft: Draft) -> Claim:
    # Somebody started the workflow around us. It runs, so a run of ours must never start it again.
    return Claim(
        kind=DispatchKind.RUN,
        dispatch_id=run_dispatch_id(draft.job.id),
        epoch=draft.record.next_epoch,
        phase=Phase.RELEASED,
        claimed_at=draft.now,
        lease_until=None,
    )


def _move(draft: Draft, callback: StatusCallback, status: JobStatus) -> None:
    draft.move(status, callback.actor, occurred_at=callback.occurred_at)


def _keep_execution(draft: Draft, callback: StatusCallback) -> None:
    claim = draft.claim
    if claim is not None and claim.execution_id is None and callback.execution_id is not None:
        draft.set_claim(claim.model_copy(update={"execution_id": callback.execution_id}))


def _merge(draft: Draft, callback: StatusCallback) -> None:
    draft.update_job(latest_occurred_at=callback.occurred_at)
    if callback.artifact_updates:
        draft.update_job(manifest=draft.job.manifest.merged(dict(callback.artifact_updates)))
    if callback.status is JobStatus.FAILED:
        draft.update_job(failure=callback.failure or Failure())
