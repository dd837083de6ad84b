"""How a rule says what it decided: what was read, what becomes of it, and what goes on the trail.

A rule is a pure function of a `Record` (and the time). It returns a `Decision`; the store commits the
decision's change only if the record is still what was read, and asks the rule again if it is not.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

from domain.claim import Claim, Phase
from domain.errors import ResourceNotFound, TakeOneError
from domain.job_fsm import JobStatus
from domain.models import Job
from domain.trail import Actor, EventType, TrailEvent

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Record:
    """A job and its claim as they stood together at one moment."""

    job: Job
    claim: Claim | None = None

    @property
    def shown_claim(self) -> Claim | None:
        """The dispatch that a reader is told of: the standing claim, else the last released one."""
        return self.claim or self.job.released

    @property
    def next_epoch(self) -> int:
        """The epoch of the next claim: epochs of a job are never used twice."""
        latest = self.shown_claim
        return latest.epoch + 1 if latest else 1


class Errand(StrEnum):
    """What a worker is asked to do after a change."""

    DISPATCH = "dispatch"
    TELL_CANCELLED = "tell_cancelled"


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be committed, all of it or nothing.

    `errand` asks for a message to a worker about the record's claim; `callback` is the
    `(event_id, digest)` to remember.
    """

    record: Record
    trail: tuple[TrailEvent, ...]
    errand: Errand | None = None
    callback: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Decision(Generic[Answer]):
    """What a rule decided: the change to commit, if any, and the answer that is true after it.

    `error` is raised once the change is committed: a refusal may leave a line on the trail.
    """

    answer: Answer
    change: Change | None = None
    error: TakeOneError | None = None


@dataclass(slots=True)
class Draft:
    """A change in the making: collects new values and the trail lines that go with them."""

    record: Record
    now: datetime
    correlation_id: str | None = None
    trail: list[TrailEvent] = field(default_factory=list)
    before: Record = field(init=False)

    def __post_init__(self) -> None:
        self.before = self.record

    @property
    def job(self) -> Job:
        """The job as drafted so far."""
        return self.record.job

    @property
    def claim(self) -> Claim | None:
        """The claim as drafted so far."""
        return self.record.claim

    def note(
        self,
        event_type: EventType,
        actor: Actor,
        *,
        to_status: JobStatus | None = None,
        occurred_at: datetime | None = None,
        claim: Claim | None = None,
        reason: str | None = None,
        execution_id: str | None = None,
    ) -> None:
        """Put a line on the trail; without `to_status` it says that the state stayed as it is."""
        self.trail.append(
            TrailEvent(
                event_type=event_type,
                actor=actor,
                from_status=self.job.status,
                to_status=to_status or self.job.status,
                occurred_at=occurred_at or self.now,
                recorded_at=self.now,
                correlation_id=self.correlation_id,
                dispatch_id=claim.dispatch_id if claim else None,
                epoch=claim.epoch if claim else None,
                reason=reason,
                execution_id=execution_id,
            )
        )

    def move(
        self,
        to_status: JobStatus,
        actor: Actor,
        event_type: EventType = EventType.STATUS_CHANGED,
        occurred_at: datetime | None = None,
    ) -> None:
        """Change the job's state, which the caller has had approved by the FSM, and say so."""
        self.note(event_type, actor, to_status=to_status, occurred_at=occurred_at)
        self.update_job(status=to_status)

    def update_job(self, **fields: Any) -> None:
        """Give the job new values."""
        fields |= {"updated_at": self.now, "version": self.before.job.version + 1}
        job = self.job.model_copy(update=fields)
        self.record = Record(job, self.claim)

    def set_claim(self, claim: Claim) -> None:
        """Put the claim as it is to stand; one in phase RELEASED frees the key and is kept to show."""
        if claim.phase is Phase.RELEASED:
            self.record = Record(self.job, None)
            self.update_job(released=claim)
        else:
            self.record = Record(self.job, claim)

    def change(
        self, *, errand: Errand | None = None, callback: tuple[str, str] | None = None
    ) -> Change:
        """The finished change."""
        return Change(self.record, tuple(self.trail), errand, callback)


def owned(record: Record | None, user: str | None) -> Record:
    """Return the record if it is `user`'s.

    Raises `ResourceNotFound` alike for a job that is not there and for one that is another's.
    """
    if record is None or user is None or record.job.owner != user:
        raise ResourceNotFound
    return record
