"""A Restate service that takes a job of Take One from its upload to a draft, and reports each step.

    pip install -r requirements.txt
    CALLBACK_SECRET=… hypercorn --bind 0.0.0.0:9080 take:app
    restate deployments register http://localhost:9080

Replace `extract_audio`, `transcribe` and `generate`.
"""

import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import restate
from restate.exceptions import TerminalError

SECRET = os.environ["CALLBACK_SECRET"]
STEP_SECONDS = float(os.environ.get("STEP_SECONDS", "1"))

take = restate.Service(
    "Take",
    # How long Restate recognises a dispatch id after the run's end: longer than Take One repeats it.
    idempotency_retention=timedelta(days=30),
    # Enough tries for a day without Take One; after the last one Restate pauses the run.
    invocation_retry_policy=restate.InvocationRetryPolicy(
        initial_interval=timedelta(seconds=0.5),
        max_interval=timedelta(seconds=30),
        max_attempts=3_000,
    ),
)


class Stopped(Exception):
    """Another execution has this job, or the job has ended: there is nothing left to do."""


async def extract_audio(ctx: restate.Context, job: dict[str, Any]) -> str:
    """Your work, with side effects inside `ctx.run_typed`. Returns the artifact's URI."""
    return await pretend(ctx, job, "audio")


async def transcribe(ctx: restate.Context, job: dict[str, Any]) -> str:
    """Likewise."""
    return await pretend(ctx, job, "transcription")


async def generate(ctx: restate.Context, job: dict[str, Any]) -> str:
    """Likewise."""
    return await pretend(ctx, job, "generation")


async def pretend(ctx: restate.Context, job: dict[str, Any], what: str) -> str:
    """A stand-in. A `video_uri` that ends in `?fail=audio` makes that step of a first run fail."""
    await ctx.sleep(timedelta(seconds=STEP_SECONDS))
    if job["video_uri"].endswith(f"?fail={what}") and "resume_from_status" not in job:
        raise TerminalError(f"{what} was asked to fail")
    return f"s3://take-one/{job['job_id']}/{what}"


# For each step: the state to report before it, the work, and the state and the artifact to report after it.
STEPS = [
    ("AUDIO_EXTRACTING", extract_audio, "AUDIO_READY", "audio_uri"),
    ("TRANSCRIBING", transcribe, "TRANSCRIPT_READY", "transcript_uri"),
    ("GENERATING", generate, "DRAFT_READY", "draft_uri"),
]


def steps_of(job: dict[str, Any]) -> list[Any]:
    """All steps; for a retry those after its checkpoint."""
    reached = [ready for _, _, ready, _ in STEPS]
    checkpoint = job.get("resume_from_status")
    return STEPS[reached.index(checkpoint) + 1 :] if checkpoint in reached else STEPS


@take.handler()
async def run(ctx: restate.Context, job: dict[str, Any]) -> str:
    """The workflow; its input is Take One's dispatch."""
    stage = "AUDIO_EXTRACTING"
    try:
        for stage, work, ready, artifact in steps_of(job):
            await report(ctx, job, stage)
            made = await work(ctx, job)
            await report(ctx, job, ready, artifact_updates={artifact: made})
    except Stopped:
        return "stopped"
    except TerminalError as error:  # a failure, or the run was cancelled
        failure = {"failure_code": f"{stage}_FAILED", "failed_stage": stage}
        with suppress(Stopped):
            await report(ctx, job, "FAILED", failure_message=error.message[:500], **failure)
        raise
    return "done"


async def report(ctx: restate.Context, job: dict[str, Any], status: str, **fields: Any) -> None:
    """Report a state until it is answered. Raises Stopped; TerminalError for a mistake in this workflow."""
    invocation = ctx.request()
    body = {
        "event_id": f"{invocation.id}-{status}",
        "status": status,
        # From Restate's journal: another try sends the same body.
        "occurred_at": datetime.fromtimestamp(await ctx.time(), UTC).isoformat(),
        "correlation_id": invocation.id,
        "actor_type": "orchestrator",
        "execution_id": invocation.id,
        "dispatch_id": job["dispatch_id"],
        **fields,
    }
    code = await ctx.run_typed(
        f"report {status}", post_report, callback_url=job["callback_url"], body=body
    )
    if code not in ("", "CALLBACK_OUT_OF_ORDER"):
        raise Stopped


async def post_report(callback_url: str, body: dict[str, Any]) -> str:
    """Post one report. Returns Take One's error code if the workflow must handle it, else "".

    Raises after a temporary error, so that the report is sent again with the same body.
    """
    async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
        answer = await client.post(callback_url, json=body, headers={"X-Callback-Secret": SECRET})
    if answer.status_code == 409:
        return str(answer.json()["code"])
    if answer.is_client_error and answer.status_code != 429:
        raise TerminalError(f"Take One refused it: {answer.status_code}")
    if not answer.is_success:
        raise RuntimeError(f"Take One answered {answer.status_code}")
    return ""


app = restate.app([take])
