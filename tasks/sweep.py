"""The sweep: resends, settles or frees the claims that are due. Any worker may sweep; one at a time is enough.

`sweep_once` is the whole sweep; `Sweeper` only repeats it. A claim that is tried again goes through
the same change, message and task as at the first try.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from domain.claim import RECHECK_AFTER, DispatchPolicy, Phase
from domain.errors import ResourceNotFound
from domain.reconcile import look
from domain.record import Change, Decision, Record, TaskKind
from observability.metrics import sweeps, swept_claims, unreadable_records
from store.errors import RecordUnreadable, StoreError
from store.jobs import JobStore
from store.retention import Retention

log = structlog.get_logger("tasks")

_MAX_CLAIMS = 500
_UNREADABLE_RECHECK = timedelta(minutes=5)


def sweep_once(store: JobStore, policy: DispatchPolicy, now: datetime) -> Counter[str]:
    """Handle up to 500 records that are due at `now`; return how many had each result.

    The results: redelivered, called_unknown, asked, resent, told (the orchestrator, of a cancel, again), freed,
    silent, held (an unknown outcome that only a run, a callback or an operator may change), dropped (an index
    entry without need), rescheduled, unreadable (a record that this release cannot handle, postponed).
    """
    policy = replace(policy, pause=store.pauses.latest())
    due = store.due_index.due(now, _MAX_CLAIMS)
    return Counter(_sweep_one(store, policy, job_id, now) for job_id in due)


def _sweep_one(store: JobStore, policy: DispatchPolicy, job_id: str, now: datetime) -> str:
    def rule(record: Record) -> Decision[str]:
        looked = look(Change(record, now, policy))
        if not looked.changed:
            return _idle(record, now)
        return Decision(_name(looked), looked.record, True, looked.events, looked.task)

    try:
        result = store.update(job_id, rule).result
    except ResourceNotFound:
        store.due_index.drop(job_id)
        return "dropped"
    except Exception as error:
        # A damaged record can make the rules fail too. The store's own failures end the sweep.
        if isinstance(error, StoreError) and not isinstance(error, RecordUnreadable):
            raise
        unreadable_records.inc()
        log.error("record.unreadable", job_id=job_id, exc_info=True)
        store.due_index.postpone(job_id, now + _UNREADABLE_RECHECK)
        return "unreadable"
    if result == "held":
        store.due_index.postpone(job_id, now + RECHECK_AFTER)
    return result


def _idle(record: Record, now: datetime) -> Decision[str]:
    claim = record.claim
    due = claim.lease_until if claim else None
    if claim is not None and claim.phase is Phase.UNKNOWN and (due is None or due <= now):
        return Decision("held", record)
    # The index entry is out of date: a commit of the unchanged record writes the right one, or none.
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
    if claim.phase is Phase.UNKNOWN:
        return "called_unknown"
    return "silent" if decision.record.job.silent_since else "freed"


@dataclass(frozen=True, slots=True)
class Sweeper:
    """Each step sweeps and takes a step of `retention`, if no process did within nearly `interval`."""

    store: JobStore
    policy: DispatchPolicy
    interval: timedelta
    now: Callable[[], datetime]
    retention: Retention | None = None

    def step(self) -> None:
        """Sweep if it is this process's turn."""
        try:
            self._sweep()
        except Exception:
            sweeps.labels("failed").inc()
            log.error("sweep.failed", exc_info=True)

    def _sweep(self) -> None:
        if not self.store.due_index.take_turn(self.interval * 0.9):
            return
        done = sweep_once(self.store, self.policy, self.now())
        sweeps.labels("done").inc()
        for result, count in done.items():
            swept_claims.labels(result).inc(count)
        if done:
            log.info("sweep.done", **done)
        if self.retention and (kept := self.retention.step(self.now())):
            log.info("retention.done", **kept)
