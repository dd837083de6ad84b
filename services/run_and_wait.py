"""The use cases of run and retry: commit the claim, then wait for the outcome of the dispatch.

And the long poll, which waits in the same way for a change of a job's state.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from functools import partial

from domain.claim import ClaimEvent, DispatchPolicy, FencingToken
from domain.claim_rules import settle
from domain.errors import ResourceNotFound, ServiceUnavailable
from domain.job_fsm import JobStatus
from domain.record import Decision, Record, owned
from domain.run import DispatchResult, Outcome, outcome_of
from observability.metrics import callers_waiting
from services.wait_slots import NoWaitSlot, Wait, WaitSlots
from store.errors import QueueUnavailable, StoreError
from store.jobs import JobStore
from store.notifier import Notifier, Subscription
from store.write_limit import WriteLimit

# A notification can be lost, so a waiter reads the record this often anyway.
_REREAD_SECONDS = 1.0
# FAILED is not the end: a retry can leave it.
_END_STATUSES = frozenset({JobStatus.DONE, JobStatus.CANCELLED})
Rule = Callable[[Record], Decision[DispatchResult]]
Decide = Callable[..., Decision[DispatchResult]]


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

    def dispatch(
        self, job_id: str, user: str, decide: Decide, wait_seconds: float, correlation_id: str
    ) -> DispatchResult:
        """Start, join or replay the dispatch that `decide` is the rule of: `decide_run` or `decide_retry`.

        Waits for its outcome. Raises the contract's errors of run and retry.
        """

        def rule(record: Record) -> Decision[DispatchResult]:
            now, policy = self._now(), self._policy
            mine = owned(record, user)
            return decide(mine, now=now, policy=policy, correlation_id=correlation_id)

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

    def wait_for_change(
        self, job_id: str, user: str, known: JobStatus, wait_seconds: float
    ) -> Record:
        """The job's record as soon as its state is not `known`, or when the wait is over.

        Without a free slot it answers at once: a long poll may always end early.
        """
        deadline = time.monotonic() + wait_seconds
        try:
            with self._waiting(Wait.LONG_POLL, job_id, user) as subscription:
                while True:
                    record = owned(self._load(job_id), user)
                    left = deadline - time.monotonic()
                    is_over = left <= 0 or self._stopping.is_set()
                    if is_over or record.job.status is not known or known in _END_STATUSES:
                        return record
                    subscription.wait(min(left, _REREAD_SECONDS))
        except NoWaitSlot:
            return owned(self._load(job_id), user)

    def _commit(
        self, job_id: str, user: str, rule: Rule, record: Record
    ) -> Decision[DispatchResult]:
        count = partial(self._writes.count, user)
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
        event, reason = ClaimEvent.UNQUEUED, ClaimEvent.NOT_STARTED.value
        with suppress(StoreError):
            self._jobs.update(
                token.job_id,
                lambda record: settle(record, token, event, reason, self._now(), self._policy),
            )

    def _wait(
        self, decision: Decision[DispatchResult], subscription: Subscription, deadline: float
    ) -> DispatchResult:
        result, record = decision.result, decision.record
        while True:
            left = deadline - time.monotonic()
            settled = outcome_of(record, result.claim, self._now(), is_last=left <= 0)
            if settled is not None or left <= 0:
                claim = settled or result.claim
                return replace(result, claim=claim, status=record.job.status)
            subscription.wait(min(left, _REREAD_SECONDS))
            record = self._load(record.job.id)

    def _load(self, job_id: str) -> Record:
        record = self._jobs.load(job_id)
        if record is None:
            raise ResourceNotFound
        return record

    @contextmanager
    def _waiting(self, kind: Wait, job_id: str, user: str) -> Iterator[Subscription]:
        """A wait slot, and the job's notifications. Raises `NoWaitSlot`."""
        with (
            self._slots.taken(kind, user),
            callers_waiting.track_inprogress(),
            self._notifier.subscribe(job_id) as subscription,
        ):
            yield subscription
