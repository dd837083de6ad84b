"""A job with its claim, and what a rule decides about them.

A rule is given a `Change` of a `Record`, affects nothing else, and returns a `Decision`. The store commits the
decision only if the stored record has not changed since it was read, and otherwise reads it and applies the
rule again, with another `Change`.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Generic, NamedTuple, TypeVar

from domain.audit import Actor, AuditEvent, EventType, OperatorAct
from domain.claim import (
    ABANDONED_AFTER,
    CANCEL_AGAIN_AFTER,
    Claim,
    DispatchPolicy,
    FencingToken,
    Phase,
)
from domain.errors import ResourceNotFound, TakeOneError
from domain.job import Job
from domain.job_fsm import DRAFTING_STATUSES, JobStatus, ensure_transition

Result = TypeVar("Result")

_WORKFLOW_STATUSES = DRAFTING_STATUSES | {JobStatus.REGENERATING, JobStatus.EXPORTING}


@dataclass(frozen=True, slots=True)
class Record:
    """A job and its claim, read together.

    `revision`: the stored bytes of job and claim, which a commit compares (empty: not stored). `seen`: the
    callback that was applied earlier under the event id that the caller asked for.
    """

    job: Job
    claim: Claim | None = None
    revision: tuple[bytes, bytes] = field(default=(b"", b""), compare=False, repr=False)
    seen: "AppliedEvent | None" = field(default=None, compare=False, repr=False)

    @property
    def latest_claim(self) -> Claim | None:
        """The claim of the highest epoch: the current one, else the last past one."""
        return self.claim or next(reversed(self.job.past_claims), None)

    @property
    def claims(self) -> tuple[Claim, ...]:
        """All claims that are kept, by epoch."""
        return (*self.job.past_claims, *([self.claim] if self.claim else []))

    @property
    def replaced(self) -> tuple[Claim, ...]:
        """The accepted dispatches that a later retry replaced."""
        past = self.job.past_claims
        return tuple(claim for claim in past if claim.phase is not Phase.RELEASED)

    @property
    def released(self) -> Claim | None:
        """The latest released claim."""
        past = reversed(self.job.past_claims)
        return next((claim for claim in past if claim.phase is Phase.RELEASED), None)

    @property
    def next_epoch(self) -> int:
        """The epoch of the next claim. A job never uses an epoch twice."""
        latest = self.latest_claim
        return latest.epoch + 1 if latest else 1

    @property
    def token(self) -> FencingToken:
        """The fencing token of the latest claim. Raises `ValueError` if no claim was ever made."""
        if self.latest_claim is None:
            raise ValueError("the job was never claimed")
        return FencingToken(self.job.id, self.latest_claim.dispatch_id, self.latest_claim.epoch)

    @property
    def reason(self) -> str | None:
        """Why operators are shown the job: its failure's code, or its dispatch's reason, or its run's state."""
        failure, claim = self.job.failure, self.latest_claim
        if failure is not None:
            return failure.code
        return claim.reason or claim.run_state if claim else None

    def held_by(self, token: FencingToken) -> Claim | None:
        """The current claim, if `token` is its own."""
        return self.claim if self.claim is not None and self.claim.holds(token) else None

    def standing(self, dispatch_id: str) -> Claim | None:
        """The claim of this dispatch if it is the current one, or one that a retry replaced."""
        if self.claim is not None and self.claim.dispatch_id == dispatch_id:
            return self.claim
        return next((claim for claim in self.replaced if claim.dispatch_id == dispatch_id), None)

    @property
    def awaits_resume(self) -> bool:
        """Whether the first callback of a retry, which takes the job out of FAILED, is still due."""
        return bool(self.claim and self.claim.awaits_resume) and self.job.status is JobStatus.FAILED

    @property
    def awaits_report(self) -> bool:
        """Whether a callback is due: the dispatch was accepted, and the workflow is at work.

        None is due in DRAFT_READY and EDITING, where the editor works.
        """
        claim = self.claim
        if claim is None or claim.phase is not Phase.SENT:
            return False
        return self.awaits_resume or self.job.status in _WORKFLOW_STATUSES

    def report_deadline(self, policy: DispatchPolicy) -> datetime | None:
        """When the next callback is due; None if none is due, or if `policy` sets no limit."""
        claim, reported_at = self.claim, self.job.reported_at
        if claim is None or claim.settled_at is None or not self.awaits_report:
            return None
        if reported_at is None or reported_at < claim.settled_at:
            return claim.settled_at + policy.first_report if policy.first_report else None
        return reported_at + policy.silent_after if policy.silent_after else None


class AppliedEvent(NamedTuple):
    """A callback that was applied."""

    digest: str  # of its payload
    dispatch_id: str  # empty if an earlier release applied it


class TaskKind(StrEnum):
    """What a worker is asked to do after a commit."""

    DISPATCH = "dispatch"
    TELL_CANCELLED = "tell_cancelled"
    ASK = "ask"


