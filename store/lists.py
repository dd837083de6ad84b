"""Lists of records by time: what names a record in a list, and how a page of one is read.

A list is a sorted set in which all scores are 0, so that Redis sorts the entries as text: the time in
microseconds, then the id. An entry is a page's cursor: where the reader goes on does not depend on what
was added or deleted meanwhile, and costs the same anywhere in a list of any length.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Generic, TypeVar

from redis import Redis

from domain.errors import BEING_ERASED, Forbidden
from domain.job import Job, Project
from domain.job_fsm import JobStatus
from store import keys
from store.client import redis_errors
from store.errors import RecordUnreadable

Item = TypeVar("Item")
ReadEntries = Callable[[Redis, str, "PageQuery", str | None, int], list[str]]

_PUT = Path(__file__).with_name("put.lua").read_text()
TIME_DIGITS = 16
_CHUNK = 200
_BEING_ERASED = 2
# Jobs that are done or cancelled concern no operator any more.
LISTED_STATES = tuple(
    each for each in JobStatus if each not in (JobStatus.DONE, JobStatus.CANCELLED)
)
# How many entries one page looks at, at the most, when it filters: a page may then be short, or empty, and
# still have a cursor to go on from.
_MOST_EXAMINED = 1_000


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Which part of a list to read: `limit` items behind `cursor`, later than `after` and up to `before`."""

    limit: int
    cursor: str | None = None
    newest_first: bool = False
    after: datetime | None = None
    before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some of a list, and where to go on (None: that was all).

    `unreadable` is how many records were passed over because this release cannot read them.
    """

    items: list[Item]
    next_cursor: str | None
    unreadable: int = 0


def entry(moment: datetime, record_id: str) -> str:
    """What stands for a record in a list."""
    return f"{round(moment.timestamp() * 1_000_000):0{TIME_DIGITS}d}{record_id}"


def record_id(listed: str) -> str:
    """The record that an entry stands for."""
    return listed[TIME_DIGITS:]


def change_entry(job: Job) -> str:
    """What stands for a job in the list of its owner's jobs by change."""
    return entry(job.updated_at, job.id)


def state_entry(job: Job) -> str:
    """What stands for a job in the list of those in its state; empty if its state has no list."""
    return entry(job.in_state_since, job.id) if job.status in LISTED_STATES else ""


def lists_of_job(job: Job) -> dict[str, str]:
    """Every list that a job is in, and its entry there."""
    created = entry(job.created_at, job.id)
    in_state = {keys.jobs_in(job.status): state_entry(job)} if state_entry(job) else {}
    return in_state | {
        keys.project_jobs(job.project_id): created,
        keys.user_jobs(job.owner): created,
        keys.user_changes(job.owner): change_entry(job),
    }


def lists_of_project(project: Project) -> dict[str, str]:
    """The list that a project is in, and its entry there."""
    return {keys.user_projects(project.owner): entry(project.created_at, project.id)}


class ListedRecords:
    """Makes records and lists them, both in one step."""

    def __init__(self, client: Redis) -> None:
        self._put = client.register_script(_PUT)

    def put(
        self,
        name: str,
        record_id: str,
        places: Mapping[str, str],
        *,
        record: bytes,
        owner: str,
        project_id: str,
        parent: str = "",
        marker_seconds: int = 0,
        first_event: bytes = b"",
    ) -> bool:
        """Make the record `name` if it is not there, and list it; whether it is new.

        `places`: its lists, and its entry in each. `parent`: a record without which this one is not made.
        `marker_seconds`: how long it is known that this id was made, even if the record is deleted; 0: not at
        all. Raises `Forbidden` while `owner` or the project is being erased, and `StoreUnavailable`.
        """
        erasures = [keys.user_erasure(owner), keys.project_erasure(project_id)]
        names = [name, keys.made(record_id), keys.trail(record_id), parent or name, *erasures]
        arguments = [record, marker_seconds, first_event, *places.values()]
        with redis_errors("EVALSHA"):
            done = self._put([*names, *places], arguments)
        if done == _BEING_ERASED:
            raise Forbidden(BEING_ERASED)
        return bool(done)


def read_page(
    client: Redis,
    name: str,
    query: PageQuery,
    load: Callable[[list[str]], Sequence[Item | RecordUnreadable | None]],
    entry_of: Callable[[Item], str],
    is_wanted: Callable[[Item], bool] = lambda _: True,
    read_entries: ReadEntries | None = None,
) -> Page[Item]:
    """Read a page of the list `name`; `load` reads records by their ids, None for one that is gone.

    `read_entries` reads what is no such list, but has entries like those of one.

    Entries of records that are gone, or that stand elsewhere in the list by now, are passed over and taken off.
    Raises `StoreUnavailable`.
    """
    found: list[Item] = []
    cursor, examined, size, unreadable = query.cursor, 0, query.limit + 1, 0
    while examined < _MOST_EXAMINED:
        entries = (read_entries or _entries)(client, name, query, cursor, size)
        stale = []
        for each, item in zip(entries, load([*map(record_id, entries)]), strict=True):
            if len(found) == query.limit:
                break
            cursor = each
            if isinstance(item, RecordUnreadable):
                unreadable += 1
            elif item is None or entry_of(item) != each:
                stale.append(each)
            elif is_wanted(item):
                found.append(item)
        take_off(client, name, stale)
        is_all = len(entries) < size
        if is_all or len(found) == query.limit:
            is_end = is_all and entries[-1:] in ([], [cursor])
            return Page(found, None if is_end else cursor, unreadable)
        examined += len(entries)
        size = min(_CHUNK, _MOST_EXAMINED - examined)
    return Page(found, cursor, unreadable)


def _entries(
    client: Redis, name: str, query: PageQuery, cursor: str | None, size: int
) -> list[str]:
    least, most = "-", "+"
    if query.after is not None:
        least = f"[{entry(query.after + timedelta(microseconds=1), '')}"
    if query.before is not None:
        most = f"({entry(query.before + timedelta(microseconds=1), '')}"
    # A cursor of another list may lie outside of what is asked for.
    if cursor and query.newest_first:
        most = f"({cursor}" if most == "+" else min(most, f"({cursor}")
    elif cursor and cursor > least[1:]:
        least = f"({cursor}"
    with redis_errors("ZRANGE"):
        if query.newest_first:
            found = client.zrevrangebylex(name, most, least, start=0, num=size)
        else:
            found = client.zrangebylex(name, least, most, start=0, num=size)
    return [each.decode() for each in found]


def every_page(read: Callable[[PageQuery], Page[Item]], query: PageQuery) -> Iterator[Page[Item]]:
    """A whole list, from `query` on."""
    while True:
        page = read(query)
        yield page
        if page.next_cursor is None:
            return
        query = replace(query, cursor=page.next_cursor)


def take_off(client: Redis, name: str, stale: Sequence[str]) -> None:
    """Take entries off the list `name`. Raises `StoreUnavailable`."""
    if stale:
        with redis_errors("ZREM"):
            client.zrem(name, *stale)
