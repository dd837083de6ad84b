"""Stories written by hand for the checker's own tests: what an honest run looks like, in small."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, TypeVar

from tests.chaos.checker import callback_operations
from tests.chaos.history import JobStory, Operation
from tests.chaos.misbehaviour import NAMES_EXECUTIONS, STEPS
from tests.chaos.search_graph import Post

_BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
EXECUTION = "the-execution"
Taken = TypeVar("Taken")


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
                "correlation_id": more.pop("correlation_id", "x"),
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
    teller.answer("run", None)  # what became of this one is not known
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


class BusyJob:
    """A small honest service: one job that many callers run and read at once, by a seed.

    `operations` and `posts` are what the checker may see of it; by how they were made, an order
    explains them. Each act takes one second.
    """

    def __init__(self, seed: int, count: int, at_once: int = 8, unanswered: float = 0.2) -> None:
        self.operations: list[Operation] = []
        self.posts: list[Post] = []
        self._rng, self._at_once, self._unanswered = Random(seed), at_once, unanswered
        self._now, self._phase, self._epoch = 0, "", 0
        self._released = (0, "")
        self._arriving: list[Operation] = []
        self._waiting: list[tuple[Operation, int, bool]] = []
        self._answering: list[Operation] = []
        while len(self.operations) < count - 3:
            self._act()
        while self._phase != "SENT":
            self._act(may_arrive=False)
        while self._arriving or self._waiting or self._answering:
            self._act(may_arrive=False)
        self._unanswered = 0
        for kind in ("run", "run", "read"):
            self._arrive(kind)
            self._let_in(self._arriving.pop())
            self._answer(self._answering.pop())

    def _act(self, may_arrive: bool = True) -> None:
        acts: list[tuple[float, Callable[[], None]]] = []
        unfinished = [*self._arriving, *self._waiting, *self._answering]
        if may_arrive and len(unfinished) < self._at_once:
            acts.append((4, lambda: self._arrive(self._rng.choice(["run", "run", "read"]))))
        if self._arriving:
            acts.append((3, lambda: self._let_in(self._taken(self._arriving))))
        if self._answering:
            acts.append((3, lambda: self._answer(self._taken(self._answering))))
        if self._waiting:
            acts.append((2, lambda: self._look(self._taken(self._waiting))))
        if self._phase == "CLAIMED":
            acts.append((1, self._settle))
        elif self._phase != "SENT" and not acts:
            acts.append((1, lambda: self._arrive("run")))
        self._rng.choices([act for _, act in acts], [weight for weight, _ in acts])[0]()

    def _taken(self, among: list[Taken]) -> Taken:
        return among.pop(self._rng.randrange(len(among)))

    def _arrive(self, kind: str) -> None:
        self._now += 1
        asked = {"request_id": f"request-{len(self.operations)}"}
        self.operations.append(Operation("job-z", kind, asked, self._now))
        self._arriving.append(self.operations[-1])

    def _let_in(self, operation: Operation) -> None:
        resends = self._phase == "UNKNOWN" and self._rng.random() < 0.5
        if operation.kind == "read":
            dispatch = {"phase": self._phase} if self._phase else None
            self._decide(operation, 200, status=self._status, dispatch=dispatch)
        elif self._phase == "UNKNOWN" and not resends:
            self._decide(operation, 502, details={"reason": "outcome_unknown"})
        elif self._phase in ("CLAIMED", "SENT"):
            self._waiting.append((operation, self._epoch, False))
            if self._phase == "SENT":
                self._look(self._waiting.pop())
        else:
            self._phase, self._epoch = "CLAIMED", self._epoch + 1
            self._waiting.append((operation, self._epoch, True))

    def _look(self, waiting: tuple[Operation, int, bool]) -> None:
        operation, epoch, is_first = waiting
        if self._phase != "SENT" and self._released[0] >= epoch:
            self._decide(operation, 502, details={"reason": self._released[1]})
        elif self._phase == "UNKNOWN":
            self._decide(operation, 502, details={"reason": "outcome_unknown"})
        elif self._phase == "SENT":
            told = {"status": self._status, "dispatch_id": "run-job-z", "replayed": not is_first}
            self._decide(operation, 202 if is_first else 200, **told)
        else:
            self._waiting.append(waiting)

    def _settle(self) -> None:
        outcomes = {"accepted": 1, "refused": 3, "not_started": 3, "unknown": 3}
        outcome = self._rng.choices(list(outcomes), list(outcomes.values()))[0]
        self._now += 1
        if outcome != "not_started":
            status = {"accepted": 202, "refused": 503}.get(outcome)
            self.posts.append(Post("run-job-z", self._now, status))
        if outcome in ("refused", "not_started"):
            self._phase, self._released = "", (self._epoch, outcome)
        else:
            self._phase = "SENT" if outcome == "accepted" else "UNKNOWN"

    @property
    def _status(self) -> str:
        return "AUDIO_EXTRACTING" if self._phase == "SENT" else "UPLOADED"

    def _decide(self, operation: Operation, status: int, /, **body: Any) -> None:
        operation.status, operation.body = status, body
        self._answering.append(operation)

    def _answer(self, operation: Operation) -> None:
        self._now += 1
        operation.end = self._now
        if self._rng.random() < self._unanswered:
            operation.status, operation.body, operation.end = None, {}, None
