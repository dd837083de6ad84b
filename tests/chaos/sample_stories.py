"""Stories written by hand for the checker's own tests: what an honest run looks like, in small."""

from datetime import UTC, datetime, timedelta
from typing import Any

from tests.chaos.checker import callback_operations
from tests.chaos.history import JobStory, Operation
from tests.chaos.misbehaviour import NAMES_EXECUTIONS, STEPS

_BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
EXECUTION = "the-execution"


class StoryTeller:
    """Writes a job's story step by step; each step happens a second after the one before."""

    def __init__(self, job_id: str) -> None:
        self.story = JobStory(job_id, 1, NAMES_EXECUTIONS, job={"status": "CREATED"})
        self.dispatch = f"run-{job_id}"
        self.second = 0.0
        self.event("job.created", to="CREATED", was=None)
        self.event("job.upload_confirmed", to="UPLOADED")

    @property
    def status(self) -> str:
        """The job's state now."""
        assert self.story.job is not None
        return str(self.story.job["status"])

    def event(self, kind: str, to: str | None = None, **more: Any) -> None:
        """A line of the trail; the job is in state `to` after it."""
        assert self.story.job is not None
        self.second += 1
        was = more.pop("was", self.status)
        actor = more.pop("actor_type", "system")
        now = (_BEGINNING + timedelta(seconds=self.second)).isoformat()
        self.story.trail.append(
            {
                "event_type": kind,
                "actor_type": actor,
                "prev_status": was,
                "new_status": to or self.status,
                "recorded_at": now,
                "correlation_id": more.pop("correlation_id", "somebody"),
                **more,
            }
        )
        self.story.job["status"] = to or self.status

    def dispatched(self, kind: str, phase: str | None, attempt: int = 1) -> None:
        """A line of the trail about the run's dispatch, which leaves its claim in `phase`."""
        self.event(f"dispatch.{kind}", dispatch_id=self.dispatch, attempt=attempt)
        claim = {"kind": "run", "dispatch_id": self.dispatch, "phase": phase}
        self.story.claim = claim if phase else None

    def answer(self, kind: str, code: int | None, /, **body: Any) -> Operation:
        """A client's request, from the last second until now, and its answer."""
        start, self.second = self.second + 0.1, self.second + 1
        end = None if code is None else self.second
        operation = Operation(self.story.job_id, kind, {"request_id": "x"}, start, end, code, body)
        self.story.operations.append(operation)
        return operation

    def ran(self, status: int) -> None:
        """A run that is answered as accepted."""
        told = {"status": self.status, "dispatch_id": self.dispatch, "replayed": status == 200}
        self.answer("run", status, **told)

    def read(self) -> None:
        """A read that shows what is so."""
        phase = self.story.claim and self.story.claim["phase"]
        self.answer("read", 200, status=self.status, dispatch={"phase": phase} if phase else None)

    def posted(self, status: int | None) -> None:
        """A post that the orchestrator read, and its answer."""
        self.second += 1
        post = f"post-{self.second}"
        self.note("post", post=post, dispatch=self.dispatch, how="by hand")
        self.note("answer", post=post, status=status)

    def note(self, kind: str, **fields: Any) -> None:
        """An entry of the orchestrator's record."""
        entry = {"kind": kind, "at": self.second, "job": self.story.job_id, **fields}
        self.story.record.append(entry)

    def executed(self, name: str = EXECUTION) -> None:
        """The orchestrator begins an execution."""
        self.note("execution", execution=name, dispatch=self.dispatch)

    def reported(self, status: str, name: str = EXECUTION) -> None:
        """A step that was reported, and taken."""
        event_id = f"{name}-{status}"
        occurred_at = (_BEGINNING + timedelta(seconds=self.second)).isoformat()
        body = {"event_id": event_id, "status": status, "occurred_at": occurred_at}
        body["execution_id"] = name
        about = {"execution": name, "call": f"call-{self.second}"}
        self.note("callback", body=body, **about)
        self.event(
            "job.status_changed", to=status, actor_type="orchestrator", correlation_id=event_id
        )
        self.note("callback_answer", status=204, body={}, **about)

    def told(self) -> JobStory:
        """The finished story."""
        self.story.operations += callback_operations(self.story.record)
        return self.story


def executed_once(job_id: str = "job-a") -> JobStory:
    """Claimed, accepted, walked to its draft; run again, and read."""
    teller = StoryTeller(job_id)
    start = teller.second
    teller.dispatched("claimed", "CLAIMED")
    teller.dispatched("sent", "SENDING")
    teller.posted(202)
    teller.executed()
    teller.dispatched("accepted", "SENT")
    teller.event("job.status_changed", to="AUDIO_EXTRACTING")
    teller.ran(202)
    teller.story.operations[-1].start = start
    for status, _ in STEPS:
        teller.reported(status)
    teller.ran(200)
    teller.read()
    return teller.told()


def refused_twice(job_id: str = "job-b") -> JobStory:
    """Refused, and once more; left where it was."""
    teller = StoryTeller(job_id)
    for attempt in (1, 2):
        start = teller.second
        teller.dispatched("claimed", "CLAIMED", attempt)
        teller.dispatched("sent", "SENDING", attempt)
        teller.posted(503)
        teller.dispatched("refused", None, attempt)
        answer = teller.answer("run", 502, details={"reason": "refused"})
        answer.start = start
    teller.answer("run", None)  # what became of this one, nobody knows
    teller.read()
    return teller.told()


def cancelled_while_unknown(job_id: str = "job-c") -> JobStory:
    """Sent, never answered, called unknown; then cancelled."""
    teller = StoryTeller(job_id)
    start = teller.second
    teller.dispatched("claimed", "CLAIMED")
    teller.dispatched("sent", "SENDING")
    teller.posted(None)
    teller.dispatched("unknown", "UNKNOWN")
    teller.answer("run", 502, details={"reason": "outcome_unknown"}).start = start
    teller.read()
    start = teller.second
    teller.event("job.cancelled", to="CANCELLED", actor_type="editor")
    teller.answer("cancel", 200, status="CANCELLED").start = start
    teller.read()
    teller.story.listed_unknown = True
    return teller.told()


def left_unknown(job_id: str = "job-d") -> JobStory:
    """Sent, never answered, called unknown and listed as such."""
    teller = StoryTeller(job_id)
    start = teller.second
    teller.dispatched("claimed", "CLAIMED")
    teller.dispatched("sent", "SENDING")
    teller.posted(None)
    teller.dispatched("unknown", "UNKNOWN")
    teller.answer("run", 502, details={"reason": "outcome_unknown"}).start = start
    teller.read()
    teller.story.listed_unknown = True
    return teller.told()


def honest_run() -> list[JobStory]:
    """One job of each end."""
    return [executed_once(), refused_twice(), cancelled_while_unknown(), left_unknown()]
