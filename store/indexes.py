"""The indexes of jobs that need attention: sorted sets of job ids, written by each commit of a job.

One is scored by when the sweep must look at the job's claim. The others are operators' views, by age.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import count

from redis import Redis

from domain.claim import RECHECK_AFTER, Phase
from domain.record import Record
from store import keys
from store.client import execute, redis_errors

_PAGE = 200

INDEXES = (keys.DUE, keys.IN_FLIGHT, keys.UNKNOWN, keys.SILENT)


class View(StrEnum):
    """What operators list. FAILED has no index: it is the list of the jobs in that state."""

    UNKNOWN = "unknown"
    SILENT = "silent"
    IN_FLIGHT = "in_flight"
    FAILED = "failed"


INDEX_OF: dict[str, str] = {
    View.UNKNOWN: keys.UNKNOWN, View.SILENT: keys.SILENT, View.IN_FLIGHT: keys.IN_FLIGHT,
}  # fmt: skip


def times_in_indexes(record: Record) -> dict[str, datetime]:
    """The indexes that a job is in, and the time by which it is sorted in each."""
    claim = record.claim
    if claim is None:
        return {}
    since = claim.sent_at or claim.claimed_at
    is_unknown = claim.phase is Phase.UNKNOWN
    moments = {
        # An outcome that is held for ever is looked at too: the settings may have changed since.
        keys.DUE: claim.lease_until or (since + RECHECK_AFTER if is_unknown else None),
        keys.IN_FLIGHT: claim.claimed_at if claim.in_flight else None,
        keys.UNKNOWN: since if is_unknown else None,
        keys.SILENT: record.job.silent_since if record.awaits_report else None,
    }
    return {index: moment for index, moment in moments.items() if moment}


class DueIndex:
    """What the sweep reads and corrects. Every method raises `StoreUnavailable`."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    def due(self, now: datetime, limit: int) -> list[str]:
        """The jobs whose claims are due, the longest overdue first."""
        with redis_errors("ZRANGEBYSCORE"):
            found = self._client.zrangebyscore(keys.DUE, "-inf", now.timestamp(), 0, limit)
        return [job_id.decode() for job_id in found]

    def drop(self, job_id: str) -> None:
        """Remove a job that no longer exists from all indexes."""
        pipeline = self._client.pipeline(transaction=False)
        for index in INDEXES:
            pipeline.zrem(index, job_id)
        execute(pipeline, "ZREM")

    def postpone(self, job_id: str, due: datetime) -> None:
        """Make a listed job due at another time."""
        with redis_errors("ZADD"):
            self._client.zadd(keys.DUE, {job_id: due.timestamp()}, xx=True)

    def listed(self, index: str) -> Iterator[str]:
        """The jobs in one of `INDEXES`, the lowest score first; read a page at a time."""
        for start in count(0, _PAGE):
            with redis_errors("ZRANGE"):
                page = self._client.zrange(index, start, start + _PAGE - 1)
            yield from (job_id.decode() for job_id in page)
            if len(page) < _PAGE:
                return

    def take_turn(self, turn: timedelta) -> bool:
        """Whether the caller may sweep now; if so, no other may for `turn`.

        This only saves work: concurrent sweeps are harmless, since every step is a compare-and-set.
        """
        with redis_errors("SET"):
            return bool(self._client.set(keys.SWEEP_LOCK, 1, nx=True, px=turn))
