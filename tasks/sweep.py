"""The sweep: looks after claims whose time is up. Any worker may do it, one at a time is enough.

`sweep_once` is all of it; the timer around it only repeats. A claim that is tried again goes the way of
the first try: the same change, the same message, the same task.
"""

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import uuid4

import structlog

from domain.claim import SELDOM, DispatchPolicy, Phase
from domain.errors import ResourceNotFound
from domain.reconcile import look
from domain.record import Decision, Record, TaskKind
from observability.metrics import sweeps, swept_claims, unreadable_records
from store.errors import RecordUnreadable
from store.jobs import JobStore
from store.retention import Retention

log = structlog.get_logger("tasks")

_MOST_A_SWEEP = 500
_UNREADABLE_AGAIN = timedelta(minutes=5)


def sweep_once(store: JobStore, policy: DispatchPolicy, now: datetime) -> Counter[str]:
    """Look after every record that is due at `now`; return how many of each kind of thing were done.

    The kinds: redelivered, called_unknown, asked, resent, told (a cancel, once more), freed, silent, held (an
    unknown outcome that only a run, a callback or an operator may move), dropped (an entry of a record that
    need not be looked at), rescheduled, unreadable (a record that this release cannot read: it is looked at
    again later).
    """
    policy = replace(policy, pause=store.pauses.latest())
    due = store.index.due(now, _MOST_A_SWEEP)
    return Counter(_sweep_one(store, policy, job_id, now) for job_id in due)


def _sweep_one(store: JobStore, policy: DispatchPolicy, job_id: str, now: datetime) -> str:
    def rule(record: Record) -> Decision[str]:
        decision = look(record, now, policy)
        return decision.with_result(_name(decision)) if decision.changed else _let_be(record, now)

    try:
        done = store.update(job_id, rule).result
    except ResourceNotFound:
        store.index.drop(job_id)
        return "dropped"
    except RecordUnreadable:
        unreadable_records.inc()
        log.error("record.unreadable", job_id=job_id)
        store.index.postpone(job_id, now + _UNREADABLE_AGAIN)
        return "unreadable"
    if done == "held":
        store.index.postpone(job_id, now + SELDOM)
    return done


def _let_be(record: Record, now: datetime) -> Decision[str]:
    claim = record.claim
    due = claim.lease_until if claim else None
    if claim is not None and claim.phase is Phase.UNKNOWN and (due is None or due <= now):
        return Decision("held", record)
    # The entry is not its record's: a commit of the record as it stands writes the right one, or none.
    return Decision("rescheduled" if due else "dropped", record, changed=True)


def _name(decision: Decision[None]) -> str:
    claim = decision.record.claim
    if claim is None:
        return "freed"
    if decision.task is TaskKind.DISPATCH:
        return "redelivered" if claim.messages > 1 else "resent"
    if decision.task is not None:
        return {TaskKind.ASK: "asked", TaskKind.TELL_CANCELLED: "told"}[decision.task]
    if not decision.events:
        return "rescheduled"
    return "called_unknown" if claim.phase is Phase.UNKNOWN else "silent"


class Sweeper:
    """Runs `sweep_once`, and a step of `retention`, every `interval` in a thread of the worker process."""

    def __init__(
        self,
        store: JobStore,
        policy: DispatchPolicy,
        interval: timedelta,
        now: Callable[[], datetime],
        retention: Retention | None = None,
    ) -> None:
        self._retention = retention
        self._store, self._policy = store, policy
        self._interval, self._now = interval, now
        self._name = str(uuid4())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweep", daemon=True)

    def start(self) -> None:
        """Begin to sweep."""
        self._thread.start()

    def stop(self) -> None:
        """Begin no further sweep, and wait a moment for one that is under way."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stop.wait(self._interval.total_seconds()):
            try:
                self._sweep()
            except Exception as error:
                # A sweep that ended for good would leave every later loss unhealed: not even this may.
                with suppress(Exception):
                    sweeps.labels("failed").inc()
                    log.error("sweep.failed", exc_info=error)

    def _sweep(self) -> None:
        if not self._store.index.take_turn(self._name, self._interval * 0.9):
            return
        done = sweep_once(self._store, self._policy, self._now())
        sweeps.labels("done").inc()
        for result, count in done.items():
            swept_claims.labels(result).inc(count)
        if done:
            log.info("sweep.done", **done)
        if self._retention and (kept := self._retention.step(self._now())):
            log.info("retention.done", **kept)
