"""Lists of records by time: how a record is listed, and how a page of a list is read.

A list is a sorted set in which all scores are 0, so Redis sorts its entries as text: a time in microseconds,
then the record's id. An entry is also a page's cursor: paging is not disturbed by what is added or deleted
meanwhile, and costs the same anywhere in a list of any length. An index is read as if it were such a list.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

from redis import Redis

from domain.errors import BEING_ERASED, Forbidden
from domain.job import Job, Project
from domain.job_fsm import JobStatus
from domain.record import Record
from store import codec, keys
from store.client import Script, redis_errors
from store.errors import RecordUnreadable
from store.indexes import INDEXES, times_in_indexes

Item = TypeVar("Item")

_TIME_DIGITS = 16
_CHUNK = 200
_BEING_ERASED = 2
# Operators need no list of the jobs that are done or cancelled.
LISTED_STATES = tuple(
    status for status in JobStatus if status not in (JobStatus.DONE, JobStatus.CANCELLED)
)
# How many entries a filtered page examines at most: it may be short or empty, and still have a next cursor.
_MOST_EXAMINED = 1_000
# A page ends behind this many bytes of records, also of those that a filter leaves out: 1,000 large jobs would
# be a hundred times that, for each of many callers.
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Which part of a list to read: `limit` items behind `cursor`, later than `after` and up to `before`."""

    limit: int
    cursor: str | None = None
    newest_first: bool = False
    after: datetime | None = None
    before: datetime | None = None


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs of a list are wanted; None: any. `reason`: see `Record.reason`."""

    project_id: str | None = None
    owner: str | None = None
    reason: str | None = None
    status: JobStatus | None = None

    def matches(self, record: Record) -> bool:
        """Whether the job is wanted."""
        job = record.job
        return (
            self.status in (None, job.status)
            and self.project_id in (None, job.project_id)
            and self.owner in (None, job.owner)
            and self.reason in (None, record.reason)
        )


EVERY_JOB = JobFilter()


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """A part of a list, and the cursor of the next one (None: this was the last).

    `unreadable` counts the records that were skipped because this release cannot read them.
    """

    items: list[Item]
    next_cursor: str | None
    unreadable: int = 0


def entry(moment: datetime, record_id: str) -> str:
    """A record's entry in a list by time."""
    return f"{round(moment.timestamp() * 1_000_000):0{_TIME_DIGITS}d}{record_id}"


def record_id(listed: str) -> str:
    """The id of the record that an entry is for."""
    return listed[_TIME_DIGITS:]


def change_entry(job: Job) -> str:
    """A job's entry in the list of its owner's jobs by change."""
    return entry(job.updated_at, job.id)


def state_entry(job: Job) -> str:
    """A job's entry in the list of the jobs in its state; empty if that state has no list."""
    return entry(job.in_state_since, job.id) if job.status in LISTED_STATES else ""


def lists_of_job(job: Job) -> dict[str, str]:
    """The lists that a job is in, and its entry in each."""
    created = entry(job.created_at, job.id)
    in_state = state_entry(job)
    return ({keys.jobs_in(job.status): in_state} if in_state else {}) | {
        keys.project_jobs(job.project_id): created,
        keys.user_jobs(job.owner): created,
        keys.user_changes(job.owner): change_entry(job),
    }


def entries_of_job(record: Record) -> dict[str, str]:
    """The lists and indexes that a job is in, and its entry in each, read as a list."""
    times = times_in_indexes(record)
    in_indexes = {index: entry(moment, record.job.id) for index, moment in times.items()}
    return lists_of_job(record.job) | in_indexes


def lists_of_project(project: Project) -> dict[str, str]:
    """The list that a project is in, and its entry there."""
    return {keys.user_projects(project.owner): entry(project.created_at, project.id)}


def create_listed(
    put: Script, record: Job | Project, first_event: bytes, marker_seconds: int
) -> bool:
    """Store a new record with the script `put`, and list it, in one step; whether it is new.

    A job is only created in a project that exists. `marker_seconds` is for how long the id counts as used even
    if the record is deleted; 0: not at all. Raises `Forbidden` while the owner or the project is being erased,
    and `StoreUnavailable`.
    """
    if isinstance(record, Job):
        project_id, name, entries = record.project_id, keys.job(record.id), lists_of_job(record)
    else:
        project_id, name, entries = record.id, keys.project(record.id), lists_of_project(record)
    names = [
        name, keys.made(record.id), keys.trail(record.id), keys.project(project_id),
        keys.erasure(record.owner), keys.erasure(None, project_id), *entries,
    ]  # fmt: skip
    result = put(names, [codec.dump(record), marker_seconds, first_event, *entries.values()])
    if result == _BEING_ERASED:
        raise Forbidden(BEING_ERASED)
    return bool(result)


