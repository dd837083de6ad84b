"""A Temporal workflow that takes a job of Take One from its upload to a draft, and reports each step.

    pip install -r requirements.txt
    CALLBACK_SECRET=… TEMPORAL_ADDRESS=localhost:7233 python take.py

Replace `extract_audio`, `transcribe` and `generate`.
"""

import asyncio
import os
from contextlib import suppress
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, FailureError, is_cancelled_exception
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    import httpx

TASK_QUEUE = "take"

Job = dict[str, Any]


# Activities run outside the workflow's sandbox, which forbids the environment and the network.


@activity.defn
async def extract_audio(job: Job) -> str:
    """Your work. Returns the artifact's URI."""
    return await pretend(job, "audio")


@activity.defn
async def transcribe(job: Job) -> str:
    """Likewise."""
    return await pretend(job, "transcription")


@activity.defn
async def generate(job: Job) -> str:
    """Likewise."""
    return await pretend(job, "generation")


async def pretend(job: Job, what: str) -> str:
    """A stand-in. A `video_uri` that ends in `?fail=audio` makes that step of a first run fail."""
    until = asyncio.get_running_loop().time() + float(os.environ.get("STEP_SECONDS", "1"))
    while asyncio.get_running_loop().time() < until:
        activity.heartbeat()  # a heartbeat is how an activity notices a cancel
        await asyncio.sleep(0.1)
    if job["video_uri"].endswith(f"?fail={what}") and "resume_from_status" not in job:
        raise ApplicationError(f"{what} was asked to fail", non_retryable=True)
    return f"s3://take-one/{job['job_id']}/{what}"


@activity.defn
async def post_report(callback_url: str, body: dict[str, Any]) -> str:
    """Post one report. Returns Take One's error code if the workflow must handle it, else "".

    Raises after a temporary error, so that the report is sent again with the same body.
    """
    headers = {"X-Callback-Secret": os.environ["CALLBACK_SECRET"]}
    async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
        answer = await client.post(callback_url, json=body, headers=headers)
    if answer.status_code == 409:
        return str(answer.json()["code"])
    if answer.is_client_error and answer.status_code != 429:
        raise ApplicationError(f"Take One refused it: {answer.status_code}", non_retryable=True)
    if not answer.is_success:
        raise RuntimeError(f"Take One answered {answer.status_code}")
    return ""


# For each step: the state to report before it, the work, and the state and the artifact to report after it.
STEPS = [
    ("AUDIO_EXTRACTING", extract_audio, "AUDIO_READY", "audio_uri"),
    ("TRANSCRIBING", transcribe, "TRANSCRIPT_READY", "transcript_uri"),
    ("GENERATING", generate, "DRAFT_READY", "draft_uri"),
]


def steps_of(job: Job) -> list[Any]:
    """All steps; for a retry those after its checkpoint."""
    reached = [ready for _, _, ready, _ in STEPS]
    checkpoint = job.get("resume_from_status")
    return STEPS[reached.index(checkpoint) + 1 :] if checkpoint in reached else STEPS


class Stopped(Exception):
    """Another execution has this job, or the job has ended: there is nothing left to do."""


@workflow.defn
class Take:
    """The workflow; its input is Take One's dispatch, and its workflow id the dispatch id."""

    @workflow.run
    async def run(self, job: Job) -> str:
        """Do one step after the other. Returns "done" or "stopped"."""
        stage = "AUDIO_EXTRACTING"
        try:
            for stage, work, ready, artifact in steps_of(job):
                await self.report(job, stage)
                made = await workflow.execute_activity(
                    work,
                    job,
                    start_to_close_timeout=timedelta(hours=1),
                    heartbeat_timeout=timedelta(seconds=30),
                    retry_policy=RetryPolicy(maximum_attempts=3),
                )
                await self.report(job, ready, artifact_updates={artifact: made})
        except Stopped:
            return "stopped"
        except (FailureError, asyncio.CancelledError) as error:
            await self.report_failure(job, stage, error)
            raise
        return "done"

    async def report_failure(self, job: Job, stage: str, error: BaseException) -> None:
        """Report that the run failed, or was cancelled in Temporal itself."""
        reason = "cancelled" if is_cancelled_exception(error) else str(error.__cause__ or error)
        failure = {"failure_code": f"{stage}_FAILED", "failed_stage": stage}
        with suppress(Stopped, FailureError):  # Stopped: Take One cancelled it
            await self.report(job, "FAILED", failure_message=reason[:500], **failure)

    async def report(self, job: Job, status: str, **fields: Any) -> None:
        """Report a state until it is answered. Raises Stopped if the run must end."""
        execution_id = workflow.info().run_id
        body = {
            "event_id": f"{execution_id}-{status}",
            "status": status,
            # The workflow's clock: the same in a replay of the history, and in every try of the activity.
            "occurred_at": workflow.now().isoformat(),
            "correlation_id": execution_id,
            "actor_type": "orchestrator",
            "execution_id": execution_id,
            "dispatch_id": job["dispatch_id"],
            **fields,
        }
        code = await workflow.execute_activity(
            post_report,
            args=[job["callback_url"], body],
            start_to_close_timeout=timedelta(seconds=30),
            retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=30)),
        )
        if code not in ("", "CALLBACK_OUT_OF_ORDER"):
            raise Stopped


async def main() -> None:
    """Take work from the queue until interrupted."""
    client = await Client.connect(
        os.environ.get("TEMPORAL_ADDRESS", "localhost:7233"),
        namespace=os.environ.get("TEMPORAL_NAMESPACE", "default"),
    )
    activities = [extract_audio, transcribe, generate, post_report]
    worker = Worker(client, task_queue=TASK_QUEUE, workflows=[Take], activities=activities)
    await worker.run()


if __name__ == "__main__":
    asyncio.run(main())
