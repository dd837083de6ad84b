"""An operator's views of all users' jobs: pages, oldest first, of indexes that every commit keeps."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial

from redis import Redis

from domain.job_fsm import JobStatus
from domain.record import Record
from store import keys
from store.client import redis_errors
from store.due_index import INDEXES, scores
from store.errors import RecordUnreadable
from store.lists import TIME_DIGITS, Page, PageQuery, read_page, state_entry

LoadJobs = Callable[[list[str]], Sequence[Record | RecordUnreadable | None]]
IsWanted = Callable[[Record], bool]

_MICROSECONDS = 1_000_000


class View(StrEnum):
    UNKNOWN = "unknown"
    SILENT = "silent"
    IN_FLIGHT = "in_flight"
    FAILED = "failed"


_INDEX_OF = {View.UNKNOWN: keys.UNKNOWN, View.SILENT: keys.SILENT, View.IN_FLIGHT: keys.IN_FLIGHT}


class JobViews:
    """Reads the views. `load` reads jobs by their ids. Every method raises `StoreUnavailable`."""

    def __init__(self, client: Redis, load: LoadJobs) -> None:
        self._client, self._load = client, load

    def page(self, view: View | JobStatus, query: PageQuery, is_wanted: IsWanted) -> Page[Record]:
        """A page of a view, or of the jobs in a state by when they came into it (none of DONE and CANCELLED).

        `query.after` is for states alone, and View.FAILED is one.
        """
        read, load = partial(read_page, self._client), self._load
        if not isinstance(view, View) or view is View.FAILED:
            status = JobStatus(view.upper())

            def entry_in_state(record: Record) -> str:
                return state_entry(record.job) if record.job.status is status else ""

            return read(keys.jobs_in(status), query, load, entry_in_state, is_wanted)
        index = _INDEX_OF[view]

        def entry_in_index(record: Record) -> str:
            score = scores(record)[INDEXES.index(index)]
            return _entry(record.job.id, score) if score else ""

        return read(index, query, load, entry_in_index, is_wanted, self._entries)

    def _entries(
        self, _: Redis, index: str, query: PageQuery, cursor: str | None, size: int
    ) -> list[str]:
        least = int(cursor[:TIME_DIGITS]) / _MICROSECONDS if cursor else "-inf"
        most = query.before.timestamp() if query.before else "+inf"
        count = size + 1  # the cursor's own entry may still be there
        while True:
            # Anew each time, and not from an offset on: what leaves meanwhile would shift that.
            with redis_errors("ZRANGEBYSCORE"):
                found = self._client.zrangebyscore(
                    index, least, most, start=0, num=count, withscores=True
                )
            entries = [_entry(each.decode(), score) for each, score in found]
            behind = [each for each in entries if cursor is None or each > cursor]
            if len(behind) >= size or len(found) < count:
                return behind[:size]
            count *= 2  # many of one moment


def _entry(job_id: str, score: str | bytes) -> str:
    return f"{round(float(score) * _MICROSECONDS):0{TIME_DIGITS}d}{job_id}"
