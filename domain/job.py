"""What the service stores: projects, jobs, and the artifacts of a job.

Times are timezone-aware and in UTC.
"""

from datetime import datetime
from typing import Any

from pydantic import AwareDatetime, Field

from domain.claim import Claim
from domain.errors import ManifestFull
from domain.job_fsm import JobStatus
from domain.stored import Stored

# A manifest is limited because every step of its job reads and writes all of it. `bytes`: of its JSON;
# `keys`: the orchestrator's own.
_MANIFEST_LIMITS = {"bytes": 65_536, "keys": 256, "exports": 256}


class Project(Stored):
    """A folder of jobs with one owner."""

    id: str
    name: str
    owner: str
    created_at: AwareDatetime


class Manifest(Stored):
    """Where a job's artifacts are. Unknown keys belong to the orchestrator and are kept."""

    video_uri: str | None = None
    audio_uri: str | None = None
    transcript_uri: str | None = None
    draft_uri: str | None = None
    exports: list[str] = Field(default_factory=list)

    def merged(self, updates: dict[str, Any]) -> "Manifest":
        """Add and update the keys of `updates`; `exports` grows, and `video_uri` never changes.

        Raises `ManifestFull` if it would grow past a limit.
        """
        fields = {key: value for key, value in updates.items() if key != "video_uri"}
        new_exports = fields.pop("exports", [])
        exports = list(dict.fromkeys([*self.exports, *new_exports]))
        merged = Manifest.model_validate({**self.model_dump(), **fields, "exports": exports})
        before, after = self._sizes(), merged._sizes()
        for bound, most in _MANIFEST_LIMITS.items():
            # An earlier release had no limits: what is larger may still change, and shrink.
            if after[bound] > max(most, before[bound]):
                raise ManifestFull(bound, most)
        return merged

    def _sizes(self) -> dict[str, int]:
        return {
            "bytes": len(self.model_dump_json().encode()),
            "keys": len(self.model_extra or ()),
            "exports": len(self.exports),
        }


# The service's own failure codes: the engine says that the run ended badly; an operator failed the job.
RUN_FAILED = "ORCHESTRATOR_RUN_FAILED"
FAILED_BY_OPERATOR = "FAILED_BY_OPERATOR"


class Failure(Stored):
    """Why a job is FAILED: as the orchestrator reported it, or with one of the codes above."""

    code: str | None = None
    message: str | None = None
    stage: str | None = None


class Job(Stored):
    """One video's way through the workflow."""

    id: str
    project_id: str
    owner: str
    status: JobStatus
    status_since: AwareDatetime | None = None  # or of its last failure; None: not known
    manifest: Manifest = Field(default_factory=Manifest)
    created_at: AwareDatetime
    updated_at: AwareDatetime
    version: int = 1  # grows with every change: no two stored values of a job are equal
    failure: Failure | None = None
    latest_occurred_at: AwareDatetime | None = None  # of the last callback, by the engine's clock
    reports: int = 0  # callbacks applied under the current dispatch
    repeats: int = 0  # how many of these in a row reported the state that the job was in
    reported_at: AwareDatetime | None = None  # of the last callback, by the service's clock
    silent_since: AwareDatetime | None = None  # set while a callback is overdue
    # By epoch: those that a retry replaced, and the latest released one, to recognise replays and late reports.
    past_claims: tuple[Claim, ...] = ()
    # The caller's own: shown to the owner and nowhere else.
    name: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)

    @property
    def in_state_since(self) -> datetime:
        return self.status_since or self.updated_at
