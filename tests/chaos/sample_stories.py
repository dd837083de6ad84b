"""Stories written by hand for the checker's own tests: a small run without violations."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, TypeVar

from tests.chaos.checker import callback_operations
from tests.chaos.history import JobStory, Operation
from tests.chaos.misbehaviour import SENDS_EXECUTION_ID, STEPS
from tests.chaos.search_graph import Post

_BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
EXECUTION = "the-execution"
Item = TypeVar("Item")


class StoryBuilder:
    """Builds a job's story step by step; each step happens one second after the one before."""

    def __init__(self, job_id: str) -> None:
        self.story = JobStory(job_id, 1, SENDS_EXECUTION_ID, job={"status": "CREATED"})
        self.dispatch = f"run-{job_id}"
        self.second = 0.0
        self.event("job.created", to="CREATED", prev_status=None)
        self.event("job.upload_confirmed", to="UPLOADED")

    @property
    def status(self) -> str:
        assert self.story.job is not None
        return str(self.story.job["status"])

    def event(self, kind: str, to: str | None = None, **more: Any) -> None:
        """Append an event to the trail; the job's status is `to` after it."""
        assert self.story.job is not None
        self.second += 1
        self.story.trail.append(
            {
                "event_type": kind,
                "actor_type": "system",
                "prev_status": self.status,
                "new_status": to or self.status,
                "recorded_at": self._now(),
                "correlation_id": "x",
                **more,
            }
        )
        self.story.job["status"] = to or self.status

    def _now(self) -> str:
        return (_BEGINNING + timedelta(seconds=self.second)).isoformat()

    def dispatch_event(self, kind: str, phase: str | None, attempt: int = 1) -> None:
        """Append an event of the run's dispatch, which leaves its claim in `phase`."""
        self.event(f"dispatch.{kind}", dispatch_id=self.dispatch, attempt=attempt)
        claim = {"kind": "run", "dispatch_id": self.dispatch, "phase": phase}
        self.story.claim = claim if phase else None

    def answer(self, kind: str, code: int | None, /, **body: Any) -> Operation:
        """Append a client's request, which took the last second, and its answer."""
        start, self.second = self.second + 0.1, self.second + 1
        end = None if code is None else self.second
        operation = Operation(self.story.job_id, kind, {"request_id": "x"}, start, end, code, body)
        self.story.operations.append(operation)
        return operation

    def run(self, status: int) -> None:
        """Append a run that is answered as accepted."""
        replayed = status == 200
        self.answer("run", status, status=self.status, dispatch_id=self.dispatch, replayed=replayed)

    def read(self) -> None:
        """Append a read that shows the current status and phase."""
        phase = self.story.claim and self.story.claim["phase"]
        self.answer("read", 200, status=self.status, dispatch={"phase": phase} if phase else None)

    def post(self, status: int | None) -> None:
        """Record a post that the orchestrator read, and the status of its answer."""
        self.second += 1
        post = f"post-{self.second}"
        self.note("post", post=post, dispatch=self.dispatch, how="by hand")
        self.note("answer", post=post, status=status)

    def note(self, kind: str, **fields: Any) -> None:
        """Append an entry to the orchestrator's record."""
        entry = {"kind": kind, "at": self.second, "job": self.story.job_id, **fields}
        self.story.record.append(entry)

    def callback(self, status: str) -> None:
        """Record a callback that was applied."""
        event_id = f"{EXECUTION}-{status}"
        body = {"event_id": event_id, "status": status, "occurred_at": self._now()}
        body["execution_id"] = EXECUTION
        ids = {"execution": EXECUTION, "call": f"call-{self.second}"}
        self.note("callback", body=body, **ids)
        self.event(
            "job.status_changed", to=status, actor_type="orchestrator", correlation_id=event_id
        )
        self.note("callback_answer", status=204, body={}, **ids)

    def build(self) -> JobStory:
        """Return the finished story."""
        self.story.operations += callback_operations(self.story.record)
        return self.story


def executed_once(job_id: str = "job-a") -> JobStory:
    """Accepted, executed up to the draft; then run again and read."""
    builder = StoryBuilder(job_id)
    start = builder.second
    builder.dispatch_event("claimed", "CLAIMED")
    builder.dispatch_event("sent", "SENDING")
    builder.post(202)
    builder.note("execution", execution=EXECUTION, dispatch=builder.dispatch)
    builder.dispatch_event("accepted", "SENT")
    builder.event("job.status_changed", to="AUDIO_EXTRACTING")
    builder.run(202)
    builder.story.operations[-1].start = start
    for status, _ in STEPS:
        builder.callback(status)
    builder.run(200)
    builder.read()
    return builder.build()


def refused_twice(job_id: str = "job-b") -> JobStory:
    """Two runs refused, one without an answer; the job stays UPLOADED."""
    builder = StoryBuilder(job_id)
    for attempt in (1, 2):
        start = builder.second
        builder.dispatch_event("claimed", "CLAIMED", attempt)
        builder.dispatch_event("sent", "SENDING", attempt)
        builder.post(503)
        builder.dispatch_event("refused", None, attempt)
        builder.answer("run", 502, details={"reason": "refused"}).start = start
    builder.answer("run", None)
    builder.read()
    return builder.build()