def read_page(
    client: Redis,
    name: str,
    query: PageQuery,
    load: Callable[[list[str]], Iterable[Item | RecordUnreadable | None]],
    entries_of: Callable[[Item], Mapping[str, str]],
    is_wanted: Callable[[Item], bool] = lambda _: True,
    size_of: Callable[[Item], int] = lambda _: 0,
) -> Page[Item]:
    """Read a page of the list `name`; `load` reads records by their ids, None for one that is gone.

    `entries_of` has a record's entries in all its lists, by list, and `size_of` its size in bytes. Stale
    entries, of records that are gone or are elsewhere in the list by now, are skipped and removed. Raises
    `StoreUnavailable`.
    """
    found: list[Item] = []
    cursor, examined, size, unreadable = query.cursor, 0, query.limit + 1, 0
    room = _MOST_BYTES
    while examined < _MOST_EXAMINED:
        entries = read_entries(client, name, query, cursor, size)
        stale = []
        for line, item in zip(entries, load([*map(record_id, entries)]), strict=True):
            if len(found) == query.limit or room <= 0:
                break
            cursor = line
            if isinstance(item, RecordUnreadable):
                unreadable += 1
            elif item is None or entries_of(item).get(name) != line:
                stale.append(line)
            else:
                room -= size_of(item)
                if is_wanted(item):
                    found.append(item)
        remove_entries(client, name, stale)
        is_all = len(entries) < size
        if is_all or len(found) == query.limit or room <= 0:
            is_end = is_all and entries[-1:] in ([], [cursor])
            return Page(found, None if is_end else cursor, unreadable)
        examined += len(entries)
        size = min(_CHUNK, _MOST_EXAMINED - examined)
    return Page(found, cursor, unreadable)


def read_entries(
    client: Redis, name: str, query: PageQuery, cursor: str | None, size: int
) -> list[str]:
    """The next `size` entries of a list behind `cursor`, within the bounds of `query`.

    Only a list, not an index, can be read `after` a time, or `newest_first`.
    """
    if name in INDEXES:
        return _read_index(client, name, query, cursor, size)
    least, most = "-", "+"
    if query.after is not None:
        least = f"[{entry(query.after + timedelta(microseconds=1), '')}"
    if query.before is not None:
        most = f"({entry(query.before + timedelta(microseconds=1), '')}"
    # A cursor of another list may be outside of the range.
    if cursor and query.newest_first:
        most = f"({cursor}" if most == "+" else min(most, f"({cursor}")
    elif cursor and cursor > least[1:]:
        least = f"({cursor}"
    with redis_errors("ZRANGE"):
        if query.newest_first:
            found = client.zrevrangebylex(name, most, least, start=0, num=size)
        else:
            found = client.zrangebylex(name, least, most, start=0, num=size)
    return [line.decode() for line in found]


def _read_index(
    client: Redis, index: str, query: PageQuery, cursor: str | None, size: int
) -> list[str]:
    least = int(cursor[:_TIME_DIGITS]) / 1_000_000 if cursor else "-inf"
    most = query.before.timestamp() if query.before else "+inf"
    number = size + 1  # the cursor's own entry may still be there
    while True:
        # From the start each time: an offset would be shifted by jobs that leave the index meanwhile.
        with redis_errors("ZRANGEBYSCORE"):
            found = client.zrangebyscore(index, least, most, start=0, num=number, withscores=True)
        entries = [
            entry(datetime.fromtimestamp(score, UTC), job_id.decode()) for job_id, score in found
        ]
        behind = [line for line in entries if cursor is None or line > cursor]
        if len(behind) >= size or len(found) < number:
            return behind[:size]
        number *= 2  # many have the same score


def every_page(read: Callable[[PageQuery], Page[Item]], query: PageQuery) -> Iterator[Page[Item]]:
    """All pages of a list, from `query` on."""
    while True:
        page = read(query)
        yield page
        if page.next_cursor is None:
            return
        query = replace(query, cursor=page.next_cursor)


def remove_entries(client: Redis, name: str, entries: Sequence[str]) -> None:
    """Remove entries from the list `name`. Raises `StoreUnavailable`."""
    if entries:
        with redis_errors("ZREM"):
            client.zrem(name, *entries)
