"""What was asked and answered, and what was found at the end: all that the checker is given."""

import dataclasses
import gzip
import json
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The clock is one for all processes of the machine, and it is not set meanwhile.
moment = time.monotonic

# Answers that do not say what became of the request. 503 is the service's own "either".
# 500 is none that it may give: the checker counts it apart.
_EITHER = frozenset({None, 500, 503})


@dataclass(slots=True)
class Operation:
    """One request and its answer; without an answer (`status` None) it may have been carried out.

    `kind` is run, retry, cancel, read or callback; `asked` is what it asked for beyond the job.
    """

    job: str
    kind: str
    asked: dict[str, Any]
    start: float
    end: float | None = None
    status: int | None = None
    body: dict[str, Any] = field(default_factory=dict)

    @property
    def is_either(self) -> bool:
        """Whether it may have been carried out, or may yet be, or not."""
        return self.status in _EITHER

    @property
    def details(self) -> dict[str, Any]:
        """The details of an error; empty if there are none."""
        return self.body.get("details") or {}

    @property
    def error(self) -> tuple[str, str | None]:
        """An error's code and the state that it names."""
        return str(self.body.get("code")), self.details.get("current_status")

    def may_be(self, status: int, code: str, current_status: str | None) -> bool:
        """Whether its answer is this error, or none."""
        return self.is_either or (self.status, self.error) == (status, (code, current_status))

    def __str__(self) -> str:
        asked = " ".join(f"{name}={value}" for name, value in self.asked.items() if value)
        end = "never" if self.end is None else f"{self.end:9.3f}"
        told = {key: value for key, value in self.body.items() if key != "message"}
        return f"{self.start:9.3f}..{end} {self.kind} {asked} -> {self.status} {told or ''}"


class History:
    """The operations of all client threads."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._lock = threading.Lock()

    def begin(self, job: str, kind: str, asked: dict[str, Any]) -> Operation:
        """Note that a request is about to leave."""
        operation = Operation(job, kind, asked, moment())
        with self._lock:
            self.operations.append(operation)
        return operation


def finish(operation: Operation, status: int | None, body: dict[str, Any]) -> None:
    """Note an answer; None for a timeout or a reset."""
    operation.status, operation.body = status, body
    operation.end = None if operation.is_either else moment()


@dataclass(slots=True)
class JobStory:
    """Everything that is known about one job.

    `record` is the orchestrator's, `trail` the service's, oldest first. `job` and `claim` are what
    the store holds at the end, `listed_unknown` and `listed_silent` whether it is in those lists.
    """

    job_id: str
    number: int
    mode: str
    operations: list[Operation] = field(default_factory=list)
    record: list[dict[str, Any]] = field(default_factory=list)
    trail: list[dict[str, Any]] = field(default_factory=list)
    job: dict[str, Any] | None = None
    claim: dict[str, Any] | None = None
    listed_unknown: bool = False
    listed_silent: bool = False

    def entries(self, kind: str) -> list[dict[str, Any]]:
        """The orchestrator's entries of one kind."""
        return [entry for entry in self.record if entry["kind"] == kind]

    def told(self) -> str:
        """The whole story, for people."""
        return "\n".join(
            [
                f"job {self.job_id} (number {self.number}, orchestrator: {self.mode})",
                "  requests and answers:",
                *(f"    {each}" for each in sorted(self.operations, key=lambda op: op.start)),
                "  the orchestrator's record:",
                *(f"    {json.dumps(entry)}" for entry in self.record),
                "  trail:",
                *(f"    {json.dumps(event)}" for event in self.trail),
                f"  job at the end: {json.dumps(self.job)}",
                f"  claim at the end: {json.dumps(self.claim)} unknown={self.listed_unknown}"
                f" silent={self.listed_silent}",
            ]
        )


def save_stories(stories: list[JobStory], path: Path) -> None:
    """Keep stories, to be checked again without another run."""
    with gzip.open(path, "wt") as file:
        json.dump([dataclasses.asdict(story) for story in stories], file)


def load_stories(path: Path) -> list[JobStory]:
    """Read what `save_stories` kept."""
    with gzip.open(path, "rt") as file:
        raw = json.load(file)
    for story in raw:
        story["operations"] = [Operation(**fields) for fields in story["operations"]]
    return [JobStory(**story) for story in raw]
