"""The rules of run and retry: who may claim a dispatch, who joins it, who is told what came of it."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256

from domain import claim as protocol
from domain.change import Change, Decision, Draft, Errand, Record
from domain.claim import Claim, ClaimEvent, DispatchKind, DispatchPolicy, Phase, RetryTerms
from domain.errors import (
    ClientRequestMismatch,
    FsmTransitionInvalid,
    JobAlreadyRunning,
    OrchestratorDispatchFailed,
    RetryNotAllowedState,
)
from domain.job_fsm import (
    RUNNING_STATUSES,
    TRANSITIONS,
    JobStatus,
    ensure_not_terminal,
    ensure_transition,
)
from domain.models import Job
from domain.trail import Actor, EventType

OUTCOME_UNKNOWN = "outcome_unknown"

# The furthest checkpoint first: where a retry goes on, and which artifact it goes on from.
_CHECKPOINTS = (
    ("draft_uri", JobStatus.DRAFT_READY),
    ("transcript_uri", JobStatus.TRANSCRIPT_READY),
    ("audio_uri", JobStatus.AUDIO_READY),
    ("video_uri", JobStatus.UPLOADED),
)


class Role(StrEnum):
    """What a caller of run or retry is to the dispatch."""

    FIRST = "first"  # it made the claim
    JOINER = "joiner"  # another call did, and its outcome is not known yet
    REPLAY = "replay"  # the dispatch stands


@dataclass(frozen=True, slots=True)
class Admission:
    """A caller that was let in: what it is to which dispatch, and the record that this is true of."""

    role: Role
    claim: Claim
    record: Record


def run_dispatch_id(job_id: str) -> str:
    """The id under which this job's run is dispatched, always the same: `[a-z][a-z0-9-]{0,62}`."""
    return f"run-{job_id}"


def retry_dispatch_id(job_id: str, client_request_id: str) -> str:
    """The id of the retry that this client request asks for, always the same for the same request."""
    digest = sha256(client_request_id.encode()).hexdigest()[:16]
    return f"retry-{job_id}-{digest}"


def decide_run(
    record: Record, now: datetime, policy: DispatchPolicy, correlation_id: str | None = None
) -> Decision[Admission]:
    """Let a run claim, join or replay, in the contract's order of checks.

    Raises `FsmTerminalImmutable`, `FsmTransitionInvalid`, or `OrchestratorDispatchFailed` while the
    outcome of an earlier try is unknown and held.
    """
    job, attempted = record.job, JobStatus.AUDIO_EXTRACTING
    ensure_not_terminal(job.status, attempted)
    standing = standing_claim(record, run_dispatch_id(job.id))
    if standing is not None:
        return _admit_again(record, standing, now, policy, correlation_id)
    _ensure_uploaded(job)
    claim = _new_claim(record, DispatchKind.RUN, run_dispatch_id(job.id), now, policy)
    return _admit_first(record, claim, now, correlation_id)


def _ensure_uploaded(job: Job) -> None:
    # AUDIO_EXTRACTING may follow itself, but only a callback may say so: a run starts from UPLOADED.
    if job.status is not JobStatus.UPLOADED or not job.manifest.video_uri:
        attempted = JobStatus.AUDIO_EXTRACTING
        raise FsmTransitionInvalid(job.status, attempted, TRANSITIONS[job.status])
    ensure_transition(job.status, JobStatus.AUDIO_EXTRACTING)


def decide_retry(
    record: Record,
    client_request_id: str,
    model_profile: str,
    now: datetime,
    policy: DispatchPolicy,
    correlation_id: str | None = None,
) -> Decision[Admission]:
    """Let a retry claim, join or replay.

    Raises `ClientRequestMismatch`, `JobAlreadyRunning`, `RetryNotAllowedState`, or
    `OrchestratorDispatchFailed` while the outcome of an earlier try is unknown and held.
    """
    job = record.job
    dispatch_id = retry_dispatch_id(job.id, client_request_id)
    standing = standing_claim(record, dispatch_id)
    if standing is not None:
        if standing.retry is None or standing.retry.model_profile != model_profile:
            raise ClientRequestMismatch
        return _admit_again(record, standing, now, policy, correlation_id)
    _ensure_retryable(record)
    terms = _retry_terms(job, model_profile)
    claim = _new_claim(record, DispatchKind.RETRY, dispatch_id, now, policy, terms)
    return _admit_first(record, claim, now, correlation_id)


def _ensure_retryable(record: Record) -> None:
    job, claim = record.job, record.claim
    awaited = claim is not None and (claim.in_flight or retry_awaits_resume(claim))
    if job.status in RUNNING_STATUSES or awaited:
        raise JobAlreadyRunning(job.status)
    if job.status is not JobStatus.FAILED:
        raise RetryNotAllowedState(job.status, JobStatus.REGENERATING)


