"""Retention beyond what expiry of keys does: list entries of expired jobs, and jobs without an expiry."""

from collections import Counter
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import chain, count

from redis import Redis

from domain.errors import ResourceNotFound
from domain.lifecycle import is_at_rest
from domain.record import Decision
from store import keys, lists
from store.client import execute, scan_keys
from store.errors import RecordUnreadable
from store.jobs import JobStore

# How much a step does: this many entries of lists, or one batch of a scan.
_CHUNK = 200
_MOST_EXAMINED = 1_000
# Replies of PTTL.
_GONE, _NO_EXPIRY = -2, -1


class Retention:
    """Walks through all lists of jobs, over and over, a bounded step at a time.

    It examines entries that are older than `retention`. Those of jobs that are gone are removed. A job at rest
    that has no expiry, since it came to rest while there was no retention, is given one.
    """

    def __init__(self, client: Redis, jobs: JobStore, retention: timedelta) -> None:
        self._client, self._jobs, self._retention = client, jobs, retention
        # All lists, over and over; a scan that failed begins again.
        self._batches = chain.from_iterable(scan_keys(client, keys.JOB_LISTS) for _ in count())
        # The lists still to be examined, and where to continue in each.
        self._ahead: list[tuple[str, str | None]] = []

    def step(self, now: datetime) -> Counter[str]:
        """Do one step; how many entries were removed (`unlisted`) and jobs given an expiry (`timed`).

        Raises `StoreUnavailable`, and `StoreContended`; the next step continues all the same.
        """
        done: Counter[str] = Counter()
        older = now - self._retention - timedelta.resolution  # a query's `before` is inclusive
        query = lists.PageQuery(_CHUNK, before=older)
        if not self._ahead:
            self._ahead = [(name, None) for name in next(self._batches)]
        examined = 0
        while self._ahead and examined < _MOST_EXAMINED:
            name, start = self._ahead.pop()
            entries = lists.read_entries(self._client, name, query, start, _CHUNK)
            if len(entries) == _CHUNK:
                self._ahead.append((name, entries[-1]))
            done += self._examine(name, entries)
            examined += len(entries)
        return done

    def _examine(self, name: str, entries: list[str]) -> Counter[str]:
        pipeline = self._client.pipeline(transaction=False)
        for entry in entries:
            pipeline.pttl(keys.job(lists.record_id(entry)))
        times = dict(zip(entries, execute(pipeline, "PTTL"), strict=True))
        gone = [entry for entry in entries if times[entry] == _GONE]
        lists.remove_entries(self._client, name, gone)
        timed = 0
        for entry in entries:
            if times[entry] == _NO_EXPIRY:
                job_id = lists.record_id(entry)
                with suppress(ResourceNotFound, RecordUnreadable):
                    # A commit sets the expiry, or removes it.
                    kept = self._jobs.update(job_id, lambda it: Decision(None, it, is_at_rest(it)))
                    timed += kept.changed
        return +Counter(unlisted=len(gone), timed=timed)
