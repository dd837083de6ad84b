"""The sweep: looks after claims whose time is up. Any worker may do it, one at a time is enough.

`sweep_once` is all of it; the timer around it only repeats. A claim that is tried again goes the way of
the first try: the same change, the same message, the same task.
"""

import threading
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import uuid4

import structlog

from domain import dispatch_steps as steps
from domain.change import Record
from domain.claim import DispatchPolicy, Phase
from metrics import sweeps, swept_claims
from runtime import utc_now
from store.errors import StoreError
from store.jobs import JobStore
from store.snapshot import Snapshot

log = structlog.get_logger("tasks")

_MOST_A_SWEEP = 500
_LISTED_A_SWEEP = 20


def sweep_once(store: JobStore, policy: DispatchPolicy, now: datetime) -> Counter[str]:
    """Look after every claim that is due at `now`; return how many of each kind of thing were done.

    The kinds: redelivered, called_unknown, resent, freed, held (an unknown outcome that only a run, a
    callback or an operator may move), dropped (an entry without an open claim), rescheduled, unlisted
    (one that was listed as unknown and is not).
    """
    due = store.index.due(now, _MOST_A_SWEEP)
    done = Counter(_sweep_one(store, policy, job_id, score, now) for job_id, score in due)
    unlisted = _check_some_of_the_list(store, policy, now)
    return done + Counter(unlisted=unlisted)


def _check_some_of_the_list(store: JobStore, policy: DispatchPolicy, now: datetime) -> int:
    """Unlist stale entries that a crash or a lost command left behind; return how many.

    An entry is as old as the send it is of, and may be written a moment before its claim is: one that is
    younger than any send can be is left alone.
    """
    oldest_open_send = (now - 2 * policy.send_lease).timestamp()
    unlisted = 0
    for job_id, score in store.index.some_unknown(_LISTED_A_SWEEP):
        if score < oldest_open_send and not _is_unknown(store.load(job_id)):
            store.index.unlist(job_id, score)
            unlisted += 1
    return unlisted


def _is_unknown(snapshot: Snapshot | None) -> bool:
    claim = snapshot.record.claim if snapshot else None
    return claim is not None and claim.phase is Phase.UNKNOWN


def _sweep_one(
    store: JobStore, policy: DispatchPolicy, job_id: str, score: float, now: datetime
) -> str:
    changed = store.apply(job_id, lambda record: steps.lease_over(record, now, policy))
    if changed is not None:
        return _name(changed.record)
    snapshot = store.load(job_id)
    claim = snapshot.record.claim if snapshot else None
    if claim is None or not claim.in_flight:
        store.index.drop(job_id, score)
        return "dropped"
    if claim.lease_until is None or claim.lease_until <= now:
        store.index.drop(job_id, score)
        return "held"
    store.index.look_again_at(job_id, claim.lease_until)
    return "rescheduled"


def _name(changed: Record) -> str:
    claim = changed.claim
    if claim is None:
        return "freed"
    if claim.phase is Phase.UNKNOWN:
        return "called_unknown"
    return "redelivered" if claim.messages > 1 else "resent"


class Sweeper:
    """Runs `sweep_once` every `interval`, in a thread of the worker process."""

    def __init__(
        self,
        store: JobStore,
        policy: DispatchPolicy,
        interval: timedelta,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
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
            except StoreError as error:
                sweeps["failed",].inc()
                log.warning("sweep.store_unavailable", error=type(error).__name__)
            except Exception:
                # A sweep that died for good would leave every later loss unhealed.
                sweeps["failed",].inc()
                log.error("sweep.failed", exc_info=True)

    def _sweep(self) -> None:
        self._store.index.flush()
        if not self._store.index.take_turn(self._name, self._interval * 0.9):
            return
        done = sweep_once(self._store, self._policy, self._now())
        sweeps["done",].inc()
        for result, count in done.items():
            swept_claims[result,].inc(count)
        if done:
            log.info("sweep.done", **done)
