"""The rules of retry: a failed job's workflow is started again from its furthest checkpoint."""

from datetime import datetime
from hashlib import sha256

from domain import errors
from domain.audit import OperatorAct
from domain.claim import DispatchKind, DispatchPolicy, Phase, RetryTerms
from domain.job import Job
from domain.job_fsm import RUNNING_STATUSES, JobStatus
from domain.record import Change, Decision, Record
from domain.run import DispatchResult, decide_again, start

# The furthest checkpoint first: where a retry goes on, and which artifact it goes on from.
_CHECKPOINTS = (
    ("draft_uri", JobStatus.DRAFT_READY),
    ("transcript_uri", JobStatus.TRANSCRIPT_READY),
    ("audio_uri", JobStatus.AUDIO_READY),
    ("video_uri", JobStatus.UPLOADED),
)
# Each dispatch that was accepted stays in the job's record, to recognise its replays and its executions.
_MOST_PAST_DISPATCHES = 100


def retry_dispatch_id(job_id: str, client_request_id: str) -> str:
    """The id of the retry that this client request asks for, always the same for the same request."""
    digest = sha256(client_request_id.encode()).hexdigest()[:16]
    return f"retry-{job_id}-{digest}"


def decide_retry(
    record: Record,
    client_request_id: str,
    model_profile: str,
    now: datetime,
    policy: DispatchPolicy,
    correlation_id: str | None = None,
    act: OperatorAct | None = None,
) -> Decision[DispatchResult]:
    """Claim, join or replay a retry; `act`: an operator's.

    Raises `ClientRequestMismatch`, `JobAlreadyRunning`, `RetryNotAllowedState`, or
    `OrchestratorDispatchFailed` while the outcome of an earlier try is unknown and held.
    """
    job = record.job
    dispatch_id = retry_dispatch_id(job.id, client_request_id)
    standing, change = record.standing(dispatch_id), Change(record, now, correlation_id, act)
    if standing is not None:
        if standing.retry is None or standing.retry.model_profile != model_profile:
            raise errors.ClientRequestMismatch
        return decide_again(change, standing, policy)
    _ensure_retryable(record, policy)
    return start(change, DispatchKind.RETRY, dispatch_id, policy, _retry_terms(job, model_profile))


def operator_request_id(record: Record) -> str:
    """The client request id of an operator's retry: the same until the job's present failure is over.

    It holds the epoch of the dispatch that failed. The retry's own claim has later ones.
    """
    ended = [each for each in record.claims if each.phase is Phase.SENT and not each.awaits_resume]
    return f"operator-{record.job.id}-{ended[-1].epoch if ended else 0}"


def _ensure_retryable(record: Record, policy: DispatchPolicy) -> None:
    job, claim = record.job, record.claim
    awaited = claim is not None and (claim.in_flight or claim.awaits_resume)
    if job.status in RUNNING_STATUSES or awaited:
        raise errors.JobAlreadyRunning(job.status)
    if job.status is not JobStatus.FAILED:
        raise errors.RetryNotAllowedState(job.status, JobStatus.REGENERATING)
    if claim is not None and claim.must_be_stopped(policy):  # an operator has failed it
        raise errors.JobAlreadyRunning(job.status)
    if len(record.followed) >= _MOST_PAST_DISPATCHES:
        raise errors.RetriedTooOften(job.status, JobStatus.REGENERATING)


def _retry_terms(job: Job, model_profile: str) -> RetryTerms:
    for key, status in _CHECKPOINTS:
        artifact = getattr(job.manifest, key)
        if artifact:
            return RetryTerms(
                resume_from_status=status, checkpoint_ref=artifact, model_profile=model_profile
            )
    raise errors.RetryNotAllowedState(job.status, JobStatus.REGENERATING)
