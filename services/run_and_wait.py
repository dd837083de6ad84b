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
from typing import TypeVar

from domain.audit import OperatorAct
from domain.claim import ClaimEvent, DispatchPolicy, FencingToken
from domain.claim_rules import settle
from domain.errors import ServiceUnavailable
from domain.job_fsm import JobStatus
from domain.record import Decision, Record, owned
from domain.retry import decide_retry, operator_request_id
from domain.run import DispatchResult, Outcome, outcome_of
from observability.metrics import callers_waiting
from services.wait_slots import NoWaitSlot, Wait, WaitSlots
from store.errors import QueueUnavailable, StoreError
from store.jobs import JobStore
from store.lists import Page
from store.notifier import Notifier, Subscription, changes_topic
from store.write_limit import WriteLimit

# A notification can be lost, so a waiter reads the record this often anyway.
_REREAD_SECONDS = 1.0
# FAILED is not the end: a retry can leave it.
_END_STATUSES = frozenset({JobStatus.DONE, JobStatus.CANCELLED})
Seen = TypeVar("Seen")
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
        record = self._jobs.get(job_id)
        # Asked first, so that a replay or a refusal takes no wait slot.
        result = rule(record).result
        if result.outcome is Outcome.REPLAYED:
            return result
        if not wait_seconds:
            return self._commit(job_id, user, rule, record).result
        # Before the commit: no notification is missed, and without a free slot nothing is claimed.
        with self.waiting(Wait.DISPATCH, job_id, user) as subscription:
            decision = self._commit(job_id, user, rule, record)
            return self._wait(decision, subscription, deadline)

    def retry_by_operator(
        self,
        job_id: str,
        model_profile: str,
        act: OperatorAct,
        correlation_id: str | None,
        *,
        dry_run: bool,
    ) -> DispatchResult:
        """Start any user's failed job again, and do not wait. Repeating it replays. Raises as `retry` does.

        `dry_run`: only say what would come of it.
        """

        def rule(record: Record) -> Decision[DispatchResult]:
            request_id = operator_request_id(record)
            now, policy = self._now(), self._policy
            return decide_retry(record, request_id, model_profile, now, policy, correlation_id, act)

        record = self._jobs.get(job_id)
        return (rule(record) if dry_run else self._commit(job_id, None, rule, record)).result

    def wait_for_change(
        self, job_id: str, user: str, known: JobStatus, wait_seconds: float
    ) -> Record:
        """The job's record as soon as its state is not `known`; see `long_poll`."""
        return self.long_poll(
            job_id,
            user,
            lambda: owned(self._jobs.get(job_id), user),
            lambda record: record.job.status is not known or known in _END_STATUSES,
            wait_seconds,
        )

    def wait_for_jobs(
        self, user: str, read: Callable[[], Page[Record]], wait_seconds: float
    ) -> Page[Record]:
        """What `read` finds of the user's own jobs, as soon as it finds any; see `long_poll`.

        An empty page to go on from is an answer too: reading it again would not look behind it.
        """

        def is_news(page: Page[Record]) -> bool:
            return bool(page.items or page.next_cursor)

        return self.long_poll(changes_topic(user), user, read, is_news, wait_seconds)

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
            with self.waiting(Wait.LONG_POLL, topic, user) as subscription:
                return watch(
                    subscription,
                    read,
                    lambda seen: self._stopping.is_set() or is_news(seen),
                    deadline,
                )
        except NoWaitSlot:
            return read()

    def _commit(
        self, job_id: str, user: str | None, rule: Rule, record: Record
    ) -> Decision[DispatchResult]:
        # Operators have no limit.
        count = partial(self._writes.count, user) if user is not None else None
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
            subscription.wait_for_change(min(left, _REREAD_SECONDS))
            record = self._jobs.get(record.job.id)

    @contextmanager
    def waiting(self, kind: Wait, topic: str, user: str) -> Iterator[Subscription]:
        """A wait slot, and the topic's notifications. Raises `NoWaitSlot`."""
        with (
            self._slots.taken(kind, user),
            callers_waiting.track_inprogress(),
            self._notifier.subscribe(topic) as subscription,
        ):
            yield subscription


def watch(
    subscription: Subscription,
    read: Callable[[], Seen],
    is_news: Callable[[Seen], bool],
    deadline: float,
) -> Seen:
    """What `read` sees, as soon as that is news, or at `deadline` (of the monotonic clock)."""
    while True:
        seen = read()
        left = deadline - time.monotonic()
        if left <= 0 or is_news(seen):
            return seen
        subscription.wait_for_change(min(left, _REREAD_SECONDS))