def retry_awaits_resume(claim: Claim) -> bool:
    """Whether this is a retry whose first callback, which takes the job out of FAILED, is still due."""
    return claim.kind is DispatchKind.RETRY and not claim.resumed


def _retry_terms(job: Job, model_profile: str) -> RetryTerms:
    for key, status in _CHECKPOINTS:
        artifact = getattr(job.manifest, key)
        if artifact:
            return RetryTerms(
                resume_from_status=status, checkpoint_ref=artifact, model_profile=model_profile
            )
    raise RetryNotAllowedState(job.status, JobStatus.REGENERATING)


def standing_claim(record: Record, dispatch_id: str) -> Claim | None:
    """The claim of this dispatch if one stands: the job's present one, or one that a retry followed."""
    if record.claim is not None and record.claim.dispatch_id == dispatch_id:
        return record.claim
    return record.job.earlier.get(dispatch_id)


def _new_claim(
    record: Record,
    kind: DispatchKind,
    dispatch_id: str,
    now: datetime,
    policy: DispatchPolicy,
    retry: RetryTerms | None = None,
) -> Claim:
    return Claim(
        kind=kind,
        dispatch_id=dispatch_id,
        epoch=record.next_epoch,
        phase=Phase.CLAIMED,
        claimed_at=now,
        lease_until=now + policy.claim_lease,
        retry=retry,
    )


def _admit_first(
    record: Record, claim: Claim, now: datetime, correlation_id: str | None
) -> Decision[Admission]:
    claim = claim.model_copy(update={"correlation_id": correlation_id})
    draft = Draft(record, now, correlation_id)
    draft.note(EventType.CLAIMED, Actor.EDITOR, claim=claim)
    if record.claim is not None:
        earlier = {**record.job.earlier, record.claim.dispatch_id: record.claim}
        draft.update_job(earlier=earlier)
    draft.set_claim(claim)
    return Decision(
        Admission(Role.FIRST, claim, draft.record), draft.change(errand=Errand.DISPATCH)
    )


def _admit_again(
    record: Record, claim: Claim, now: datetime, policy: DispatchPolicy, correlation_id: str | None
) -> Decision[Admission]:
    if claim.phase is Phase.SENT:
        return Decision(Admission(Role.REPLAY, claim, record))
    if claim.phase is not Phase.UNKNOWN:
        return Decision(Admission(Role.JOINER, claim, record))
    if policy.deduplicates or protocol.may_resend(claim, now):
        change = resend(record, now, policy, Actor.EDITOR, correlation_id)
        if change is not None and change.record.claim is not None:
            # This call makes a dispatch, so it is the first of it; the one before was told 502.
            return Decision(Admission(Role.FIRST, change.record.claim, change.record), change)
    raise unknown_outcome(claim, now)


def resend(
    record: Record,
    now: datetime,
    policy: DispatchPolicy,
    actor: Actor,
    correlation_id: str | None = None,
) -> Change | None:
    """Claim an unknown dispatch afresh under its own id; None if there is nothing to send again."""
    if record.claim is None:
        return None
    claim = protocol.resend(record.claim, record.next_epoch, now, policy)
    if claim is None or not wants_dispatch(record.job, claim):
        return None
    draft = Draft(record, now, correlation_id or claim.correlation_id)
    draft.note(EventType.RESENT, actor, claim=claim)
    draft.set_claim(claim)
    return draft.change(errand=Errand.DISPATCH)


def wants_dispatch(job: Job, claim: Claim) -> bool:
    """Whether the job is still where this dispatch would start from."""
    start = JobStatus.UPLOADED if claim.kind is DispatchKind.RUN else JobStatus.FAILED
    return job.status is start


def unknown_outcome(claim: Claim, now: datetime) -> OrchestratorDispatchFailed:
    """The answer while nobody knows whether the orchestrator has the dispatch."""
    held = (claim.lease_until - now).total_seconds() if claim.lease_until else 60
    return OrchestratorDispatchFailed(OUTCOME_UNKNOWN, retry_after=max(1, int(held) + 1))


def outcome_of(record: Record, awaited: Claim, now: datetime) -> Claim | None:
    """What came of the claim that a caller waits for: the settled claim, or None while it is open.

    Raises what the caller is to be told if the dispatch did not come to stand:
    `OrchestratorDispatchFailed`, or `FsmTerminalImmutable` if the job was cancelled meanwhile.
    """
    if record.job.status is JobStatus.CANCELLED:
        # First of all: a late acceptance changes nothing for whoever still waits.
        ensure_not_terminal(record.job.status, JobStatus.AUDIO_EXTRACTING)
    standing = standing_claim(record, awaited.dispatch_id)
    if standing is not None and standing.phase is Phase.SENT:
        return standing
    released = record.job.released
    if released is not None and released.epoch >= awaited.epoch:
        raise OrchestratorDispatchFailed(released.reason or ClaimEvent.REFUSED)
    if standing is not None and standing.phase is Phase.UNKNOWN:
        raise unknown_outcome(standing, now)
    return None
