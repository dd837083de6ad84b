"""The demo's story: one video from upload to draft, and some failures; every printed line is checked."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import requests
from rich.console import Console

from demo.reporter import Reporter, WrongAnswerError
from devstack.client import ApiClient
from devstack.local_stack import LocalStack
from devstack.waiting import wait_until

FOLLOW_LIMIT_SECONDS = 30.0
STATUSES = [
    "AUDIO_EXTRACTING",
    "AUDIO_READY",
    "TRANSCRIBING",
    "TRANSCRIPT_READY",
    "GENERATING",
    "DRAFT_READY",
]


class Story(Reporter):
    """Runs the story against a running stack."""

    def __init__(self, console: Console, stack: LocalStack) -> None:
        super().__init__(console)
        self.stack = stack
        self.alice = ApiClient(stack.service.api_url, "alice")
        self.bob = ApiClient(stack.service.api_url, "bob")

    def run(self) -> None:
        """Run all chapters; raise WrongAnswerError at the first promise that is not kept."""
        job_id = self.upload_a_video("s3://studio/interview.mp4")
        dispatch_id = self.start_it(job_id)
        self.start_it_ten_times_more(job_id, dispatch_id)
        self.let_a_stranger_try(job_id)
        self.watch_it_become_a_draft(job_id)
        self.run_while_the_orchestrator_is_down()
        self.retry_a_failed_transcription()
        self.cancel_a_running_job()

    def upload_a_video(self, video_uri: str) -> str:
        """Create a project and a job, and confirm the upload; return the job's id."""
        self.chapter("Alice uploads a video")
        project = self.call("a project", 201, self.alice.create_project())
        job = self.call("a job in it", 201, self.alice.create_job(project["id"]))
        confirmed = self.call(
            "confirm-upload", 200, self.alice.confirm_upload(job["id"], video_uri)
        )
        self.check("the job is UPLOADED", confirmed["job"]["status"] == "UPLOADED", confirmed)
        return str(job["id"])

    def another_job(self, video_uri: str) -> str:
        """Do the same in one printed line."""
        job = self.alice.uploaded_job(video_uri)
        self.check("another job, its upload confirmed", job["status"] == "UPLOADED", job)
        return str(job["id"])

    def start_it(self, job_id: str) -> str:
        """Run the job; return the dispatch id."""
        self.chapter("Alice starts its workflow")
        run = self.call("run", 202, self.alice.run(job_id))
        self.check("the job is AUDIO_EXTRACTING", run["status"] == "AUDIO_EXTRACTING", run)
        self.check("this call made the dispatch", run["replayed"] is False, run)
        self.proved.append("a first run answers 202, after the orchestrator has accepted it")
        return str(run["dispatch_id"])

    def start_it_ten_times_more(self, job_id: str, dispatch_id: str) -> None:
        """Run the job ten times more, concurrently: nothing changes."""
        self.chapter("And ten times more, all at once")
        with ThreadPoolExecutor(10) as callers:
            answers = list(callers.map(self.alice.run, [job_id] * 10))
        statuses = [answer.status_code for answer in answers]
        self.check("ten answers, 200 each", statuses == [200] * 10, statuses)
        ids = {answer.json()["dispatch_id"] for answer in answers}
        self.check("with the one dispatch id", ids == {dispatch_id}, ids)
        self.check_executed_once(job_id)
        self.proved.append("eleven runs made one dispatch and one execution")

    def let_a_stranger_try(self, job_id: str) -> None:
        """Run the job as another user: the answer does not reveal that it exists."""
        self.chapter("Bob tries to start Alice's job")
        answer = self.bob.run(job_id)
        self.call("run, as Bob", 404, answer)
        nothing = self.bob.run(str(uuid4()))
        alike = answer.content == nothing.content
        self.check("the same bytes as for a job that is not there", alike, answer.text)
        self.proved.append("another user's job answers 404, exactly as one that does not exist")

    def watch_it_become_a_draft(self, job_id: str) -> None:
        """Follow the job while the orchestrator's callbacks advance it."""
        self.chapter("The orchestrator reports its steps")
        self.follow(job_id, "AUDIO_EXTRACTING", "DRAFT_READY")
        changes = self.changes(job_id)
        self.check("every step is on the trail once", changes[-6:] == STATUSES, changes)
        manifest = self.alice.job(job_id).json()["manifest"]
        made = [manifest.get(key) for key in ("audio_uri", "transcript_uri", "draft_uri")]
        self.check("audio, transcript and draft are there", all(made), manifest)
        self.proved.append("status callbacks led the job from AUDIO_EXTRACTING to DRAFT_READY")

    def run_while_the_orchestrator_is_down(self) -> None:
        """Run a job without an orchestrator, and once more with it."""
        self.chapter("The orchestrator is down")
        job_id = self.another_job("s3://studio/on-a-bad-day.mp4")
        self.stack.orchestrator.terminate()
        refused = self.call("run", 502, self.alice.run(job_id))
        reason = refused.get("details", {}).get("reason")
        self.check("nothing was started", reason == "not_started", refused)
        status = self.status(job_id)
        self.check("the job is still UPLOADED", status == "UPLOADED", status)
        self.chapter("The orchestrator is up again")
        self.stack.start_orchestrator()
        self.call("run", 202, self.alice.run(job_id))
        self.check_executed_once(job_id)
        self.proved.append(
            "a failed dispatch answers 502 and keeps the job UPLOADED; the next run works"
        )

    def retry_a_failed_transcription(self) -> None:
        """Let a transcription fail, and retry the job from its checkpoint."""
        self.chapter("A transcription fails")
        job_id = self.another_job("s3://studio/mumbled.mp4?fail=transcription")
        self.call("run", 202, self.alice.run(job_id))
        self.follow(job_id, "AUDIO_EXTRACTING", "FAILED")
        failure = self.alice.job(job_id).json()["failure"]
        self.check("the job says where", failure["stage"] == "TRANSCRIBING", failure)
        self.chapter("Alice retries it")
        retry = self.call("retry", 202, self.alice.retry(job_id, "once-more"))
        self.check_resumed(retry)
        self.follow(job_id, "FAILED", "DRAFT_READY")
        self.proved.append(
            "a retry resumed from the furthest checkpoint, AUDIO_READY, to DRAFT_READY"
        )

    def check_resumed(self, retry: dict[str, Any]) -> None:
        """Check that the retry resumes from the audio, and that a repeated request is replayed."""
        resumes = retry["resume_from_status"] == "AUDIO_READY"
        self.check("it resumes from AUDIO_READY", resumes, retry)
        again = self.alice.retry(retry["job_id"], "once-more")
        same = again.ok and again.json()["dispatch_id"] == retry["dispatch_id"]
        self.check("the same retry again is the same dispatch", same, again.text)

    def cancel_a_running_job(self) -> None:
        """Cancel a running job: it stays cancelled, and its execution stops."""
        self.chapter("Alice starts the wrong take, and cancels it")
        job_id = self.another_job("s3://studio/wrong-take.mp4")
        self.call("run", 202, self.alice.run(job_id))
        cancelled = self.call("cancel", 200, self.alice.cancel(job_id))
        self.check("the job is CANCELLED", cancelled["status"] == "CANCELLED", cancelled)
        self.call("run after it", 409, self.alice.run(job_id))
        stopped = wait_until(
            lambda: self.execution(job_id)["stopped_by"], 10, "the orchestrator stops"
        )
        self.check(f"the orchestrator stopped its execution ({stopped})", bool(stopped), stopped)
        status = self.status(job_id)
        self.check("the job is still CANCELLED", status == "CANCELLED", status)
        self.proved.append("a cancelled job stays cancelled, and its execution stops")

    def follow(self, job_id: str, from_status: str, goal: str) -> None:
        """Print each status as the job reaches it, until `goal`."""
        started = time.monotonic()
        self.print(f"[dim]  0.00 s[/]  {from_status}")
        for status in self.states_after(job_id, from_status):
            self.print(f"[dim]{time.monotonic() - started:6.2f} s[/]  [cyan]{status}[/]")
            if status in (goal, "FAILED", "CANCELLED"):
                self.check(f"the job reached {goal}", status == goal, status)
                return

    def states_after(self, job_id: str, status: str) -> Iterator[str]:
        """Yield each status of the job after `status`, by long polls."""
        deadline = time.monotonic() + FOLLOW_LIMIT_SECONDS
        while time.monotonic() < deadline:
            seen = self.alice.job(job_id, params={"wait": 2, "status_not": status}).json()["status"]
            if seen != status:
                status = seen
                yield status
        raise WrongAnswerError(f"the job is {status} after {FOLLOW_LIMIT_SECONDS:g} s")

    def status(self, job_id: str) -> str:
        return str(self.alice.job(job_id).json()["status"])

    def changes(self, job_id: str) -> list[str]:
        """Return the statuses that the job took, from its trail."""
        trail = self.alice.events(job_id, params={"limit": 200}).json()["items"]
        return [step["new_status"] for step in trail if step["new_status"] != step["prev_status"]]

    def executions(self, job_id: str) -> list[dict[str, Any]]:
        """Return the orchestrator's executions of a job."""
        answer = requests.get(f"{self.stack.orchestrator.url}/executions", timeout=5)
        return [execution for execution in answer.json() if execution["job_id"] == job_id]

    def execution(self, job_id: str) -> dict[str, Any]:
        return self.executions(job_id)[0]

    def check_executed_once(self, job_id: str) -> None:
        """Check at the orchestrator that there was one post."""
        executions = self.executions(job_id)
        posts = [execution["posts"] for execution in executions]
        self.check("the orchestrator: one POST, one execution", posts == [1], executions)
