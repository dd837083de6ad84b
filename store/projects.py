"""Projects, and the lists of what is in them. Nothing here scans the keyspace."""

from collections.abc import Iterable
from dataclasses import dataclass

from domain.change import Change, Record
from domain.job_fsm import JobStatus
from domain.models import Project
from store import codec, keys
from store.jobs import JobStore
from store.link import Link

# How many jobs one page looks at, at the most, when it filters: a page may then be short, or empty,
# and still have a cursor to go on from.
_MOST_EXAMINED = 1_000


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some of a project's jobs, oldest first, and where to go on (None: that was all)."""

    records: list[Record]
    next_start: int | None


class ProjectStore:
    """Loads and makes projects."""

    def __init__(self, link: Link, jobs: JobStore) -> None:
        self._link = link
        self._jobs = jobs

    def create(self, project: Project) -> None:
        """Keep a new project and list it for its owner, last."""
        # The list entry first: one that points to nothing is passed over, a project that no list
        # names would be lost.
        self._link.call(
            ("RPUSH", keys.user_projects(project.owner), project.id),
            ("SET", keys.project(project.id), codec.dump(project), "NX"),
        )

    def load(self, project_id: str) -> Project | None:
        """Read a project."""
        (raw,) = self._link.call(("GET", keys.project(project_id)))
        return codec.load_project(raw) if raw else None

    def of_user(self, user: str) -> list[Project]:
        """All projects of a user, oldest first."""
        (ids,) = self._link.call(("LRANGE", keys.user_projects(user), 0, -1))
        if not ids:
            return []
        raws = self._link.call(*(("GET", keys.project(each.decode())) for each in ids))
        return [codec.load_project(raw) for raw in raws if raw]

    def add_job(self, change: Change) -> None:
        """Keep a new job and list it in its project, last."""
        job = change.record.job
        self._jobs.commit(None, change, ("RPUSH", keys.project_jobs(job.project_id), job.id))

    def jobs(
        self, project_id: str, start: int, limit: int, status: JobStatus | None = None
    ) -> JobPage:
        """Read up to `limit` jobs (in `status`, if given) from the list's place `start` on."""
        found: list[Record] = []
        examined = 0
        while examined < _MOST_EXAMINED:
            ids, more = self._ids(project_id, start, limit)
            for place, record in self._records(ids):
                if status is None or record.job.status is status:
                    found.append(record)
                if len(found) == limit:
                    return self._page(found, start + place + 1, more or place + 1 < len(ids))
            start, examined = start + len(ids), examined + len(ids)
            if not more:
                return self._page(found, start, False)
        return self._page(found, start, True)

    @staticmethod
    def _page(found: list[Record], next_start: int, more: bool) -> JobPage:
        return JobPage(found, next_start if more else None)

    def _ids(self, project_id: str, start: int, limit: int) -> tuple[list[str], bool]:
        (ids,) = self._link.call(("LRANGE", keys.project_jobs(project_id), start, start + limit))
        return [each.decode() for each in ids[:limit]], len(ids) > limit

    def _records(self, ids: list[str]) -> Iterable[tuple[int, Record]]:
        if not ids:
            return
        pairs = self._link.call(*(("MGET", keys.job(each), keys.claim(each)) for each in ids))
        for place, (job, claim) in enumerate(pairs):
            if job:
                record = Record(codec.load_job(job), codec.load_claim(claim) if claim else None)
                yield place, record
