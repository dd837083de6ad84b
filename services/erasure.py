"""Export and erasure of all that is kept of a user, a project or a job.

While a user or a project is erased, nothing can be created for them. An erasure repeats until a pass finds
nothing, so it also gets what was created meanwhile. If it dies, the same command continues it.
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
from domain.errors import FsmTerminalImmutable, JobAlreadyRunning, NotTerminal, ResourceNotFound
from domain.job import Project
from domain.record import Change, Decision, Record
from store.errors import QueueUnavailable, StoreUnavailable
from store.idempotency import IdempotencyKeys
from store.jobs import JobStore
from store.lists import Page, PageQuery, every_page
from store.projects import ProjectStore

Item = TypeVar("Item")
OnOrphan = Callable[[Record], None]

_PAGE = 200
_PAUSE_SECONDS = 0.5
# How long a dead erasure still blocks creation. Each pass starts this time again; what is created during a
# longer pass is found by the next one.
_BLOCKED_SECONDS = 600
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Selection:
    """Exactly one is given: all of a user's projects and jobs, a project with its jobs, or one job."""

    user: str | None = None
    project_id: str | None = None
    job_id: str | None = None


@dataclass(slots=True)
class Found:
    """What was found or erased. `left` are the jobs that are not at rest, and so not erased.

    `unreadable` counts the records that this release cannot read, `keys` the idempotency keys that were
    forgotten. `is_complete`: the last pass of an erasure found nothing.
    """

    jobs: int = 0
    projects: int = 0
    keys: int = 0
    left: list[Record] = field(default_factory=list)
    unreadable: int = 0
    is_complete: bool = False


@dataclass(frozen=True, slots=True)
class Erasure:
    """The use cases. Each raises `StoreError` if the store fails."""

    job_store: JobStore
    project_store: ProjectStore
    idempotency_keys: IdempotencyKeys
    policy: DispatchPolicy
    now: Callable[[], datetime]

    def look(self, selection: Selection) -> Found:
        """Count what is selected. Raises `ResourceNotFound` for a job that does not exist."""
        found = Found()
        found.projects = sum(1 for _ in self.projects(selection, found))
        for record in self.records(selection, found):
            found.jobs += 1
            if not lifecycle.is_at_rest(record):
                found.left.append(record)
        return found

    def projects(self, selection: Selection, found: Found) -> Iterator[Project]:
        """The selected projects. Counts in `found` those that cannot be read."""
        if selection.user is not None:
            yield from _counted(partial(self.project_store.of_user, selection.user), found)
        elif selection.project_id is not None:
            project = self.project_store.load(selection.project_id)
            if project is not None:
                yield project

    def records(self, selection: Selection, found: Found) -> Iterator[Record]:
        """The selected jobs. Counts in `found` those that cannot be read. Raises as `look` does."""
        if selection.user is not None:
            yield from _counted(partial(self.project_store.jobs_of_user, selection.user), found)
        elif selection.project_id is not None:
            yield from _counted(partial(self.project_store.jobs, selection.project_id), found)
        elif selection.job_id is not None:
            yield self.job_store.get(selection.job_id)

    def trail(self, job_id: str) -> Iterator[AuditEvent]:
        """All events of a job's trail that this release knows."""
        position, end = 0, 1
        while position < end:
            events, position, end = self.job_store.trail(job_id, position, _PAGE)
            yield from events

    def erase(
        self, selection: Selection, wait_seconds: float, on_orphan: OnOrphan | None = None
    ) -> Found:
        """Cancel the jobs that are not at rest, and delete those that are, until none is found.

        Waits `wait_seconds` for jobs to come to rest: the orchestrator must learn of a cancel, or an open
        outcome be settled. The others are left or, if `on_orphan` is given, deleted after it was called with
        them. A project is deleted once it has no job; with a user, their idempotency keys are forgotten too.
        """
        done, deadline = Found(), time.monotonic() + wait_seconds
        erased, forced = -1, None
        try:
            while True:
                self._block_creation(selection)
                done.is_complete = not self._erase_found(selection, done, forced)
                is_stuck = done.jobs + done.projects == erased
                is_over = is_stuck and time.monotonic() >= deadline
                if done.is_complete or (is_over and forced is on_orphan):
                    break
                if is_over:
                    forced = on_orphan
                time.sleep(_PAUSE_SECONDS if is_stuck else 0)
                erased = done.jobs + done.projects
            if selection.user is not None:
                done.keys = self.idempotency_keys.forget(selection.user)
                by_change = PageQuery(_PAGE, after=_EPOCH)
                _tidy(partial(self.project_store.jobs_of_user, selection.user), by_change)
            return done
        finally:
            if selection.job_id is None:
                self.project_store.end_erasure(selection.user, selection.project_id)

    def _block_creation(self, selection: Selection) -> None:
        # A full Redis takes no mark, but nothing new either. Once there is room, the next pass sets it.
        with suppress(StoreUnavailable):
            if selection.job_id is None:
                user, project_id = selection.user, selection.project_id
                self.project_store.begin_erasure(user, project_id, _BLOCKED_SECONDS)

    def _erase_found(self, selection: Selection, done: Found, on_orphan: OnOrphan | None) -> bool:
        """Do one pass; whether it found anything."""
        done.left, done.unreadable, is_found = [], 0, False
        with suppress(ResourceNotFound):
            for record in self.records(selection, done):
                is_found = True
                if self._erase_job(record.job.id, on_orphan):
                    done.jobs += 1
                else:
                    done.left.append(self.job_store.load(record.job.id) or record)
        for project in self.projects(selection, done):
            is_found = True
            _tidy(partial(self.project_store.jobs, project.id), PageQuery(_PAGE))
            done.projects += self.project_store.delete(project)
        return is_found

    def _erase_job(self, job_id: str, on_orphan: OnOrphan | None) -> bool:
        """Cancel and delete a job; whether it is gone."""

        def delete(record: Record) -> Decision[None]:
            if on_orphan is not None and not lifecycle.is_at_rest(record):
                on_orphan(record)
            return lifecycle.delete(record, forced=on_orphan is not None)

        now, policy = self.now(), self.policy
        with suppress(ResourceNotFound):
            # Without a queue, the sweep sends the message of the cancel. A full Redis may refuse the cancel.
            with suppress(FsmTerminalImmutable, QueueUnavailable, StoreUnavailable):
                self.job_store.update(
                    job_id, lambda it: lifecycle.cancel(Change(it, now, policy), Actor.SYSTEM)
                )
            try:
                self.job_store.update(job_id, delete)
            except (NotTerminal, JobAlreadyRunning):
                return False
        return True


def _counted(read: Callable[[PageQuery], Page[Item]], found: Found) -> Iterator[Item]:
    for page in every_page(read, PageQuery(_PAGE)):
        found.unreadable += page.unreadable
        yield from page.items


def _tidy(read: Callable[[PageQuery], Page[Record]], query: PageQuery) -> None:
    # Reading a list removes the entries of jobs that have expired.
    for _ in every_page(read, query):
        pass
