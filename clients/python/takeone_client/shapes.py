"""The schemas of `spec/api/openapi.yaml` that the client accepts and returns."""

from typing import Literal, TypedDict

JobStatus = Literal[
    "CREATED", "UPLOADING", "UPLOADED", "AUDIO_EXTRACTING", "AUDIO_READY", "TRANSCRIBING",
    "TRANSCRIPT_READY", "GENERATING", "DRAFT_READY", "EDITING", "REGENERATING", "EXPORTING",
    "DONE", "FAILED", "CANCELLED",
]  # fmt: skip


class Project(TypedDict):
    """A folder of jobs."""

    id: str
    name: str
    created_at: str


class JobEdit(TypedDict, total=False):
    """The fields of a job that you may set. An omitted field keeps its value; `name=None` removes it."""

    name: str | None
    metadata: dict[str, str]


class JobQuery(TypedDict, total=False):
    """Which jobs to list, and how many per page."""

    status: JobStatus
    project_id: str
    order: Literal["asc", "desc"]
    updated_after: str
    limit: int


class Manifest(TypedDict):
    """Where a job's artifacts are. The orchestrator may add keys of its own."""

    video_uri: str | None
    audio_uri: str | None
    transcript_uri: str | None
    draft_uri: str | None
    exports: list[str]


class Dispatch(TypedDict):
    """The request that starts the workflow at the orchestrator."""

    kind: Literal["run", "retry"]
    dispatch_id: str
    phase: Literal["CLAIMED", "SENDING", "SENT", "UNKNOWN", "RELEASED"]
    claimed_at: str
    sent_at: str | None
    settled_at: str | None
    reason: str | None
    execution_id: str | None


class Failure(TypedDict):
    """Why a job failed."""

    code: str | None
    message: str | None
    stage: str | None


class Job(TypedDict):
    """One video in the workflow."""

    id: str
    project_id: str
    name: str | None
    metadata: dict[str, str]
    status: JobStatus
    manifest: Manifest
    silent_since: str | None
    created_at: str
    updated_at: str
    dispatch: Dispatch | None
    failure: Failure | None


class ConfirmUploadResponse(TypedDict):
    """The job, and whether the same URI had been confirmed before."""

    job: Job
    replayed: bool


class RunJobResponse(TypedDict):
    """The job's dispatch; `replayed` is False for the call that made it."""

    job_id: str
    status: JobStatus
    dispatch_id: str
    replayed: bool


class RetryJobResponse(RunJobResponse):
    """The retry's dispatch, and where it resumes."""

    resume_from_status: JobStatus
    checkpoint_ref: str
    model_profile: str


class _OfSomeEvents(TypedDict, total=False):
    dispatch_id: str
    attempt: int
    reason: str
    execution_id: str


class AuditEvent(_OfSomeEvents):
    """One event of a job's audit trail."""

    event_type: str
    job_id: str
    project_id: str
    actor_type: Literal["editor", "orchestrator", "operator", "system"]
    prev_status: JobStatus | None
    new_status: JobStatus
    occurred_at: str
    recorded_at: str
    correlation_id: str | None
