"""The rules of a job's life outside its dispatch: creation, upload confirmation, edits, cancel, deletion."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from domain.audit import Actor, AuditEvent, EventType, OperatorAct
from domain.claim import CANCEL_AGAIN_AFTER, ClaimEvent, DispatchPolicy, FencingToken, Phase
from domain.claim_rules import settle_claim
from domain.errors import JobAlreadyRunning, NotTerminal, VideoUriConflict
from domain.job import FAILED_BY_OPERATOR, Failure, Job
from domain.job_fsm import TERMINAL_STATUSES, JobStatus
from domain.record import Change, Decision, Record, TaskKind, unchanged


def create_job(
    job_id: str,
    project_id: str,
    owner: str,
    now: datetime,
    correlation_id: str | None,
    own: Mapping[str, Any] | None = None,
) -> Decision[None]:
    """A new job in CREATED, with its owner's `name` and `metadata` (`own`) and its first event."""
    job = Job(
        id=job_id,
        project_id=project_id,
        owner=owner,
        status=JobStatus.CREATED,
        status_since=now,
        created_at=now,
        updated_at=now,
        **(own or {}),
    )
    created = AuditEvent(
        EventType.JOB_CREATED, Actor.EDITOR, None, job.status, now, now, correlation_id
    )
    return Decision(None, Record(job), True, (created,))


def confirm_upload(
    record: Record, video_uri: str, now: datetime, correlation_id: str | None
) -> Decision[bool]:
    """Set the job's video and take it to UPLOADED. The result is whether this was a replay.

    Raises `VideoUriConflict` for another URI than the confirmed one, and what the FSM raises.
    """
    job = record.job
    confirmed = job.manifest.video_uri
    if confirmed == video_uri:
        return Decision(True, record)
    if confirmed is not None:
        raise VideoUriConflict(confirmed, video_uri)
    change = Change(record, now, correlation_id)
    change.move(JobStatus.UPLOADED, Actor.EDITOR, EventType.UPLOAD_CONFIRMED)
    change.update_job(manifest=job.manifest.model_copy(update={"video_uri": video_uri}))
    return change.decision(False)


def edit(record: Record, own: Mapping[str, Any], now: datetime) -> Decision[None]:
    """Set the job's `name` or `metadata`, in any state. Nothing changes if it has these values."""
    if all(getattr(record.job, field) == value for field, value in own.items()):
        return unchanged(record)
    change = Change(record, now)
    change.update_job(**own)
    return change.decision(None)


def is_at_rest(record: Record) -> bool:
    """Whether the job may be deleted, and its retention time runs: nothing more happens by itself.

    The job is in a terminal state, and has no claim in flight, no retry that awaits its first callback, and
    no cancel that the orchestrator must still receive.
    """
    claim = record.claim
    is_open = claim is not None and (claim.in_flight or claim.awaits_resume or claim.cancel_due)
    return record.job.status in TERMINAL_STATUSES and not is_open


def ensure_at_rest(record: Record) -> None:
    """Raise `NotTerminal` or `JobAlreadyRunning` unless the job is at rest."""
    if record.job.status not in TERMINAL_STATUSES:
        raise NotTerminal(record.job.status)
    if not is_at_rest(record):
        raise JobAlreadyRunning(record.job.status)


def cancel(
    record: Record,
    now: datetime,
    policy: DispatchPolicy,
    correlation_id: str | None,
    act: OperatorAct | None = None,
    actor: Actor = Actor.EDITOR,
) -> Decision[None]:
    """Cancel the job, whatever its dispatch is doing. `act`: an operator's.

    A claim that no worker has begun to send leaves CLAIMED in the same commit, so that no worker can begin it
    any more: it is released, or UNKNOWN if an earlier send is unresolved. One that may have been received
    stays as it is, to be settled. Raises `FsmTerminalImmutable`.
    """
    change = Change(record, now, correlation_id, act)
    change.move(JobStatus.CANCELLED, actor, EventType.JOB_CANCELLED)
    if record.claim is not None:
        event = ClaimEvent.CANCELLED
        settle_claim(change, record.claim, event, policy, event.value, actor=actor)
    _stop_at_engine(change, policy)
    return change.decision(None)


def fail(
    record: Record,
    act: OperatorAct,
    now: datetime,
    policy: DispatchPolicy,
    correlation_id: str | None = None,
) -> Decision[None]:
    """Fail the job on an operator's word, so that it can be retried, and stop its run where that is possible.

    A run that continues all the same is refused at its next callback. Raises what the FSM raises: a job that
    has not begun to run cannot fail.
    """
    change = Change(record, now, correlation_id, act)
    change.move(JobStatus.FAILED, Actor.OPERATOR)
    change.update_job(failure=Failure(code=FAILED_BY_OPERATOR, message=act.reason))
    _stop_at_engine(change, policy)
    return change.decision(None)


def _stop_at_engine(change: Change, policy: DispatchPolicy) -> None:
    claim = change.record.claim
    if claim is None or not policy.can_cancel:
        change.set_next_look(policy)
        return
    # The message can be lost, and the start may still be on its way: the cancel stays due until it is
    # confirmed.
    due = change.now + CANCEL_AGAIN_AFTER
    if claim.lease_until is not None:
        is_sending = claim.phase is Phase.SENDING  # the lease is its worker's
        due = claim.lease_until if is_sending else min(due, claim.lease_until)
    change.update_claim(cancel_due=True, asks=0, ended_at=None, lease_until=due)
    change.task = TaskKind.TELL_CANCELLED


def cancel_notified(
    record: Record, token: FencingToken, outcome: str, is_received: bool, now: datetime
) -> Decision[None]:
    """Record the outcome of a cancel at the orchestrator. It stays due unless `is_received`.

    The trail has the first try and the last.
    """
    claim = record.held_by(token)
    if claim is not None and not claim.cancel_due:
        return unchanged(record)
    change = Change(record, now)
    if is_received or claim is None or not claim.asks:
        shown = record.shown_claim
        change.log(EventType.CANCEL_NOTIFIED, Actor.SYSTEM, claim=shown, reason=outcome)
    if claim is not None:
        is_settled = claim.phase is Phase.SENT
        due = claim.lease_until if not is_settled else now + claim.backoff(claim.asks + 1)
        change.update_claim(
            cancel_due=not is_received,
            asks=claim.asks + (not is_received),
            lease_until=None if is_received and is_settled else due,
        )
    return change.decision(None)
