"""Retention where a time to live does not reach: lists that nothing reads, and jobs that rest already."""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta

from redis import Redis

from domain.errors import ResourceNotFound
from store import keys, lists
from store.client import execute, redis_errors, scanned
from store.errors import RecordUnreadable
from store.jobs import JobStore

# The bound of a step: that many entries of lists, or one batch of a scan.
_CHUNK = 200
_MOST_EXAMINED = 1_000
_GONE, _WITHOUT_TIME = -2, -1


class Retention:
    """Goes through all lists of jobs, again and again, a bounded piece at a time.

    It looks at entries that are older than `retention`. One of a job that is gone is taken off. A job that is
    there without a time to live is given one if it is at rest: it came to rest while there was no retention.
    """

    def __init__(self, client: Redis, jobs: JobStore, retention: timedelta) -> None:
        self._client, self._jobs, self._retention = client, jobs, retention
        self._batches: Iterator[list[str]] = iter(())
        # Lists that are still to be looked at, and where to go on in each.
        self._ahead: list[tuple[str, str]] = []

    def step(self, now: datetime) -> Counter[str]:
        """Do one piece; how many entries were taken off (`unlisted`) and jobs given their time (`timed`).

        Raises `StoreUnavailable`, and `StoreContended`; the next step goes on all the same.
        """
        done: Counter[str] = Counter()
        if not self._ahead:
            self._scan()
        examined = 0
        while self._ahead and examined < _MOST_EXAMINED:
            name, start = self._ahead.pop()
            entries = self._entries(name, start, now)
            if len(entries) == _CHUNK:
                self._ahead.append((name, f"({entries[-1]}"))
            done += self._look_at(name, entries)
            examined += len(entries)
        return done

    def _scan(self) -> None:
        batch = next(self._batches, None)
        if batch is None:
            self._batches = scanned(self._client, keys.JOB_LISTS)
            batch = next(self._batches)
        self._ahead = [(name, "-") for name in batch]

    def _entries(self, name: str, start: str, now: datetime) -> list[str]:
        before = f"({lists.entry(now - self._retention, '')}"
        with redis_errors("ZRANGE"):
            found = self._client.zrangebylex(name, start, before, start=0, num=_CHUNK)
        return [each.decode() for each in found]

    def _look_at(self, name: str, entries: list[str]) -> Counter[str]:
        pipeline = self._client.pipeline(transaction=False)
        for each in entries:
            pipeline.pttl(keys.job(lists.record_id(each)))
        times = dict(zip(entries, execute(pipeline, "PTTL") if entries else [], strict=True))
        gone = [each for each in entries if times[each] == _GONE]
        lists.take_off(self._client, name, gone)
        timed = 0
        for each in entries:
            if times[each] == _WITHOUT_TIME:
                with suppress(ResourceNotFound, RecordUnreadable):
                    timed += self._jobs.let_expire(lists.record_id(each))
        return +Counter(unlisted=len(gone), timed=timed)
