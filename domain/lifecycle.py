"""The rules of a job's life outside its dispatch: it is made, its upload is confirmed, it is cancelled."""

from datetime import datetime

from domain import claim as protocol
from domain.change import Change, Decision, Draft, Errand, Record
from domain.claim import Claim, ClaimEvent, DispatchPolicy, Phase
from domain.errors import VideoUriConflict
from domain.job_fsm import JobStatus, ensure_not_terminal, ensure_transition
from domain.models import Job
from domain.trail import Actor, EventType, TrailEvent


def create_job(
    job_id: str, project_id: str, owner: str, now: datetime, correlation_id: str | None
) -> Change:
    """A new job in CREATED, and the first line of its trail."""
    job = Job(
        id=job_id,
        project_id=project_id,
        owner=owner,
        status=JobStatus.CREATED,
        created_at=now,
        updated_at=now,
    )
    born = TrailEvent(
        event_type=EventType.JOB_CREATED,
        actor=Actor.EDITOR,
        from_status=None,
        to_status=job.status,
        occurred_at=now,
        recorded_at=now,
        correlation_id=correlation_id,
    )
    return Change(Record(job), (born,))


def confirm_upload(
    record: Record, video_uri: str, now: datetime, correlation_id: str | None
) -> Decision[bool]:
    """Set the job's video and take it to UPLOADED. The answer is whether this was a replay.

    Raises `VideoUriConflict` for another URI than the confirmed one, and what the FSM raises.
    """
    job = record.job
    confirmed = job.manifest.video_uri
    if confirmed == video_uri:
        return Decision(True)
    if confirmed is not None:
        raise VideoUriConflict(confirmed, video_uri)
    status = ensure_transition(job.status, JobStatus.UPLOADED)
    draft = Draft(record, now, correlation_id)
    draft.move(status, Actor.EDITOR, EventType.UPLOAD_CONFIRMED)
    draft.update_job(manifest=job.manifest.model_copy(update={"video_uri": video_uri}))
    return Decision(False, draft.change())


def cancel(
    record: Record, now: datetime, policy: DispatchPolicy, correlation_id: str | None
) -> Decision[Record]:
    """Give the job up, whatever its dispatch is doing.

    A claim that nobody has begun to send is freed here, in the same commit, so that no worker can begin
    it any more. One that may have been received stays as it is, to be settled. Raises
    `FsmTerminalImmutable`.
    """
    ensure_not_terminal(record.job.status, JobStatus.CANCELLED)
    status = ensure_transition(record.job.status, JobStatus.CANCELLED)
    draft = Draft(record, now, correlation_id)
    draft.move(status, Actor.EDITOR, EventType.JOB_CANCELLED)
    freed = _free_unsent(record, now, policy)
    if freed is not None:
        draft.note(EventType.RELEASED, Actor.EDITOR, claim=freed, reason=freed.reason)
        draft.set_claim(freed)
    # A claim that was freed unsent may have been sent before, under an earlier epoch.
    maybe_received = draft.claim is not None or (freed is not None and freed.sends > 0)
    errand = Errand.TELL_CANCELLED if maybe_received else None
    return Decision(draft.record, draft.change(errand=errand))


def _free_unsent(record: Record, now: datetime, policy: DispatchPolicy) -> Claim | None:
    if record.claim is None:
        return None
    event = ClaimEvent.CANCELLED
    freed = protocol.settle(record.claim, event, now, policy, event.value)
    return freed if freed is not None and freed.phase is Phase.RELEASED else None


def cancel_notified(record: Record, came_of_it: str, now: datetime) -> Change:
    """Say on the trail what came of telling the orchestrator that the job was cancelled."""
    draft = Draft(record, now)
    draft.note(EventType.CANCEL_NOTIFIED, Actor.SYSTEM, claim=record.shown_claim, reason=came_of_it)
    return draft.change()
