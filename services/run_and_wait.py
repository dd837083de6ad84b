"""The use cases of run and retry: commit the claim, then wait for the outcome of the dispatch.

And the long poll, which waits in the same way for a change of a job's state.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from domain.audit import OperatorAct
from domain.claim import ClaimEvent, DispatchPolicy, FencingToken
from domain.claim_rules import settle
from domain.errors import ResourceNotFound, ServiceUnavailable
from domain.job_fsm import JobStatus
from domain.record import Decision, Record, owned
from domain.retry import decide_retry, operator_request_id
from domain.run import DispatchResult, Outcome, decide_run, ensure_known, outcome_of
from observability.metrics import callers_waiting
from services.wait_slots import NoWaitSlot, Wait, WaitSlots
from store.errors import QueueUnavailable, StoreError
from store.jobs import JobStore
from store.lists import Page
from store.notifier import Notifier, Subscription, changes_topic
from store.write_limit import WriteLimit

# A notification can be lost, so a waiter reads the record this often anyway.
REREAD_SECONDS = 1.0

Seen = TypeVar("Seen")
Rule = Callable[[Record], Decision[DispatchResult]]


class RunAndWait:
    """Run, retry and the long poll. `wait_slots` says who may wait, `writes` how often a user may dispatch.

    A run or retry that finds no free slot is refused before anything is claimed.
    """

    def __init__(
        self,
        jobs: JobStore,
        notifier: Notifier,
        policy: DispatchPolicy,
        wait_slots: WaitSlots,
        writes: WriteLimit,
        now: Callable[[], datetime],
    ) -> None:
        self._jobs, self._notifier, self._policy, self._now = jobs, notifier, policy, now
        self._slots, self._writes = wait_slots, writes
        self._stopping = threading.Event()

    def end_long_polls(self) -> None:
        """Answer every long poll now: the process is about to stop."""
        self._stopping.set()

    def run(
        self, job_id: str, user: str, wait_seconds: float, correlation_id: str
    ) -> DispatchResult:
        """Start the job's workflow, once. Raises the contract's errors of `run`."""

        def rule(record: Record) -> Decision[DispatchResult]:
            return decide_run(owned(record, user), self._now(), self._policy, correlation_id)

        return self._dispatch(job_id, user, rule, wait_seconds)

    def retry(
        self,
        job_id: str,
        user: str,
        client_request_id: str,
        model_profile: str,
        wait_seconds: float,
        correlation_id: str,
    ) -> DispatchResult:
        """Start a failed job's workflow again from its checkpoint. Raises the errors of `retry`."""

        def rule(record: Record) -> Decision[DispatchResult]:
            mine = owned(record, user)
            return decide_retry(
                mine, client_request_id, model_profile, self._now(), self._policy, correlation_id
            )

        return self._dispatch(job_id, user, rule, wait_seconds)

    def retry_by_operator(
        self, job_id: str, model_profile: str, act: OperatorAct, correlation_id: str | None
    ) -> DispatchResult:
        """Start any user's failed job again, and do not wait. Repeating it replays. Raises as `retry` does."""

        def rule(record: Record) -> Decision[DispatchResult]:
            request_id = operator_request_id(record)
            now, policy = self._now(), self._policy
            return decide_retry(record, request_id, model_profile, now, policy, correlation_id, act)

        return self._commit(job_id, None, rule, self._load(job_id)).result

    def wait_for_change(
        self, job_id: str, user: str, known: JobStatus, wait_seconds: float
    ) -> Record:
        """The job's record as soon as its state is not `known`; see `long_poll`."""
        return self.long_poll(
            job_id,
            user,
            lambda: owned(self._load(job_id), user),
            lambda record: record.job.status is not known or _has_ended(record),
            wait_seconds,
        )

    def wait_for_jobs(
        self, user: str, read: Callable[[], Page[Record]], wait_seconds: float
    ) -> Page[Record]:
        """What `read` finds of the user's own jobs, as soon as it finds any; see `long_poll`."""
        topic = changes_topic(user)
        return self.long_poll(topic, user, read, lambda page: bool(page.items), wait_seconds)

    def long_poll(
        self,
        topic: str,
        user: str,
        read: Callable[[], Seen],
        is_news: Callable[[Seen], bool],
        wait_seconds: float,
    ) -> Seen:
        """What `read` sees, as soon as that is news, or when the wait is over.

        `topic` is a job's id or a `changes_topic`. Without a free slot it answers at once: a long poll may
        always end early.
        """
        deadline = time.monotonic() + wait_seconds
        try:
            with self._waiting(Wait.LONG_POLL, topic, user) as subscription:
                while True:
                    seen = read()
                    left = deadline - time.monotonic()
                    if left <= 0 or self._stopping.is_set() or is_news(seen):
                        return seen
                    subscription.wait(min(left, REREAD_SECONDS))
        except NoWaitSlot:
            return read()

    def _dispatch(self, job_id: str, user: str, rule: Rule, wait_seconds: float) -> DispatchResult:
        deadline = time.monotonic() + wait_seconds
        record = self._load(job_id)
        # Asked first, so that a replay or a refusal takes no wait slot.
        result = rule(record).result
        if result.outcome is Outcome.REPLAYED:
            return result
        if not wait_seconds:
            return self._commit(job_id, user, rule, record).result
        # Before the commit: no notification is missed, and without a free slot nothing is claimed.
        with self._waiting(Wait.DISPATCH, job_id, user) as subscription:
            decision = self._commit(job_id, user, rule, record)
            return self._wait(decision, subscription, deadline)

    def _commit(
        self, job_id: str, user: str | None, rule: Rule, record: Record
    ) -> Decision[DispatchResult]:
        def count() -> None:
            if user is not None:  # operators have no limit
                self._writes.count(user)

        try:
            return self._jobs.update(job_id, rule, known=record, before_write=count)
        except QueueUnavailable as error:
            self._give_back(error.token)
            raise ServiceUnavailable from None

    def _give_back(self, token: FencingToken) -> None:
        """Free the claim whose message could not be sent. If that fails as well, the sweep finds it.

        By its own token: the message may have landed all the same, and the claim that stands by now may be
        another caller's.
        """

        def unqueue(record: Record) -> Decision[None]:
            event, reason = ClaimEvent.UNQUEUED, ClaimEvent.NOT_STARTED.value
            return settle(record, token, event, reason, self._now(), self._policy)

        with suppress(StoreError):
            self._jobs.update(token.job_id, unqueue)

    def _wait(
        self, decision: Decision[DispatchResult], subscription: Subscription, deadline: float
    ) -> DispatchResult:
        result, record = decision.result, decision.record
        while True:
            settled = outcome_of(record, result.claim, self._now())
            if settled is not None:
                return replace(result, claim=settled, status=record.job.status)
            left = deadline - time.monotonic()
            if left <= 0:
                ensure_known(record, result.claim, self._now())
                return replace(result, status=record.job.status)
            subscription.wait(min(left, REREAD_SECONDS))
            record = self._load(record.job.id)

    def _load(self, job_id: str) -> Record:
        record = self._jobs.load(job_id)
        if record is None:
            raise ResourceNotFound
        return record

    @contextmanager
    def _waiting(self, kind: Wait, topic: str, user: str) -> Iterator[Subscription]:
        """A wait slot, and the topic's notifications. Raises `NoWaitSlot`."""
        with (
            self._slots.taken(kind, user),
            callers_waiting.track_inprogress(),
            self._notifier.subscribe(topic) as subscription,
        ):
            yield subscription


def _has_ended(record: Record) -> bool:
    # FAILED is not the end: a retry can leave it.
    return record.job.status in (JobStatus.DONE, JobStatus.CANCELLED)