@dataclass(frozen=True, slots=True)
class Decision(Generic[Result]):
    """What a rule decided. If `changed`, all of it is committed, or none of it."""

    result: Result  # for the caller, once the record is committed
    record: Record  # as it was read if nothing changed
    changed: bool = False
    events: tuple[AuditEvent, ...] = ()
    task: TaskKind | None = None  # a message to enqueue about the record's claim
    callback: tuple[str, AppliedEvent] | None = None  # the event id to remember
    error: TakeOneError | None = None  # raised after the commit: a refusal may leave an event
    unless_paused: bool = False  # the store refuses the commit while dispatching is paused
    deletes: bool = False  # the job, with all that is kept of it


@dataclass(slots=True)
class Change:
    """What a rule is given: a record, the time and the policy. It collects the changes to the record, the
    events that go with them, and the task to enqueue.

    `correlation_id` is that of the request; workers and the sweep continue that of the claim. `act`: an
    operator's. Every event then names the operator, whatever actor it is logged with.
    """

    record: Record
    now: datetime
    policy: DispatchPolicy
    correlation_id: str | None = None
    act: OperatorAct | None = None
    events: tuple[AuditEvent, ...] = ()
    task: TaskKind | None = None
    before: Record = field(init=False)

    def __post_init__(self) -> None:
        self.before = self.record

    @property
    def job(self) -> Job:
        """The job as changed so far."""
        return self.record.job

    def log(
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
        """Add an event. Without `to_status` the job's state stays as it is."""
        act = self.act
        event = AuditEvent(
            event_type=event_type,
            actor=Actor.OPERATOR if act else actor,
            from_status=self.job.status,
            to_status=to_status or self.job.status,
            occurred_at=occurred_at or self.now,
            recorded_at=self.now,
            correlation_id=self.correlation_id,
            dispatch_id=claim.dispatch_id if claim else None,
            epoch=claim.epoch if claim else None,
            reason=act.reason if act else reason,
            execution_id=execution_id,
            operator=act.operator if act else None,
        )
        self.events = (*self.events, event)

    def move(
        self,
        to_status: JobStatus,
        actor: Actor,
        event_type: EventType = EventType.STATUS_CHANGED,
        occurred_at: datetime | None = None,
        checkpoint: JobStatus | None = None,
    ) -> None:
        """Change the job's state and log it. `checkpoint`: the state that a retry resumes from.

        Raises what `ensure_transition` raises, from the checkpoint if there is one.
        """
        ensure_transition(checkpoint or self.job.status, to_status)
        self.log(event_type, actor, to_status=to_status, occurred_at=occurred_at)
        since = self.job.status_since if to_status is self.job.status else self.now
        self.update_job(status=to_status, status_since=since)

    def update_job(self, **fields: Any) -> None:
        fields |= {"updated_at": self.now, "version": self.before.job.version + 1}
        self.record = Record(self.job.model_copy(update=fields), self.record.claim)

    def set_claim(self, claim: Claim) -> None:
        """Make this the current claim. One in phase RELEASED becomes a past claim instead."""
        if claim.phase is Phase.RELEASED:
            self.record = Record(self.job)
            self.add_past_claim(claim)
        else:
            self.record = Record(self.job, claim)

    def update_claim(self, **fields: Any) -> None:
        """Change fields of the current claim, if there is one."""
        claim = self.record.claim
        if claim is not None and (changed := claim.model_copy(update=fields)) != claim:
            self.set_claim(changed)

    def set_next_look(self) -> None:
        """Schedule the sweep's next look at the claim.

        At an accepted dispatch: when its next callback is overdue, or if a cancel is due, at once or some time
        after its message. At an unknown one of a cancelled job: when the cancel is to be sent again, or the
        claim can be given up.
        """
        claim = self.record.claim
        if claim is None:
            return
        if claim.phase is Phase.SENT:
            pause = CANCEL_AGAIN_AFTER if self.task is TaskKind.TELL_CANCELLED else timedelta(0)
            deadline = self.record.report_deadline(self.policy)
            self.update_claim(lease_until=self.now + pause if claim.cancel_due else deadline)
        elif claim.phase is Phase.UNKNOWN and self.job.status is JobStatus.CANCELLED:
            latest = self.now + (CANCEL_AGAIN_AFTER if claim.cancel_due else ABANDONED_AFTER)
            self.update_claim(lease_until=min(claim.lease_until or latest, latest))

    def add_past_claim(self, claim: Claim) -> None:
        """Keep a claim that is over. Of the released ones only the latest is kept."""
        kept = self.job.past_claims
        if claim.phase is Phase.RELEASED:
            kept = self.record.replaced
        self.update_job(past_claims=(*kept, claim))

    def decision(
        self,
        result: Result,
        *,
        callback: tuple[str, AppliedEvent] | None = None,
        error: TakeOneError | None = None,
    ) -> Decision[Result]:
        """The finished decision; `changed` if anything was collected.

        Nothing is for a rule that has nothing to do: a late or duplicate message, or one for another claim, is
        no error.
        """
        if self.record is self.before and not self.events and self.task is None:
            return Decision(result, self.before, error=error)
        if self.job.silent_since is not None and not self.record.awaits_report:
            self.update_job(silent_since=None)
        return Decision(result, self.record, True, self.events, self.task, callback, error)


def owned(record: Record, user: str) -> Record:
    """Return the record if it is `user`'s.

    Raises `ResourceNotFound`, so that it looks the same as a job that does not exist (contract).
    """
    if record.job.owner != user:
        raise ResourceNotFound
    return record
