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
from store.indexes import INDEX_OF, View
from store.lists import EVERY_JOB, JobFilter, Page, PageQuery

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
        return lists.create_listed(self._put, project, b"", marker_seconds)

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
            self._client.set(keys.erasure(user, project_id), 1, ex=seconds)

    def end_erasure(self, user: str | None, project_id: str | None) -> None:
        """Allow it again."""
        with redis_errors("DEL"):
            self._client.delete(keys.erasure(user, project_id))

    def ensure_not_erased(self, user: str, project_id: str | None) -> None:
        """Raise `Forbidden` where `create`, of a project or of a job in one, would raise it."""
        names = [keys.erasure(user)] + ([keys.erasure(None, project_id)] if project_id else [])
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
        self, project_id: str, query: PageQuery, wanted: JobFilter = EVERY_JOB
    ) -> Page[Record]:
        """A page of a project's jobs, by creation."""
        return self._page_of_jobs(keys.project_jobs(project_id), query, wanted)

    def jobs_of_user(
        self, user: str, query: PageQuery, wanted: JobFilter = EVERY_JOB
    ) -> Page[Record]:
        """A page of a user's jobs, by creation, or by change if `query` has `after`."""
        if query.after is not None:
            return self._page_of_jobs(keys.user_changes(user), query, wanted)
        if wanted.project_id is None:
            return self._page_of_jobs(keys.user_jobs(user), query, wanted)
        project = self.load(wanted.project_id)
        if project is None or project.owner != user:
            return Page([], None)
        return self.jobs(project.id, query, wanted)

    def jobs_in_view(
        self, view: View | JobStatus, query: PageQuery, wanted: JobFilter = EVERY_JOB
    ) -> Page[Record]:
        """A page of all users' jobs in a view, or in a listed state by when they entered it."""
        name = INDEX_OF.get(view) or keys.jobs_in(view.upper())
        return self._page_of_jobs(name, query, wanted)

    def _page_of_jobs(self, name: str, query: PageQuery, wanted: JobFilter) -> Page[Record]:
        return lists.read_page(
            self._client, name, query, self._load_jobs, lists.entries_of_job, wanted.matches,
            size_of=lambda record: sum(map(len, record.revision)),
        )  # fmt: skip

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
