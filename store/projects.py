"""Projects, and the lists of users' projects and jobs. No request scans the keyspace."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import structlog
from redis import Redis

from domain.errors import BEING_ERASED, Forbidden
from domain.job import Project
from domain.job_fsm import JobStatus
from domain.record import Record
from observability.metrics import unreadable_records
from store import codec, keys, lists
from store.client import execute, load_script, redis_errors
from store.errors import RecordUnreadable
from store.indexes import INDEX_OF, View, entries_in_indexes, read_index
from store.lists import Page, PageQuery

Item = TypeVar("Item")

# Records that are read at once: a page of large ones ends before the last, which are then not read.
_BATCH = 64

log = structlog.get_logger("store")


class ProjectStore:
    """Reads and creates projects, and reads lists of projects and jobs.

    Every method raises `StoreUnavailable`.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._put = load_script(client, "put")
        self._delete = load_script(client, "delete_project")

    def create(self, project: Project, marker_seconds: int = 0) -> bool:
        """Store a new project and list it; whether it is new.

        `marker_seconds`, and what it raises: see `lists.create_listed`.
        """
        return lists.create_listed(self._put, project, codec.dump(project), b"", marker_seconds)

    def load(self, project_id: str) -> Project | None:
        """Read a project. Raises `RecordUnreadable`."""
        with redis_errors("GET"):
            raw = self._client.get(keys.project(project_id))
        return codec.load(Project, project_id, raw) if raw else None

    def delete(self, project: Project) -> bool:
        """Delete a project, unless a job is listed in it; whether it is gone. No job can be created in it."""
        names = [keys.project(project.id), keys.project_jobs(project.id)]
        entries = lists.lists_of_project(project)
        return bool(self._delete([*names, *entries], [*entries.values()]))

    def begin_erasure(self, user: str | None, project_id: str | None, seconds: int) -> None:
        """Forbid for `seconds` to create anything for a user, or in a project; one of them is given."""
        with redis_errors("SET"):
            self._client.set(_erasure(user, project_id), 1, ex=seconds)

    def end_erasure(self, user: str | None, project_id: str | None) -> None:
        """Allow it again."""
        with redis_errors("DEL"):
            self._client.delete(_erasure(user, project_id))

    def ensure_not_erased(self, user: str, project_id: str | None) -> None:
        """Raise `Forbidden` where `create`, of a project or of a job in one, would raise it."""
        names = [_erasure(user, None)] + ([_erasure(None, project_id)] if project_id else [])
        with redis_errors("EXISTS"):
            if self._client.exists(*names):
                raise Forbidden(BEING_ERASED)

    def of_user(self, user: str, query: PageQuery) -> Page[Project]:
        """A page of a user's projects, by creation."""
        load = partial(codec.load, Project)
        return lists.read_page(
            self._client, keys.user_projects(user), query,
            lambda ids: self._load_many("project_id", ids, load, keys.project),
            lists.lists_of_project,
        )  # fmt: skip

    def jobs(
        self, project_id: str, query: PageQuery, status: JobStatus | None = None
    ) -> Page[Record]:
        """A page of a project's jobs, by creation; only those in `status`, if it is given."""
        return self._jobs(keys.project_jobs(project_id), query, status)

    def jobs_of_user(
        self,
        user: str,
        query: PageQuery,
        status: JobStatus | None = None,
        project_id: str | None = None,
    ) -> Page[Record]:
        """A page of a user's jobs, by creation, or by change if `query` has `after`.

        Only those in `status` and of the project, if they are given.
        """
        if query.after is not None:
            return self._jobs(keys.user_changes(user), query, status, project_id)
        if project_id is None:
            return self._jobs(keys.user_jobs(user), query, status)
        project = self.load(project_id)
        if project is None or project.owner != user:
            return Page([], None)
        return self.jobs(project_id, query, status)

    def _jobs(
        self, name: str, query: PageQuery, status: JobStatus | None, project_id: str | None = None
    ) -> Page[Record]:
        def is_wanted(record: Record) -> bool:
            job = record.job
            return status in (None, job.status) and project_id in (None, job.project_id)

        return self._page_of_jobs(name, query, is_wanted)

    def jobs_in_view(
        self, view: View | JobStatus, query: PageQuery, is_wanted: Callable[[Record], bool]
    ) -> Page[Record]:
        """A page of all users' jobs in a view, or in a listed state by when they entered it.

        Only the list of a state, which View.FAILED is too, can be read `after` a time.
        """
        if index := INDEX_OF.get(view):
            return self._page_of_jobs(index, query, is_wanted, entries_in_indexes, read_index)
        return self._page_of_jobs(keys.jobs_in(view.upper()), query, is_wanted)

    def _page_of_jobs(
        self,
        name: str,
        query: PageQuery,
        is_wanted: Callable[[Record], bool],
        entries_of: Callable[[Record], dict[str, str]] = lambda it: lists.lists_of_job(it.job),
        read: lists.ReadEntries | None = None,
    ) -> Page[Record]:
        load, size_of = self._load_jobs, lambda it: sum(map(len, it.revision))
        return lists.read_page(
            self._client, name, query, load, entries_of, is_wanted, read, size_of
        )

    def _load_jobs(self, ids: list[str]) -> Iterator[Record | RecordUnreadable | None]:
        """Read jobs with their claims; None for one that is gone, an error for one that cannot be read."""
        return self._load_many("job_id", ids, codec.load_record, keys.job, keys.claim)

    def _load_many(
        self, kind: str, ids: list[str], load: Callable[..., Item], *names: Callable[[str], str]
    ) -> Iterator[Item | RecordUnreadable | None]:
        for start in range(0, len(ids), _BATCH):
            batch = ids[start : start + _BATCH]
            pipeline = self._client.pipeline(transaction=False)
            for record_id in batch:
                pipeline.mget([name(record_id) for name in names])
            for record_id, (raw, *more) in zip(batch, execute(pipeline, "MGET"), strict=True):
                try:
                    yield load(record_id, raw, *(part or b"" for part in more)) if raw else None
                except RecordUnreadable as error:
                    # One unreadable record must not hide the others.
                    unreadable_records.inc()
                    log.error("record.unreadable", **{kind: record_id})
                    yield error


def _erasure(user: str | None, project_id: str | None) -> str:
    return keys.project_erasure(project_id or "") if user is None else keys.user_erasure(user)
