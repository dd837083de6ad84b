"""The fields of a dispatch, the same for every engine."""

from domain.claim import Claim, DispatchKind, RetryTerms
from domain.job import Job


def payload(job: Job, claim: Claim, callback_base: str) -> dict[str, str | None]:
    """The contract's fields; for a retry also where it resumes."""
    fields: dict[str, str | None] = {
        "job_id": job.id,
        "project_id": job.project_id,
        "video_uri": job.manifest.video_uri,
        "callback_url": f"{callback_base}/api/v1/internal/jobs/{job.id}/status",
        "dispatch_id": claim.dispatch_id,
    }
    if claim.kind is DispatchKind.RETRY and claim.retry is not None:
        fields |= claim.retry.model_dump(mode="json", include=set(RetryTerms.model_fields))
    return fields
