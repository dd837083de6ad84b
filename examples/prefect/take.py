"""A Prefect flow that Take One starts: it takes a job to its draft, and reports each step.

    export PREFECT_API_URL=http://127.0.0.1:4200/api CALLBACK_SECRET=…
    python take.py                   # serves the deployment take/production until it is stopped

Replace `work`.
"""

import os
import time
from contextlib import suppress
from datetime import datetime

import httpx
from prefect import flow, task
from prefect.client.schemas.objects import FlowRun
from prefect.runtime import flow_run as this_run
from prefect.states import Completed, State

STEP_SECONDS = float(os.environ.get("STEP_SECONDS", "1"))

# For each step: the state to report before it, its name, and the state and the artifact to report after it.
STEPS = [
    ("AUDIO_EXTRACTING", "audio", "AUDIO_READY", "audio_uri"),
    ("TRANSCRIBING", "transcription", "TRANSCRIPT_READY", "transcript_uri"),
    ("GENERATING", "generation", "DRAFT_READY", "draft_uri"),
]


class Stop(Exception):
    """Take One refused a report: another execution has this job, or the job has ended."""


class Unavailable(Exception):
    """A report got no answer, or a temporary error."""


class StepFailed(Exception):
    """The named step failed."""


def post(job: dict[str, str], run: tuple[str, datetime], status: str, **fields: object) -> None:
    """Send one report. Every try has the same body, so that Take One recognises it.

    `run` is the flow run's id and its scheduled start, which is the same in every try and after a restart.
    Raises Stop or Unavailable; httpx.HTTPStatusError for a mistake in this workflow.
    """
    execution_id, began = run
    body = {
        "event_id": f"{execution_id}-{status}",
        "status": status,
        "occurred_at": began.isoformat(),
        "correlation_id": execution_id,
        "execution_id": execution_id,
        "dispatch_id": job["dispatch_id"],
        **fields,
    }
    secret = {"X-Callback-Secret": os.environ["CALLBACK_SECRET"]}
    try:
        answer = httpx.post(job["callback_url"], json=body, headers=secret, timeout=10)
    except httpx.TransportError as error:
        raise Unavailable(type(error).__name__) from None
    if answer.status_code == 429 or answer.status_code >= 500:
        raise Unavailable(str(answer.status_code))
    if answer.status_code == 409:
        code = answer.json()["code"]
        if code == "CALLBACK_OUT_OF_ORDER":  # a later step was reported already
            return
        raise Stop(code)  # EXECUTION_SUPERSEDED, or the job was cancelled
    answer.raise_for_status()


def _is_unavailable(_task: object, _run: object, state: State) -> bool:
    return isinstance(state.result(raise_on_failure=False), Unavailable)


@task(
    retries=20, retry_delay_seconds=[1, 2, 4, 8, 15, *[30] * 15], retry_condition_fn=_is_unavailable
)
def report(job: dict[str, str], status: str, **fields: object) -> None:
    """Report a step of this run; repeat it while Take One is unavailable."""
    post(job, (this_run.id, this_run.scheduled_start_time), status, **fields)


@task
def work(job: dict[str, str], name: str) -> str:
    """Put your own work here; return the artifact's URI.

    A `video_uri` that ends in `?fail=audio` makes that step of a first run fail.
    """
    time.sleep(STEP_SECONDS)
    if job["video_uri"].endswith(f"?fail={name}") and "resume_from_status" not in job:
        raise RuntimeError(f"{name} was asked to fail")
    return f"s3://take-one/{job['job_id']}/{name}"


def steps_of(job: dict[str, str]) -> list[tuple[str, str, str, str]]:
    """All steps; for a retry those after its checkpoint."""
    reached = [ready for _, _, ready, _ in STEPS]
    checkpoint = job.get("resume_from_status")
    return STEPS[reached.index(checkpoint) + 1 :] if checkpoint in reached else STEPS


def report_failure(_flow: object, run: FlowRun, state: State) -> None:
    """Report that the run failed or its process died. Not called for a cancelled run."""
    error = state.result(raise_on_failure=False)
    stage = {"failed_stage": str(error)} if isinstance(error, StepFailed) else {}
    failure = {"failure_code": "FLOW_FAILED", "failure_message": "The flow failed; see Prefect."}
    # If this is lost, Take One asks Prefect once the job has been silent for a while.
    with suppress(Stop, Unavailable):
        started = (str(run.id), run.expected_start_time)
        post(run.parameters["job"], started, "FAILED", **failure, **stage)


@flow(name="take", on_failure=[report_failure], on_crashed=[report_failure])
def take(job: dict[str, str]) -> State:
    """Take the job to DRAFT_READY, from its upload or from where a retry resumes."""
    stage = ""
    try:
        for stage, name, ready, artifact in steps_of(job):
            report(job, stage)
            report(job, ready, artifact_updates={artifact: work(job, name)})
    except Stop as stop:
        return Completed(message=f"stopped: {stop}")
    except Exception as error:
        raise StepFailed(stage) from error
    return Completed()


if __name__ == "__main__":
    take.serve(name="production", limit=4)
