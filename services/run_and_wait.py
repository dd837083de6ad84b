"""The use cases of run and retry: commit the claim, then wait for the outcome of the dispatch.

The long poll waits in the same way for a change.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import TypeVar

from domain.claim import ClaimEvent, DispatchPolicy
from domain.claim_rules import settle
from domain.errors import ServiceUnavailable
from domain.record import Change, Decision, Record, owned
from domain.run import CallOutcome, DispatchResult, outcome_of
from observability.metrics import callers_waiting
from services.wait_slots import NoWaitSlot, Wait, WaitSlots
from store.errors import QueueUnavailable, StoreError
from store.jobs import JobStore
from store.notifier import Notifier, Subscription
from store.write_limit import WriteLimit

# Notifications can be lost, so a waiter reads the record this often anyway.
_REREAD_SECONDS = 1.0
# A long poll rests this many times as long as a read took before it reads again, and at most so many seconds.
# Otherwise many polls that examine a thousand jobs at each change of any would leave other callers unserved.
_REST_FACTOR, _MAX_REST_SECONDS = 20, 5.0
Seen = TypeVar("Seen")
Rule = Callable[[Record], Decision[DispatchResult]]
Decide = Callable[..., Decision[DispatchResult]]


@dataclass(frozen=True, slots=True)
class RunAndWait:
    """Run, retry and the long poll.

    `slots` limits how many callers wait, `writes` how often a user may dispatch.
    """

    jobs: JobStore
    notifier: Notifier
    policy: DispatchPolicy
    slots: WaitSlots
    writes: WriteLimit
    now: Callable[[], datetime]
    _stopping: threading.Event = field(default_factory=threading.Event, init=False)

    def end_long_polls(self) -> None:
        """Answer every long poll now: the process is about to stop."""
        self._stopping.set()
        self.notifier.wake_all()

    def dispatch(
        self, job_id: str, user: str, decide: Decide, wait_seconds: float, correlation_id: str
    ) -> DispatchResult:
        """Start, join or replay the dispatch by the rule `decide`, and wait for its outcome.

        `decide` is `decide_run` or `decide_retry`, whose errors this raises, as well as those of `outcome_of`,
        `RateLimited`, and `NoWaitSlot` before anything is claimed.
        """

        def rule(record: Record) -> Decision[DispatchResult]:
            own = owned(record, user)
            return decide(Change(own, self.now(), self.policy, correlation_id))

        deadline = time.monotonic() + wait_seconds
        record = self.jobs.get(job_id)
        # Decided first without a commit, so that a replay or a refusal takes no wait slot.
        result = rule(record).result
        if result.outcome is CallOutcome.REPLAYED:
            return result
        if not wait_seconds:
            return self.commit(job_id, user, rule, record).result
        # Waiting begins before the commit: no notification is missed, and without a slot nothing is claimed.
        with self.waiting(Wait.DISPATCH, job_id, user) as subscription:
            decision = self.commit(job_id, user, rule, record)
            claim = decision.result.claim
            record = watch(
                subscription,
                partial(self.jobs.get, job_id),
                lambda record: outcome_of(record, claim, self.now()) is not None,
                deadline,
                decision.record,
            )
            settled = outcome_of(record, claim, self.now(), is_last=True)
            return replace(decision.result, claim=settled or claim, status=record.job.status)

    def commit(
        self, job_id: str, user: str | None, rule: Rule, record: Record
    ) -> Decision[DispatchResult]:
        """Commit what `rule` decides about `record`, without waiting.

        Raises what `rule` does, `RateLimited`, and `ServiceUnavailable` if no message can be sent.
        `user`: whose write limit counts; None: an operator's act, which has none.
        """
        count = partial(self.writes.count, user) if user is not None else None
        try:
            return self.jobs.update(job_id, rule, known=record, before_write=count)
        except QueueUnavailable as error:
            token = error.token

            def free(record: Record) -> Decision[None]:
                change = Change(record, self.now(), self.policy)
                return settle(change, token, ClaimEvent.UNQUEUED, ClaimEvent.NOT_STARTED.value)

            # Free the claim whose message was not sent; if that fails too, the sweep finds it. By its token:
            # the message may have landed all the same, and the present claim may be another caller's.
            with suppress(StoreError):
                self.jobs.update(job_id, free)
            raise ServiceUnavailable from None

    def long_poll(
        self,
        topic: str,
        user: str,
        read: Callable[[], Seen],
        is_news: Callable[[Seen], bool],
        wait_seconds: float,
    ) -> Seen:
        """What `read` returns, as soon as that is news, or after `wait_seconds`; `topic`: see `store.notifier`.

        It returns at once without a free wait slot: a long poll may always end early.
        """
        if not wait_seconds:
            return read()
        deadline, next_read = time.monotonic() + wait_seconds, 0.0

        def read_after_rest() -> Seen:
            nonlocal next_read
            self._stopping.wait(max(0, min(next_read, deadline) - time.monotonic()))
            began = time.monotonic()
            seen = read()
            ended = time.monotonic()
            next_read = ended + min(_REST_FACTOR * (ended - began), _MAX_REST_SECONDS)
            return seen

        try:
            with self.waiting(Wait.LONG_POLL, topic, user) as subscription:
                return watch(
                    subscription,
                    read_after_rest,
                    lambda seen: self._stopping.is_set() or is_news(seen),
                    deadline,
                )
        except NoWaitSlot:
            return read()

    @contextmanager
    def waiting(self, kind: Wait, topic: str, user: str) -> Iterator[Subscription]:
        """A wait slot, and a subscription to the topic. Raises `NoWaitSlot`."""
        with (
            self.slots.taken(kind, user),
            callers_waiting.track_inprogress(),
            self.notifier.subscribe(topic) as subscription,
        ):
            yield subscription


def watch(
    subscription: Subscription,
    read: Callable[[], Seen],
    is_news: Callable[[Seen], bool],
    deadline: float,
    seen: Seen | None = None,
) -> Seen:
    """What `read` returns, as soon as that is news, or at `deadline` (of the monotonic clock).

    `seen` is what it would return now, if the caller has that.
    """
    seen = read() if seen is None else seen
    while (left := deadline - time.monotonic()) > 0 and not is_news(seen):
        subscription.wait_for_change(min(left, _REREAD_SECONDS))
        seen = read()
    return seen
