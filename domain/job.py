"""What the service stores: projects, jobs, and the artifacts of a job.

Times are timezone-aware and in UTC.
"""

from datetime import datetime
from typing import Any

from pydantic import Field

from domain.claim import Claim
from domain.errors import ManifestFull
from domain.job_fsm import JobStatus
from domain.stored import Stored

# What a manifest may hold: it is read and written whole with every step of its job. `bytes` are those of its
# JSON, `keys` the orchestrator's own ones.
_MOST_IN_A_MANIFEST = {"bytes": 65_536, "keys": 256, "exports": 256}


class Project(Stored):
    """A folder of jobs with one owner."""

    id: str
    name: str
    owner: str
    created_at: datetime


class Manifest(Stored):
    """Where a job's artifacts are. Unknown keys belong to the orchestrator and are kept."""

    video_uri: str | None = None
    audio_uri: str | None = None
    transcript_uri: str | None = None
    draft_uri: str | None = None
    exports: list[str] = Field(default_factory=list)

    def merged(self, updates: dict[str, Any]) -> "Manifest":
        """Add and update the keys of `updates`; `exports` grows, and `video_uri` never changes.

        Raises `ManifestFull` if it would grow past what a manifest may hold.
        """
        fields = {key: value for key, value in updates.items() if key != "video_uri"}
        new_exports = fields.pop("exports", [])
        exports = list(dict.fromkeys([*self.exports, *new_exports]))
        merged = Manifest.model_validate({**self.model_dump(), **fields, "exports": exports})
        before, after = self._sizes(), merged._sizes()
        for bound, most in _MOST_IN_A_MANIFEST.items():
            # One that an earlier release let grow larger may still change, and shrink.
            if after[bound] > max(most, before[bound]):
                raise ManifestFull(bound, most)
        return merged

    def _sizes(self) -> dict[str, int]:
        return {
            "bytes": len(self.model_dump_json().encode()),
            "keys": len(self.model_extra or ()),
            "exports": len(self.exports),
        }


# The failure that the service itself finds: the engine says that the run ended badly.
RUN_FAILED = "ORCHESTRATOR_RUN_FAILED"
# The failure of a job that an operator has failed.
FAILED_BY_OPERATOR = "FAILED_BY_OPERATOR"


class Failure(Stored):
    """Why a job is FAILED: as the orchestrator reported it, or a code of our own."""

    code: str | None = None
    message: str | None = None
    stage: str | None = None


class Job(Stored):
    """One video's way through the workflow.

    `version` grows with every change, so that no two stored values of a job are ever equal.
    `reports` counts the callbacks that were applied under the current dispatch, `repeats` how often in a row
    they have reported the state that the job is in already. `reported_at` is when the last one was applied, by
    our clock; `silent_since` is since when a callback that is due has not come. `status_since` is when the job
    came into its state, or last failed; None where an earlier release did that.

    `past_claims` are the claims that are over, by epoch: those that a retry followed, and the latest one that
    was released. They recognise a replay or a late callback, and epochs count on from the last.
    `name` and `metadata` are the caller's own: they are shown to their owner and go nowhere else.
    """

    id: str
    project_id: str
    owner: str
    status: JobStatus
    status_since: datetime | None = None
    manifest: Manifest = Field(default_factory=Manifest)
    created_at: datetime
    updated_at: datetime
    version: int = 1
    failure: Failure | None = None
    latest_occurred_at: datetime | None = None
    reports: int = 0
    repeats: int = 0
    reported_at: datetime | None = None
    silent_since: datetime | None = None
    past_claims: tuple[Claim, ...] = ()
    name: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)

    @property
    def in_state_since(self) -> datetime:
        return self.status_since or self.updated_at
