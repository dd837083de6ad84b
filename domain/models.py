"""What the service keeps: projects, jobs, and the shape of what a job has made.

All models are frozen: a change is a new value (`model_copy`), and only a commit of the store makes it
true. Times are timezone-aware and in UTC.
"""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from domain.claim import Claim
from domain.job_fsm import JobStatus

ARTIFACT_KEYS = ("audio_uri", "transcript_uri", "draft_uri")


class Project(BaseModel):
    """A folder of jobs with one owner."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    owner: str
    created_at: datetime


class Manifest(BaseModel):
    """Where a job's artifacts are. Keys that we do not know are the orchestrator's, and are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    video_uri: str | None = None
    audio_uri: str | None = None
    transcript_uri: str | None = None
    draft_uri: str | None = None
    exports: list[str] = Field(default_factory=list)

    def merged(self, updates: dict[str, Any]) -> "Manifest":
        """Add and update the keys of `updates`; `exports` grows, and `video_uri` never changes."""
        fields = {key: value for key, value in updates.items() if key != "video_uri"}
        new_exports = fields.pop("exports", [])
        exports = list(dict.fromkeys([*self.exports, *new_exports]))
        return Manifest.model_validate({**self.model_dump(), **fields, "exports": exports})


class Failure(BaseModel):
    """Why a job is FAILED, in the orchestrator's words."""

    model_config = ConfigDict(frozen=True)

    code: str | None = None
    message: str | None = None
    stage: str | None = None


class Job(BaseModel):
    """One video's way through the workflow.

    `version` grows with every change of it, so that no two stored values of a job are ever alike.
    `released` is the last claim that was given back: it is shown, it recognises a late callback, and the
    next claim's epoch counts on from it. `earlier` are settled claims that a retry has taken the place
    of, by dispatch id.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    project_id: str
    owner: str
    status: JobStatus
    manifest: Manifest = Field(default_factory=Manifest)
    created_at: datetime
    updated_at: datetime
    version: int = 1
    failure: Failure | None = None
    latest_occurred_at: datetime | None = None
    released: Claim | None = None
    earlier: dict[str, Claim] = Field(default_factory=dict)
