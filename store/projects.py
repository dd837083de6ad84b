"""Projects, and the lists of what is in them. No request scans the keyspace."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import structlog
from redis import Redis

from domain.errors import BEING_ERASED, Forbidden
from domain.job import Project
from domain.job_fsm import JobStatus
from domain.record import Record
from observability.metrics import unreadable_records
from store import codec, keys, lists
from store.client import execute, redis_errors
from store.errors import RecordUnreadable
from store.lists import ListedRecords, Page, PageQuery

Item = TypeVar("Item")

_DELETE = Path(__file__).with_name("delete_project.lua").read_text()

log = structlog.get_logger("store")


class ProjectStore:
    """Loads and makes projects, and reads lists of projects and jobs.

    Every method raises `StoreUnavailable`.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._records = ListedRecords(client)
        self._delete = client.register_script(_DELETE)

    def create(self, project: Project, marker_seconds: int = 0) -> bool:
        """Keep a new project and list it; whether it is new.

        `marker_seconds`, and what it raises: see `ListedRecords.put`.
        """
        return self._records.put(
            keys.project(project.id), project.id, lists.lists_of_project(project),
            record=codec.dump_project(project),
            owner=project.owner, project_id=project.id, marker_seconds=marker_seconds,
        )  # fmt: skip

    def load(self, project_id: str) -> Project | None:
        """Read a project."""
        with redis_errors("GET"):
            raw = self._client.get(keys.project(project_id))
        return codec.load_project(project_id, raw) if raw else None

    def delete(self, project: Project) -> bool:
        """Delete a project, unless a job is listed in it; whether it is gone. No job is made in it any more."""
        places = lists.lists_of_project(project)
        names = [keys.project(project.id), keys.project_jobs(project.id), *places]
        with redis_errors("EVALSHA"):
            return bool(self._delete(names, [*places.values()]))

    def begin_erasure(self, user: str | None, project_id: str | None, seconds: int) -> None:
        """Have nothing created for a user, or in a project, for so long: one of them is given."""
        with redis_errors("SET"):
            self._client.set(_erasure(user, project_id), 1, ex=seconds)

    def ensure_not_erased(self, user: str, project_id: str | None) -> None:
        """Refuse early what `create` of a project, or of a job in one, would refuse. Raises `Forbidden`."""
        names = [_erasure(user, None)] + ([_erasure(None, project_id)] if project_id else [])
        with redis_errors("EXISTS"):
            if self._client.exists(*names):
                raise Forbidden(BEING_ERASED)

    def end_erasure(self, user: str | None, project_id: str | None) -> None:
        """Let it be created again."""
        with redis_errors("DEL"):
            self._client.delete(_erasure(user, project_id))

    def of_user(self, user: str, query: PageQuery) -> Page[Project]:
        """A page of a user's projects, by creation."""
        return lists.read_page(
            self._client, keys.user_projects(user), query, self._load_projects,
            lambda project: lists.entry(project.created_at, project.id),
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
        """A page of a user's jobs, of one project if it is given.

        By creation; by change where `query` has `after`.
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
        def entry_of(record: Record) -> str:
            job = record.job
            return lists.entry(job.updated_at if query.after else job.created_at, job.id)

        def is_wanted(record: Record) -> bool:
            return (status is None or record.job.status is status) and (
                project_id is None or record.job.project_id == project_id
            )

        return lists.read_page(self._client, name, query, self.load_jobs, entry_of, is_wanted)

    def _load_projects(self, ids: list[str]) -> list[Project | RecordUnreadable | None]:
        return self._read("project_id", ids, codec.load_project, keys.project)

    def load_jobs(self, ids: list[str]) -> list[Record | RecordUnreadable | None]:
        """Read jobs with their claims; None for one that is gone, an error for one that cannot be read."""
        return self._read("job_id", ids, codec.load_record, keys.job, keys.claim)

    def _read(
        self, kind: str, ids: list[str], load: Callable[..., Item], *names: Callable[[str], str]
    ) -> list[Item | RecordUnreadable | None]:
        pipeline = self._client.pipeline(transaction=False)
        for each in ids:
            pipeline.mget([name(each) for name in names])
        found: list[Item | RecordUnreadable | None] = []
        for record_id, (raw, *more) in zip(ids, execute(pipeline, "MGET"), strict=True):
            try:
                found.append(load(record_id, raw, *(each or b"" for each in more)) if raw else None)
            except RecordUnreadable as error:
                # One unreadable record hides only itself.
                unreadable_records.inc()
                log.error("record.unreadable", **{kind: record_id})
                found.append(error)
        return found


def _erasure(user: str | None, project_id: str | None) -> str:
    return keys.project_erasure(project_id or "") if user is None else keys.user_erasure(user)
