"""The recorded history, which is all that the checker sees: requests, answers and the final records."""

import dataclasses
import gzip
import json
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The monotonic clock is the same for all processes of a machine, and faults do not change it.
moment = time.monotonic

# Answers that leave open whether the request was carried out. 503 is documented to do so; 500 is a violation
# of its own.
_AMBIGUOUS = frozenset({None, 500, 503})


@dataclass(slots=True)
class Operation:
    """One request and its answer; without an answer (`status` None) it may have been carried out.

    `kind` is run, retry, cancel, read or callback; `request` has the parameters beyond the job.
    """

    job: str
    kind: str
    request: dict[str, Any]
    start: float
    end: float | None = None
    status: int | None = None
    body: dict[str, Any] = field(default_factory=dict)

    @property
    def is_ambiguous(self) -> bool:
        """Whether it may or may not have been carried out, or may yet be."""
        return self.status in _AMBIGUOUS

    @property
    def details(self) -> dict[str, Any]:
        return self.body.get("details") or {}

    @property
    def error(self) -> tuple[str, str | None]:
        """An error's code and its `current_status`."""
        return str(self.body.get("code")), self.details.get("current_status")

    def matches_error(self, status: int, code: str, current_status: str | None) -> bool:
        """Whether its answer is this error, or ambiguous."""
        return self.is_ambiguous or (self.status, self.error) == (status, (code, current_status))

    def __str__(self) -> str:
        request = " ".join(f"{name}={value}" for name, value in self.request.items() if value)
        end = "never" if self.end is None else f"{self.end:9.3f}"
        body = {key: value for key, value in self.body.items() if key != "message"}
        return f"{self.start:9.3f}..{end} {self.kind} {request} -> {self.status} {body or ''}"


class History:
    """The operations of all client threads."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._lock = threading.Lock()

    def begin(self, job: str, kind: str, request: dict[str, Any]) -> Operation:
        """Record a request that is about to be sent."""
        operation = Operation(job, kind, request, moment())
        with self._lock:
            self.operations.append(operation)
        return operation


def finish(operation: Operation, status: int | None, body: dict[str, Any]) -> None:
    """Record an answer; status None for a timeout or a reset."""
    operation.status, operation.body = status, body
    operation.end = None if operation.is_ambiguous else moment()


@dataclass(slots=True)
class JobStory:
    """Everything that was recorded about one job.

    `record` holds the orchestrator's entries, `trail` the service's events, oldest first. `job` and `claim` are
    the stored records at the end; `listed_unknown` and `listed_silent`: whether it is in those lists.
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

    def text(self) -> str:
        """The whole story in readable form."""
        return "\n".join(
            [
                f"job {self.job_id} (number {self.number}, orchestrator: {self.mode})",
                "  requests and answers:",
                *(f"    {op}" for op in sorted(self.operations, key=lambda op: op.start)),
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
    """Save stories, for `--recheck`."""
    with gzip.open(path, "wt") as file:
        json.dump([dataclasses.asdict(story) for story in stories], file)


def load_stories(path: Path) -> list[JobStory]:
    """Load what `save_stories` saved."""
    with gzip.open(path, "rt") as file:
        raw = json.load(file)
    for story in raw:
        story["operations"] = [Operation(**fields) for fields in story["operations"]]
    return [JobStory(**story) for story in raw]
