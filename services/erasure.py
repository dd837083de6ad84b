"""What is kept of a user, a project or a job: exported, and erased at once.

While a user or a project is erased, nothing is created for them. Erasing is done again until a look finds
nothing: it also finds what an earlier release has created, and after a crash the same command goes on.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from domain import lifecycle
from domain.audit import Actor, AuditEvent
from domain.claim import DispatchPolicy
from domain.errors import (
    FsmTerminalImmutable,
    JobAlreadyRunning,
    NotTerminal,
    ResourceNotFound,
)
from domain.job import Project
from domain.record import Record
from store.errors import QueueUnavailable, StoreUnavailable
from store.idempotency import IdempotencyKeys
from store.jobs import JobStore
from store.lists import Page, PageQuery, every_page
from store.projects import ProjectStore

Item = TypeVar("Item")
OnOrphan = Callable[[Record], None]

_PAGE = 200
_LOOK_AGAIN_SECONDS = 0.5
# Each look begins it anew. An erasure that dies bars its user for no longer; one look that takes longer lets
# something be created, which the next one finds.
_BARRED_SECONDS = 600
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Selection:
    """One of them is given: all of a user's, a project with its jobs, or one job."""

    user: str | None = None
    project_id: str | None = None
    job_id: str | None = None


@dataclass(slots=True)
class Found:
    """What a look found, or an erasure did. `left` is what is not erased because it is not at rest.

    `unreadable` is how many records this release cannot read, `keys` how many idempotency keys were forgotten.
    `is_complete`: the last look of an erasure found nothing.
    """

    jobs: int = 0
    projects: int = 0
    keys: int = 0
    left: list[Record] = field(default_factory=list)
    unreadable: int = 0
    is_complete: bool = False


class Erasure:
    """The use cases. Each raises `StoreError` where the store does not serve."""

    def __init__(
        self,
        jobs: JobStore,
        projects: ProjectStore,
        idempotency_keys: IdempotencyKeys,
        policy: DispatchPolicy,
        now: Callable[[], datetime],
    ) -> None:
        self._jobs, self._projects, self._keys = jobs, projects, idempotency_keys
        self._policy, self._now = policy, now

    def look(self, selection: Selection) -> Found:
        """Count what there is; `left` are the jobs that would first have to come to rest.

        Raises `ResourceNotFound` for a job that is not there.
        """
        found = Found()
        found.projects = sum(1 for _ in self.projects(selection, found))
        for record in self.records(selection, found):
            found.jobs += 1
            if not lifecycle.is_at_rest(record):
                found.left.append(record)
        return found

    def projects(self, selection: Selection, found: Found) -> Iterator[Project]:
        """The selected projects. Counts in `found` what cannot be read."""
        if selection.user is not None:
            yield from _counted(partial(self._projects.of_user, selection.user), found)
        elif selection.project_id is not None:
            project = self._projects.load(selection.project_id)
            if project is not None:
                yield project

    def records(self, selection: Selection, found: Found) -> Iterator[Record]:
        """The selected jobs. Counts in `found` what cannot be read. Raises as `look` does."""
        if selection.user is not None:
            yield from _counted(partial(self._projects.jobs_of_user, selection.user), found)
        elif selection.project_id is not None:
            yield from _counted(partial(self._projects.jobs, selection.project_id), found)
        elif selection.job_id is not None:
            yield self._jobs.get(selection.job_id)

    def trail(self, job_id: str) -> Iterator[AuditEvent]:
        """All events of a job's trail that this release knows."""
        end, length = 0, 1
        while end < length:
            events, end, length = self._jobs.trail(job_id, end, _PAGE)
            yield from events

    def erase(
        self, selection: Selection, wait_seconds: float, on_orphan: OnOrphan | None = None
    ) -> Found:
        """Cancel what is not at rest, and delete what is, until nothing is found.

        Where a cancel has to be told, or an outcome is open, it waits `wait_seconds` for that. What does not
        come to rest is left; or, if `on_orphan` is given, deleted all the same, after a call of it. A project
        goes with its last job. Of a user, idempotency keys are forgotten too. Nothing can be created meanwhile.
        """
        try:
            return self._erase_all(selection, wait_seconds, on_orphan)
        finally:
            if selection.job_id is None:
                self._projects.end_erasure(selection.user, selection.project_id)

    def _erase_all(
        self, selection: Selection, wait_seconds: float, on_orphan: OnOrphan | None
    ) -> Found:
        done, erased, deadline = Found(), -1, time.monotonic() + wait_seconds
        forced: OnOrphan | None = None
        while True:
            if selection.job_id is None:
                # A full Redis takes no mark, and nothing new either: once there is room, the next look has it.
                with suppress(StoreUnavailable):
                    self._projects.begin_erasure(
                        selection.user, selection.project_id, _BARRED_SECONDS
                    )
            done.is_complete = not self._erase_found(selection, done, forced)
            is_stuck = done.jobs + done.projects == erased  # what is left must come to rest first
            is_over = is_stuck and time.monotonic() >= deadline
            if done.is_complete or (is_over and forced is on_orphan):
                break
            if is_over:
                forced = on_orphan
            time.sleep(_LOOK_AGAIN_SECONDS if is_stuck else 0)
            erased = done.jobs + done.projects
        if selection.user is not None:
            done.keys = self._keys.forget(selection.user)
            by_change = PageQuery(_PAGE, after=_EPOCH)
            _tidy(every_page(partial(self._projects.jobs_of_user, selection.user), by_change))
        return done

    def _erase_found(self, selection: Selection, done: Found, on_orphan: OnOrphan | None) -> bool:
        """Erase what one look finds; whether it found anything."""
        done.left, done.unreadable, is_found = [], 0, False
        with suppress(ResourceNotFound):
            for record in self.records(selection, done):
                is_found = True
                if self._erase(record.job.id, on_orphan):
                    done.jobs += 1
                else:
                    done.left.append(self._jobs.load(record.job.id) or record)
        for project in self.projects(selection, done):
            is_found = True
            _tidy(every_page(partial(self._projects.jobs, project.id), PageQuery(_PAGE)))
            done.projects += self._projects.delete(project)
        return is_found

    def _erase(self, job_id: str, on_orphan: OnOrphan | None) -> bool:
        """Whether a job is gone by now. One that is not at rest is cancelled first."""

        def ensure_deletable(record: Record) -> None:
            if on_orphan is None:
                lifecycle.ensure_at_rest(record)
            elif not lifecycle.is_at_rest(record):
                on_orphan(record)

        with suppress(ResourceNotFound):
            # Where the queue is away, the sweep tells it all the same.
            with suppress(FsmTerminalImmutable, QueueUnavailable):
                now, policy = self._now(), self._policy
                self._jobs.update(
                    job_id,
                    lambda record: lifecycle.cancel(record, now, policy, None, actor=Actor.SYSTEM),
                )
            try:
                self._jobs.delete(job_id, ensure_deletable)
            except (NotTerminal, JobAlreadyRunning):
                return False
        return True


def _counted(read: Callable[[PageQuery], Page[Item]], found: Found) -> Iterator[Item]:
    for page in every_page(read, PageQuery(_PAGE)):
        found.unreadable += page.unreadable
        yield from page.items


def _tidy(pages: Iterator[Page[Record]]) -> None:
    # Reading a list takes off what is gone: jobs whose time has ended.
    for _ in pages:
        pass
