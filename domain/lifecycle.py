"""The rules of a job's life outside its dispatch: creation, upload confirmation, edits, cancel, deletion."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from domain.audit import Actor, AuditEvent, EventType, OperatorAct
from domain.claim import TOLD_AGAIN_AFTER, ClaimEvent, DispatchPolicy, FencingToken, Phase
from domain.claim_rules import settlement
from domain.errors import JobAlreadyRunning, NotTerminal, VideoUriConflict
from domain.job import FAILED_BY_OPERATOR, Failure, Job
from domain.job_fsm import TERMINAL_STATUSES, JobStatus, ensure_not_terminal, ensure_transition
from domain.record import Change, Decision, Record, TaskKind, unchanged


def create_job(
    job_id: str,
    project_id: str,
    owner: str,
    now: datetime,
    correlation_id: str | None,
    own: Mapping[str, Any] | None = None,
) -> Decision[None]:
    """A new job in CREATED with its owner's `name` and `metadata`, and the first event of its trail."""
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
    status = ensure_transition(job.status, JobStatus.UPLOADED)
    change = Change(record, now, correlation_id)
    change.move(status, Actor.EDITOR, EventType.UPLOAD_CONFIRMED)
    change.update_job(manifest=job.manifest.model_copy(update={"video_uri": video_uri}))
    return change.decision(False)


def edit(record: Record, own: Mapping[str, Any], now: datetime) -> Decision[None]:
    """Give the job another `name` or `metadata`, in any state. Values that it has already change nothing."""
    if all(getattr(record.job, field) == value for field, value in own.items()):
        return unchanged(record)
    change = Change(record, now)
    change.update_job(**own)
    return change.decision(None)


def is_at_rest(record: Record) -> bool:
    """Whether nothing will come of the job any more by itself: retention counts, and it may be deleted.

    At rest is a job in a terminal state without a claim in flight, a retry that awaits its first callback,
    or a cancel that is still to be told.
    """
    claim = record.claim
    is_open = claim is not None and (claim.in_flight or claim.awaits_resume or claim.cancel_due)
    return record.job.status in TERMINAL_STATUSES and not is_open


def ensure_at_rest(record: Record) -> None:
    """Refuse unless the job is at rest. Raises `NotTerminal` and `JobAlreadyRunning`."""
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
    """Cancel the job, whatever its dispatch is doing; `act`: an operator does it.

    A claim that no worker has begun to send leaves CLAIMED in the same commit, so that none can begin it any
    more: it is freed, or unknown if an earlier send of it is unresolved. One that may have been received
    stays as it is, to be settled. Raises `FsmTerminalImmutable`.
    """
    ensure_not_terminal(record.job.status, JobStatus.CANCELLED)
    status = ensure_transition(record.job.status, JobStatus.CANCELLED)
    change = Change(record, now, correlation_id, act)
    change.move(status, actor, EventType.JOB_CANCELLED)
    if record.claim is not None:
        event = ClaimEvent.CANCELLED
        settlement(change, record.claim, event, event.value, policy, actor=actor)
    return _stopped_at_the_engine(change, policy)


def fail(
    record: Record,
    act: OperatorAct,
    now: datetime,
    policy: DispatchPolicy,
    correlation_id: str | None = None,
) -> Decision[None]:
    """Fail the job on an operator's word, so that it can be retried; its run is stopped where it can be.

    A run that goes on all the same is refused at its next callback. Raises what the FSM raises: a job that has
    not begun to run does not fail.
    """
    change = Change(record, now, correlation_id, act)
    change.move(ensure_transition(record.job.status, JobStatus.FAILED), Actor.OPERATOR)
    failure = Failure(code=FAILED_BY_OPERATOR, message=act.reason)
    change.update_job(failure=failure)
    return _stopped_at_the_engine(change, policy)


def _stopped_at_the_engine(change: Change, policy: DispatchPolicy) -> Decision[None]:
    """The finished decision, with the word to the engine that it is to stop, where it takes one."""
    claim, now = change.record.claim, change.now
    if claim is None or not policy.can_cancel:
        change.set_next_look(policy)
        return change.decision(None)
    # The message can be lost, and the start may still be on its way: it stays due until it is told.
    due = now + TOLD_AGAIN_AFTER
    if claim.lease_until is not None:
        is_sending = claim.phase is Phase.SENDING  # whose lease is its worker's
        due = claim.lease_until if is_sending else min(due, claim.lease_until)
    change.update_claim(cancel_due=True, asks=0, ended_at=None, lease_until=due)
    return change.decision(None, task=TaskKind.TELL_CANCELLED)


def cancel_notified(
    record: Record, token: FencingToken, outcome: str, is_told: bool, now: datetime
) -> Decision[None]:
    """Note the outcome of telling the orchestrator that the job was cancelled; until told, it stays due.

    The trail has the first try and the last.
    """
    claim = record.held_by(token)
    change = Change(record, now)
    if is_told or claim is None or not claim.asks:
        change.log(
            EventType.CANCEL_NOTIFIED, Actor.SYSTEM, claim=record.shown_claim, reason=outcome
        )
    if claim is not None and claim.cancel_due:
        is_settled = claim.phase is Phase.SENT
        due = claim.lease_until if not is_settled else now + claim.pause(claim.asks + 1)
        change.update_claim(
            cancel_due=not is_told,
            asks=claim.asks + (not is_told),
            lease_until=None if is_told and is_settled else due,
        )
    return change.decision(None)
