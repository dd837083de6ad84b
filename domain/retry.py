"""The rules of retry: start a failed job's workflow again from its furthest checkpoint."""

from hashlib import sha256

from domain import errors
from domain.claim import DispatchKind, DispatchPolicy, Phase, RetryTerms
from domain.job import Job
from domain.job_fsm import RUNNING_STATUSES, JobStatus
from domain.record import Change, Decision, Record
from domain.run import DispatchResult, decide_again, start

# The artifact that a retry resumes from, and the state of that checkpoint; the furthest first.
_CHECKPOINTS = (
    ("draft_uri", JobStatus.DRAFT_READY),
    ("transcript_uri", JobStatus.TRANSCRIPT_READY),
    ("audio_uri", JobStatus.AUDIO_READY),
    ("video_uri", JobStatus.UPLOADED),
)
# Each accepted dispatch stays in the job's record, to recognise its replays and its executions.
_MAX_PAST_DISPATCHES = 100


def retry_dispatch_id(job_id: str, client_request_id: str) -> str:
    """The dispatch id of the retry for this client request, always the same for the same request."""
    digest = sha256(client_request_id.encode()).hexdigest()[:16]
    return f"retry-{job_id}-{digest}"


def decide_retry(
    change: Change, client_request_id: str, model_profile: str
) -> Decision[DispatchResult]:
    """Claim, join or replay a retry.

    Raises `ClientRequestMismatch`, `JobAlreadyRunning`, `RetryNotAllowedState`, or
    `OrchestratorDispatchFailed` while the outcome of an earlier try is unknown and held.
    """
    job = change.job
    dispatch_id = retry_dispatch_id(job.id, client_request_id)
    if (known := change.record.standing(dispatch_id)) is not None:
        if known.retry is None or known.retry.model_profile != model_profile:
            raise errors.ClientRequestMismatch
        return decide_again(change, known)
    _ensure_retryable(change.record, change.policy)
    return start(change, DispatchKind.RETRY, dispatch_id, _retry_terms(job, model_profile))


def operator_request_id(record: Record) -> str:
    """The client request id of an operator's retry. It stays the same until the job's failure is resolved.

    It has the epoch of the dispatch that failed; the retry's own claim has a later one.
    """
    ended = [claim for claim in record.claims if claim.phase is Phase.SENT]
    epochs = [claim.epoch for claim in ended if not claim.awaits_resume]
    return f"operator-{record.job.id}-{epochs[-1] if epochs else 0}"


def _ensure_retryable(record: Record, policy: DispatchPolicy) -> None:
    status, claim = record.job.status, record.claim
    awaited = claim is not None and (claim.in_flight or claim.awaits_resume)
    if status in RUNNING_STATUSES or awaited:
        raise errors.JobAlreadyRunning(status)
    if status is not JobStatus.FAILED:
        raise errors.RetryNotAllowedState(status, JobStatus.REGENERATING)
    # After an operator failed the job, its run must be stopped first, if the engine can be told to.
    if claim and claim.cancel_due and policy.can_cancel and not claim.is_elsewhere(policy):
        raise errors.JobAlreadyRunning(status)
    if len(record.replaced) >= _MAX_PAST_DISPATCHES:
        raise errors.RetriedTooOften(status, JobStatus.REGENERATING)


def _retry_terms(job: Job, model_profile: str) -> RetryTerms:
    for key, status in _CHECKPOINTS:
        if artifact := getattr(job.manifest, key):
            return RetryTerms(
                resume_from_status=status, checkpoint_ref=artifact, model_profile=model_profile
            )
    raise errors.RetryNotAllowedState(job.status, JobStatus.REGENERATING)
