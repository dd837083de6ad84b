"""The use cases of run and retry: admit the caller, then wait with him for what comes of the dispatch."""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime

from domain import dispatch_steps as steps
from domain.change import Change, Decision, Record, owned
from domain.claim import Claim, ClaimEvent, DispatchPolicy
from domain.dispatching import Admission, Role, decide_retry, decide_run, outcome_of
from domain.errors import ServiceUnavailable
from domain.job_fsm import JobStatus
from metrics import callers_waiting
from store.changes import ChangeFeed, Watch
from store.errors import StoreError
from store.jobs import JobStore
from store.snapshot import Snapshot
from tasks.outbox import QueueUnavailable

# Hints can be lost; whoever waits looks for himself this often.
_LOOK_SECONDS = 1.0

Rule = Callable[[Record, datetime], Decision[Admission]]


@dataclass(frozen=True, slots=True)
class Dispatched:
    """What a caller of run or retry is told: the dispatch, the job's state, and what it was to it."""

    claim: Claim
    status: JobStatus
    role: Role

    @property
    def first(self) -> bool:
        """Whether this call made the claim."""
        return self.role is Role.FIRST


class DispatchService:
    """Run and retry. `places` callers may wait at once; more are turned away before anything is done."""

    def __init__(
        self,
        jobs: JobStore,
        feed: ChangeFeed,
        policy: DispatchPolicy,
        places: int,
        now: Callable[[], datetime],
    ) -> None:
        self._jobs, self._feed, self._policy, self._now = jobs, feed, policy, now
        self._places = threading.BoundedSemaphore(places)
        self._long_polls_end = False

    def end_long_polls(self) -> None:
        """Answer those who wait for nothing but a change: the process is about to stop."""
        self._long_polls_end = True

    def run(
        self, job_id: str, user: str | None, wait_seconds: float, correlation_id: str
    ) -> Dispatched:
        """Start the job's workflow, once. Raises the contract's errors of `run`."""
        return self._dispatch(
            job_id,
            user,
            wait_seconds,
            lambda record, now: decide_run(record, now, self._policy, correlation_id),
        )

    def retry(
        self,
        job_id: str,
        user: str | None,
        client_request_id: str,
        model_profile: str,
        wait_seconds: float,
        correlation_id: str,
    ) -> Dispatched:
        """Start a failed job's workflow again from its checkpoint. Raises the errors of `retry`."""
        return self._dispatch(
            job_id,
            user,
            wait_seconds,
            lambda record, now: decide_retry(
                record, client_request_id, model_profile, now, self._policy, correlation_id
            ),
        )

    def wait_for_change(
        self, job_id: str, user: str | None, known: JobStatus, wait_seconds: float
    ) -> Record:
        """The job's record as soon as its state is not `known`, or when the wait is over.

        Without a free place it answers at once: a long poll may always end early.
        """
        deadline = time.monotonic() + wait_seconds
        with ExitStack() as place:
            watch = self._place_or_none(job_id, place)
            record = owned(_record(self._jobs.load(job_id)), user)
            while watch is not None and record.job.status is known and not _has_ended(record):
                left = deadline - time.monotonic()
                if left <= 0 or self._long_polls_end:
                    break
                snapshot = watch.wait(min(left, _LOOK_SECONDS)) or self._jobs.load(job_id)
                record = owned(_record(snapshot), user)
            return record

    def _dispatch(
        self, job_id: str, user: str | None, wait_seconds: float, rule: Rule
    ) -> Dispatched:
        deadline = time.monotonic() + wait_seconds
        with ExitStack() as place:
            watches: list[Watch] = []

            def decide(snapshot: Snapshot | None) -> Decision[Admission]:
                decision = rule(owned(_record(snapshot), user), self._now())
                if decision.answer.role is not Role.REPLAY and wait_seconds and not watches:
                    # Before the commit: no hint is missed, and who finds no place has claimed nothing.
                    watches.append(self._take_place(job_id, place))
                    if decision.change is None:
                        # A joiner commits nothing, and what he joins may have ended since he read it.
                        watches[0].leave(None)
                return decision

            admission = self._admit(job_id, decide)
            if admission.role is Role.REPLAY or not watches:
                return _told(admission, admission.claim, admission.record)
            return self._wait(admission, watches[0], deadline)

    def _admit(
        self, job_id: str, decide: Callable[[Snapshot | None], Decision[Admission]]
    ) -> Admission:
        try:
            return self._jobs.change(job_id, decide)
        except QueueUnavailable as error:
            self._give_back(error.token)
            raise ServiceUnavailable from None

    def _give_back(self, token: steps.Token) -> None:
        """Free the claim whose message could not be sent. If that fails as well, the sweep finds it.

        By its own token: the message may have landed all the same, and the claim that stands by now may
        be another caller's.
        """

        def unqueue(record: Record) -> Change | None:
            event, reason = ClaimEvent.UNQUEUED, ClaimEvent.NOT_STARTED.value
            return steps.settle(record, token, event, reason, self._now(), self._policy)

        with suppress(StoreError):
            self._jobs.apply(token.job_id, unqueue)

    def _take_place(self, job_id: str, place: ExitStack) -> Watch:
        if not self._places.acquire(blocking=False):
            raise ServiceUnavailable
        place.callback(self._leave_place)
        callers_waiting.inc()
        return place.enter_context(self._feed.watching(job_id))

    def _leave_place(self) -> None:
        callers_waiting.dec()
        self._places.release()

    def _place_or_none(self, job_id: str, place: ExitStack) -> Watch | None:
        try:
            return self._take_place(job_id, place)
        except ServiceUnavailable:
            return None

    def _wait(self, admission: Admission, watch: Watch, deadline: float) -> Dispatched:
        record = admission.record
        while (left := deadline - time.monotonic()) > 0:
            snapshot = watch.wait(min(left, _LOOK_SECONDS)) or self._jobs.load(record.job.id)
            record = _record(snapshot) or record
            settled = outcome_of(record, admission.claim, self._now())
            if settled is not None:
                return _told(admission, settled, record)
        return _told(admission, admission.claim, record)


def _told(admission: Admission, claim: Claim, record: Record) -> Dispatched:
    return Dispatched(claim, record.job.status, admission.role)


def _record(snapshot: Snapshot | None) -> Record | None:
    return snapshot.record if snapshot else None


def _has_ended(record: Record) -> bool:
    # FAILED is not the end: a retry can leave it.
    return record.job.status in (JobStatus.DONE, JobStatus.CANCELLED)
