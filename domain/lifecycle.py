"""The rules of a job's life outside its dispatch: creation, upload confirmation, edits, cancel, deletion."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from domain.audit import Actor, AuditEvent, EventType
from domain.claim import ClaimEvent, FencingToken, Phase
from domain.claim_rules import settle_claim
from domain.errors import JobAlreadyRunning, NotTerminal, VideoUriConflict
from domain.job import FAILED_BY_OPERATOR, Failure, Job
from domain.job_fsm import TERMINAL_STATUSES, JobStatus
from domain.record import Change, Decision, Record, TaskKind


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


def confirm_upload(change: Change, video_uri: str) -> Decision[bool]:
    """Set the job's video and take it to UPLOADED. The result is whether this was a replay.

    Raises `VideoUriConflict` for another URI than the confirmed one, and what the FSM raises.
    """
    manifest = change.job.manifest
    confirmed = manifest.video_uri
    if confirmed == video_uri:
        return change.decision(True)
    if confirmed is not None:
        raise VideoUriConflict(confirmed, video_uri)
    change.move(JobStatus.UPLOADED, Actor.EDITOR, EventType.UPLOAD_CONFIRMED)
    change.update_job(manifest=manifest.model_copy(update={"video_uri": video_uri}))
    return change.decision(False)


def edit(change: Change, own: Mapping[str, Any]) -> Decision[None]:
    """Set the job's `name` or `metadata`, in any state. Nothing changes if it has these values."""
    if any(getattr(change.job, field) != value for field, value in own.items()):
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


def delete(record: Record, *, forced: bool = False) -> Decision[None]:
    """Delete the job and all that is kept of it.

    Raises `NotTerminal` or `JobAlreadyRunning` unless it is at rest or the deletion is `forced`.
    """
    if not forced and not is_at_rest(record):
        is_terminal = record.job.status in TERMINAL_STATUSES
        refusal = JobAlreadyRunning if is_terminal else NotTerminal
        raise refusal(record.job.status)
    return Decision(None, record, changed=True, deletes=True)


def cancel(change: Change, actor: Actor = Actor.EDITOR) -> Decision[None]:
    """Cancel the job, whatever its dispatch is doing.

    A claim that no worker has begun to send leaves CLAIMED in the same commit, so that no worker can begin it
    any more: it is released, or UNKNOWN if an earlier send is unresolved. One that may have been received
    stays as it is, to be settled. Raises `FsmTerminalImmutable`.
    """
    change.move(JobStatus.CANCELLED, actor, EventType.JOB_CANCELLED)
    if (claim := change.record.claim) is not None:
        event = ClaimEvent.CANCELLED
        settle_claim(change, claim, event, event.value, actor=actor)
    _stop_at_engine(change)
    return change.decision(None)


def fail(change: Change) -> Decision[None]:
    """Fail the job on an operator's word, so that it can be retried, and stop its run where that is possible.

    A run that continues all the same is refused at its next callback. Raises what the FSM raises: a job that
    has not begun to run cannot fail.
    """
    change.move(JobStatus.FAILED, Actor.OPERATOR)
    reason = change.act.reason if change.act else None
    change.update_job(failure=Failure(code=FAILED_BY_OPERATOR, message=reason))
    _stop_at_engine(change)
    return change.decision(None)


def _stop_at_engine(change: Change) -> None:
    if change.record.claim is not None and change.policy.can_cancel:
        # The message can be lost, and the start may still be on its way: the cancel stays due until it is
        # confirmed.
        change.update_claim(cancel_due=True, asks=0, messages=1, ended_at=None)
        change.task = TaskKind.TELL_CANCELLED
    change.set_next_look()


def cancel_notified(
    change: Change, token: FencingToken, outcome: str, is_over: bool
) -> Decision[None]:
    """Record the outcome of a cancel at the orchestrator. It stays due unless that `is_over`.

    The trail has the first try and the last.
    """
    claim = change.record.held_by(token)
    if claim is not None and not claim.cancel_due:
        return change.decision(None)
    if is_over or claim is None or not claim.asks:
        shown = change.record.latest_claim
        change.log(EventType.CANCEL_NOTIFIED, Actor.SYSTEM, claim=shown, reason=outcome)
    if claim is not None:
        is_settled = claim.phase is Phase.SENT
        due = claim.lease_until if not is_settled else change.now + claim.backoff(claim.asks + 1)
        change.update_claim(
            cancel_due=not is_over,
            asks=claim.asks + (not is_over),
            lease_until=None if is_over and is_settled else due,
        )
    return change.decision(None)
