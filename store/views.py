"""An operator's views of all users' jobs: pages, oldest first, of indexes that every commit keeps."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path

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

_RANGE = Path(__file__).with_name("range.lua").read_text()
_MICROSECONDS = 1_000_000


class View(StrEnum):
    """What an operator lists."""

    UNKNOWN = "unknown"
    SILENT = "silent"
    IN_FLIGHT = "in_flight"
    FAILED = "failed"


_INDEX_OF = {View.UNKNOWN: keys.UNKNOWN, View.SILENT: keys.SILENT, View.IN_FLIGHT: keys.IN_FLIGHT}


class JobViews:
    """Reads the views. `load` reads jobs by their ids. Every method raises `StoreUnavailable`."""

    def __init__(self, client: Redis, load: LoadJobs) -> None:
        self._client, self._load = client, load
        self._range = client.register_script(_RANGE)

    def page(self, view: View, query: PageQuery, is_wanted: IsWanted) -> Page[Record]:
        """A page of a view. `query.after` is for failed jobs alone."""
        if view is View.FAILED:
            return self.in_state(JobStatus.FAILED, query, is_wanted)
        index = _INDEX_OF[view]
        number = INDEXES.index(index)

        def entry_of(record: Record) -> str:
            score = scores(record)[number]
            return _entry(record.job.id, score) if score else ""

        return read_page(self._client, index, query, self._load, entry_of, is_wanted, self._entries)

    def in_state(self, status: JobStatus, query: PageQuery, is_wanted: IsWanted) -> Page[Record]:
        """A page of the jobs in a state, by when they came into it; none of DONE and CANCELLED."""

        def entry_of(record: Record) -> str:
            return state_entry(record.job) if record.job.status is status else ""

        name = keys.jobs_in(status)
        return read_page(self._client, name, query, self._load, entry_of, is_wanted)

    def _entries(
        self, _: Redis, index: str, query: PageQuery, cursor: str | None, size: int
    ) -> list[str]:
        score, job_id = "", ""
        if cursor is not None:
            score = repr(int(cursor[:TIME_DIGITS]) / _MICROSECONDS)
            job_id = cursor[TIME_DIGITS:]
        most = repr(query.before.timestamp()) if query.before else "+inf"
        with redis_errors("EVALSHA"):
            found = self._range([index], [score, job_id, most, size])
        members, at = found[::2], found[1::2]
        return [_entry(each.decode(), when) for each, when in zip(members, at, strict=True)]


def _entry(job_id: str, score: str | bytes) -> str:
    return f"{round(float(score) * _MICROSECONDS):0{TIME_DIGITS}d}{job_id}"
