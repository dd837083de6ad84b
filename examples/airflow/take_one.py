"""An Airflow DAG that Take One starts: it takes a job to its draft, and reports each step.

Put it into the DAGs folder, and the callback secret into the variable `takeone_callback_secret` (in Airflow's
secrets backend, or AIRFLOW_VAR_TAKEONE_CALLBACK_SECRET in the environment). Replace `work`.
"""

import os
import time
from datetime import timedelta
from typing import Any

import httpx
from airflow.sdk import Variable, chain, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

STEP_SECONDS = float(os.environ.get("STEP_SECONDS", "1"))

# For each step: the state to report before it, its name, and the state and the artifact to report after it.
STEPS = [
    ("AUDIO_EXTRACTING", "audio", "AUDIO_READY", "audio_uri"),
    ("TRANSCRIBING", "transcription", "TRANSCRIPT_READY", "transcript_uri"),
    ("GENERATING", "generation", "DRAFT_READY", "draft_uri"),
]


class Unavailable(Exception):
    """A report got no answer, or a temporary error."""


def report(dag_run: Any, status: str, **fields: Any) -> None:
    """Send one report. Every try has the same body, also its time, so that Take One recognises it.

    Raises Unavailable if it must be sent again, AirflowSkipException if this run must stop,
    AirflowFailException for a mistake in this DAG.
    """
    job = dag_run.conf
    body = {
        "event_id": f"{dag_run.run_id}-{status}",
        "status": status,
        "occurred_at": dag_run.run_after.isoformat(),
        "correlation_id": dag_run.run_id,
        "execution_id": dag_run.run_id,
        "dispatch_id": job["dispatch_id"],
        **fields,
    }
    secret = {"X-Callback-Secret": Variable.get("takeone_callback_secret")}
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
        # EXECUTION_SUPERSEDED, or the job was cancelled: the tasks after this one are skipped too.
        raise AirflowSkipException(code)
    if not answer.is_success:
        raise AirflowFailException(f"the report was answered {answer.status_code}")


def work(job: dict[str, str], name: str) -> str:
    """Put your own work here; return the artifact's URI.

    A `video_uri` that ends in `?fail=audio` makes that step of a first run fail.
    """
    time.sleep(STEP_SECONDS)
    if job["video_uri"].endswith(f"?fail={name}") and "resume_from_status" not in job:
        raise AirflowFailException(f"{name} was asked to fail")
    return f"s3://take-one/{job['job_id']}/{name}"


def is_done(job: dict[str, str], ready: str) -> bool:
    """Whether a retry resumes after the step that ends in `ready`."""
    reached = [ready for _, _, ready, _ in STEPS]
    checkpoint = job.get("resume_from_status")
    return checkpoint in reached and reached.index(ready) <= reached.index(checkpoint)


def report_failure(context: Any) -> None:
    """Report that the run failed, also if a task's process died."""
    stages = {name: stage for stage, name, _, _ in STEPS}
    failure = {
        "failure_code": "DAG_RUN_FAILED",
        "failure_message": "The run failed; see Airflow.",
        "failed_stage": stages[context["ti"].task_id],
    }
    # If this is lost, Take One asks Airflow once the job has been silent for a while.
    report(context["dag_run"], "FAILED", **failure)


@task(
    retries=20,  # while Take One is unavailable, or the step fails
    retry_delay=timedelta(seconds=2),
    retry_exponential_backoff=2.0,
    max_retry_delay=timedelta(minutes=1),
)
def walk(stage: str, name: str, ready: str, artifact: str) -> None:
    """Do one step of the job, and report it."""
    run = get_current_context()["dag_run"]
    if is_done(run.conf, ready):
        return
    report(run, stage)
    report(run, ready, artifact_updates={artifact: work(run.conf, name)})


@dag(
    dag_id="take_one",
    schedule=None,
    catchup=False,
    is_paused_upon_creation=False,
    on_failure_callback=report_failure,
)
def take_one() -> None:
    """Take the job to DRAFT_READY, from its upload or from where a retry resumes."""
    chain(*(walk.override(task_id=step[1])(*step) for step in STEPS))


take_one()
