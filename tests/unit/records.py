"""Jobs, claims and times for the tests of the rules in `domain/`."""

from datetime import UTC, datetime, timedelta
from typing import Any

from domain.claim import Claim, DispatchKind, DispatchPolicy, Phase, RetryTerms
from domain.job import Job, Manifest
from domain.job_fsm import JobStatus
from domain.record import Record

NOW = datetime(2026, 5, 4, 10, 0, tzinfo=UTC)
JOB_ID = "8d6f2c1e-0b7a-4f53-9a55-61f1f4a0c7d2"
POLICY = DispatchPolicy(
    claim_lease=timedelta(seconds=15),
    send_lease=timedelta(seconds=71),
    unknown_hold=timedelta(seconds=60),
)
TERMS = RetryTerms(
    resume_from_status=JobStatus.AUDIO_READY, checkpoint_ref="s3://a", model_profile="standard"
)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def statuses_but(*left_out: JobStatus) -> list[JobStatus]:
    """All states except these, in their order."""
    return [status for status in JobStatus if status not in left_out]


def a_job(status: JobStatus = JobStatus.UPLOADED, **fields: Any) -> Job:
    """A job of Alice's with a video."""
    values = {"manifest": Manifest(video_uri="s3://v"), "created_at": NOW, "updated_at": NOW}
    return Job(id=JOB_ID, project_id="p", owner="alice", status=status, **(values | fields))


def a_claim(phase: Phase = Phase.CLAIMED, **fields: Any) -> Claim:
    """A claim of the job's run, first epoch."""
    values: dict[str, Any] = {
        "kind": DispatchKind.RUN,
        "dispatch_id": f"run-{JOB_ID}",
        "epoch": 1,
        "claimed_at": NOW,
        "lease_until": NOW + POLICY.claim_lease,
    }
    return Claim(phase=phase, **(values | fields))


def a_retry_claim(phase: Phase = Phase.SENT, **fields: Any) -> Claim:
    """A claim of a retry, second epoch."""
    values = {"kind": DispatchKind.RETRY, "dispatch_id": f"retry-{JOB_ID}-1", "epoch": 2}
    return a_claim(phase, **({"retry": TERMS} | values | fields))


def a_record(status: JobStatus, claim: Claim | None = None, **fields: Any) -> Record:
    """A job with a claim. A released one becomes a past claim, as in the store."""
    if claim is not None and claim.phase is Phase.RELEASED:
        return Record(a_job(status, past_claims=(claim,), **fields), None)
    return Record(a_job(status, **fields), claim)