def _unknown(job_id: str) -> StoryBuilder:
    builder = StoryBuilder(job_id)
    start = builder.second
    builder.dispatch_event("claimed", "CLAIMED")
    builder.dispatch_event("sent", "SENDING")
    builder.post(None)
    builder.dispatch_event("unknown", "UNKNOWN")
    builder.answer("run", 502, details={"reason": "outcome_unknown"}).start = start
    builder.read()
    builder.story.listed_unknown = True
    return builder


def cancelled_while_unknown(job_id: str = "job-c") -> JobStory:
    """Sent and never answered, then cancelled."""
    builder = _unknown(job_id)
    start = builder.second
    builder.event("job.cancelled", to="CANCELLED", actor_type="editor")
    builder.answer("cancel", 200, status="CANCELLED").start = start
    builder.read()
    return builder.build()


def left_unknown(job_id: str = "job-d") -> JobStory:
    """Sent and never answered; listed as unknown."""
    return _unknown(job_id).build()


def correct_run() -> list[JobStory]:
    """One job of each end."""
    return [executed_once(), refused_twice(), cancelled_while_unknown(), left_unknown()]


class BusyJob:
    """Simulates a correct service: one job that many callers run and read concurrently, by a seed.

    `operations` and `posts` are what the checker sees. Some order explains them, by construction. Each
    event takes one second.
    """

    def __init__(
        self, seed: int, count: int, concurrency: int = 8, unanswered: float = 0.2
    ) -> None:
        self.operations: list[Operation] = []
        self.posts: list[Post] = []
        self._rng, self._concurrency, self._unanswered = Random(seed), concurrency, unanswered
        self._now, self._phase, self._epoch = 0, "", 0
        self._released = (0, "")
        self._arriving: list[Operation] = []
        self._waiting: list[tuple[Operation, int, bool]] = []
        self._answering: list[Operation] = []
        while len(self.operations) < count - 3:
            self._step()
        while self._phase != "SENT" or self._arriving or self._waiting or self._answering:
            self._step(may_arrive=False)
        self._unanswered = 0
        for kind in ("run", "run", "read"):
            self._arrive(kind)
            self._admit(self._arriving.pop())
            self._answer(self._answering.pop())

    def _step(self, may_arrive: bool = True) -> None:
        steps: list[tuple[float, Callable[[], None]]] = []
        unfinished = [*self._arriving, *self._waiting, *self._answering]
        if may_arrive and len(unfinished) < self._concurrency:
            steps.append((4, lambda: self._arrive(self._rng.choice(["run", "run", "read"]))))
        if self._arriving:
            steps.append((3, lambda: self._admit(self._pop_random(self._arriving))))
        if self._answering:
            steps.append((3, lambda: self._answer(self._pop_random(self._answering))))
        if self._waiting:
            steps.append((2, lambda: self._check_outcome(self._pop_random(self._waiting))))
        if self._phase == "CLAIMED":
            steps.append((1, self._settle))
        elif self._phase != "SENT" and not steps:
            steps.append((1, lambda: self._arrive("run")))
        self._rng.choices([step for _, step in steps], [weight for weight, _ in steps])[0]()

    def _pop_random(self, items: list[Item]) -> Item:
        return items.pop(self._rng.randrange(len(items)))

    def _arrive(self, kind: str) -> None:
        self._now += 1
        request = {"request_id": f"request-{len(self.operations)}"}
        self.operations.append(Operation("job-z", kind, request, self._now))
        self._arriving.append(self.operations[-1])

    def _admit(self, operation: Operation) -> None:
        resends = self._phase == "UNKNOWN" and self._rng.random() < 0.5
        if operation.kind == "read":
            dispatch = {"phase": self._phase} if self._phase else None
            self._decide(operation, 200, status=self._status, dispatch=dispatch)
        elif self._phase == "UNKNOWN" and not resends:
            self._decide(operation, 502, details={"reason": "outcome_unknown"})
        elif self._phase in ("CLAIMED", "SENT"):
            self._waiting.append((operation, self._epoch, False))
            if self._phase == "SENT":
                self._check_outcome(self._waiting.pop())
        else:
            self._phase, self._epoch = "CLAIMED", self._epoch + 1
            self._waiting.append((operation, self._epoch, True))

    def _check_outcome(self, waiting: tuple[Operation, int, bool]) -> None:
        operation, epoch, is_first = waiting
        if self._phase != "SENT" and self._released[0] >= epoch:
            self._decide(operation, 502, details={"reason": self._released[1]})
        elif self._phase == "UNKNOWN":
            self._decide(operation, 502, details={"reason": "outcome_unknown"})
        elif self._phase == "SENT":
            body = {"status": self._status, "dispatch_id": "run-job-z", "replayed": not is_first}
            self._decide(operation, 202 if is_first else 200, **body)
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
