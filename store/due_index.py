"""The indexes of records: which the sweep must look at, and which an operator wants to see.

Sorted sets of job ids. One holds when each record is to be looked at; the others are an operator's views, by
age. The commit script writes all of them together with the record itself.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import count

from redis import Redis

from domain.claim import SELDOM, Phase
from domain.record import Record
from store import keys
from store.client import redis_errors

_PAGE = 200

# In the order of `scores`.
INDEXES = (keys.DUE, keys.IN_FLIGHT, keys.UNKNOWN, keys.SILENT)


def scores(record: Record) -> tuple[str, ...]:
    """The record's score in each index; empty where it is not listed."""
    claim = record.claim
    if claim is None:
        return ("",) * len(INDEXES)
    since = claim.sent_at or claim.claimed_at
    is_unknown = claim.phase is Phase.UNKNOWN
    # One that is held for ever is looked at all the same: the settings may have changed since.
    due = claim.lease_until or (since + SELDOM if is_unknown else None)
    return (
        _score(due),
        _score(claim.claimed_at if claim.in_flight else None),
        _score(since if is_unknown else None),
        _score(record.job.silent_since if record.awaits_report else None),
    )


def _score(moment: datetime | None) -> str:
    return repr(moment.timestamp()) if moment else ""


class DueIndex:
    """Reads the index. Every method raises `StoreUnavailable`."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    def due(self, now: datetime, limit: int) -> list[str]:
        """The jobs whose claims are due, the longest overdue first."""
        with redis_errors("ZRANGEBYSCORE"):
            found = self._client.zrangebyscore(keys.DUE, "-inf", now.timestamp(), 0, limit)
        return [job_id.decode() for job_id in found]

    def drop(self, job_id: str) -> None:
        """Drop the entry of a job that is gone."""
        with redis_errors("ZREM"):
            self._client.zrem(keys.DUE, job_id)

    def postpone(self, job_id: str, due: datetime) -> None:
        """Look at an entry again later."""
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

    def take_turn(self, sweeper: str, turn: timedelta) -> bool:
        """Whether this sweeper may sweep now; no other may for as long as `turn`.

        Two that sweep at once do no harm (every step is compare-and-set): this only saves work.
        """
        with redis_errors("SET"):
            return bool(self._client.set(keys.SWEEP_LOCK, sweeper, nx=True, px=turn))
