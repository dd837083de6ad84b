"""Creates jobs for each of the operators' views."""

from dataclasses import dataclass
from typing import Any

from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.support.behaviours import reset_after_read
from tests.support.client import ApiClient
from tests.support.job_handle import JobHandle
from tests.support.orchestrator import StubOrchestrator

# Unknown outcomes are held forever, and a run without a callback is silent after one second.
SETTINGS = {"TAKEONE_UNKNOWN_HOLD_SECONDS": "0", "TAKEONE_FIRST_REPORT_SECONDS": "1"}


@dataclass(frozen=True)
class JobFactory:
    """Creates jobs on a stack, with its orchestrator and the callback secret."""

    stack: Stack
    orchestrator: StubOrchestrator
    secret: str

    def job(self, user: str = "alice", **fields: Any) -> JobHandle:
        """Create a job in UPLOADED; `fields` are the body of its creation."""
        client = ApiClient(self.stack.api_url, user)
        project = client.create_project().json()
        job_id = client.create_job(project["id"], fields).json()["id"]
        client.confirm_upload(job_id, "s3://studio/interview.mp4")
        return JobHandle(client, job_id, self.secret)

    def unknown(self, user: str = "alice", **fields: Any) -> JobHandle:
        """Create a job whose dispatch has an unknown outcome."""
        handle = self.job(user, **fields)
        self.orchestrator.behaviours[handle.id] = reset_after_read()
        assert handle.client.run(handle.id).status_code == 502
        return handle

    def failed(self, user: str = "alice", code: str = "OUT_OF_MEMORY", **fields: Any) -> JobHandle:
        """Create a job that the orchestrator failed in the transcription."""
        handle = self.job(user, **fields).lead_to("TRANSCRIBING")
        handle.reported("FAILED", failure_code=code, failure_message="no room", failed_stage="ASR")
        return handle

    def silent(self, user: str = "alice") -> JobHandle:
        """Create a job that was started and has had no callback for too long."""
        handle = self.job(user).lead_to("AUDIO_EXTRACTING")
        wait_until(lambda: handle.shown()["silent_since"], 15, "it is silent")
        return handle
