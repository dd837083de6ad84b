"""What an operator does to a dispatch: list what is open, and settle what no process can know."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import count

from domain.audit import AuditEvent
from domain.claim import ClaimEvent, DispatchPolicy, Phase, RunState
from domain.claim_rules import settle_by_operator
from domain.errors import JobAlreadyRunning, ResourceNotFound
from domain.job_fsm import JobStatus
from domain.reconcile import answered
from domain.record import Decision, Record
from store.errors import RecordUnreadable
from store.jobs import JobStore
from store.lists import Page, PageQuery
from store.views import JobViews, View

_PAGE = 200
_MOST_EVENTS = 1_000
_EVENTS = {"sent": ClaimEvent.SETTLED_SENT, "release": ClaimEvent.SETTLED_RELEASE}
SETTLEMENTS = tuple(_EVENTS)


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs are wanted; None: any. `reason`: see `reason_of`."""

    project_id: str | None = None
    owner: str | None = None
    reason: str | None = None

    def matches(self, record: Record) -> bool:
        """Whether the job is wanted."""
        job = record.job
        found = (job.project_id, job.owner, reason_of(record))
        wanted = (self.project_id, self.owner, self.reason)
        return all(each in (None, is_) for each, is_ in zip(wanted, found, strict=True))


EVERY_JOB = JobFilter()


def reason_of(record: Record) -> str | None:
    """Why an operator sees a job: its failure's code, else its dispatch's reason or its engine's word."""
    failure, claim = record.job.failure, record.shown_claim
    if failure is not None:
        return failure.code
    return claim.reason or claim.run_state if claim else None


class Operations:
    """The operator's use cases. Each raises `StoreError` where the store does not serve."""

    def __init__(
        self, jobs: JobStore, views: JobViews, policy: DispatchPolicy, now: Callable[[], datetime]
    ) -> None:
        self._jobs, self._views, self._policy, self._now = jobs, views, policy, now

    def page(
        self, view: View | JobStatus, query: PageQuery, wanted: JobFilter = EVERY_JOB
    ) -> Page[Record]:
        """A page of a view of all users' jobs, or of those in a state, oldest first."""
        if isinstance(view, View):
            return self._views.page(view, query, wanted.matches)
        return self._views.in_state(view, query, wanted.matches)

    def open_dispatches(self, *, unknown_only: bool = False) -> Iterator[Record]:
        """The records whose dispatch has an open outcome, those with an unknown one first."""
        index = self._jobs.index
        seen: set[str] = set()
        for read in [index.unknown] if unknown_only else [index.unknown, index.in_flight]:
            for job_id in _all_of(read):
                record = None if job_id in seen else self._readable(job_id)
                seen.add(job_id)
                # The index can be ahead of the claim, or behind it: what counts is the claim.
                claim = record.claim if record else None
                unknown = claim is not None and claim.phase is Phase.UNKNOWN
                if record and claim and claim.in_flight and (unknown or not unknown_only):
                    yield record

    def silent_jobs(self) -> Iterator[Record]:
        """The records whose next callback is overdue, the longest silent first."""
        for job_id in _all_of(self._jobs.index.silent):
            record = self._readable(job_id)
            if record is not None and record.job.silent_since is not None:
                yield record

    def unreadable(self) -> Iterator[str]:
        """The jobs with an open dispatch whose record this release cannot read."""
        index = self._jobs.index
        for job_id in {*_all_of(index.unknown), *_all_of(index.watched)}:
            try:
                self._jobs.load(job_id)
            except RecordUnreadable:
                yield job_id

    def _readable(self, job_id: str) -> Record | None:
        with suppress(RecordUnreadable):  # `takeone doctor` names it
            return self._jobs.load(job_id)
        return None

    def job(self, job_id: str) -> Record:
        """The record of any user's job. Raises `ResourceNotFound`."""
        record = self._jobs.load(job_id)
        if record is None:
            raise ResourceNotFound
        return record

    def history(self, job_id: str) -> tuple[Record, list[AuditEvent], int]:
        """Any user's job, the latest events of its trail, and how many came before them.

        Raises `ResourceNotFound`.
        """
        return self.job(job_id), *self._jobs.latest_events(job_id, _MOST_EVENTS)

    def settle(
        self, job_id: str, settlement: str, reason: str, ask: Callable[[str], RunState]
    ) -> Decision[None]:
        """Settle a dispatch as `sent` or `release`; nothing changes if there is nothing to settle.

        Before a release, `ask` asks the orchestrator about the dispatch, where it can be asked and the settings
        name it: a dispatch that it has is settled as such. Raises `JobAlreadyRunning` while it runs there, and
        `ResourceNotFound`.
        """
        event = _EVENTS[settlement]
        if event is ClaimEvent.SETTLED_RELEASE:
            self._ensure_not_running(job_id, ask)
        now = self._now()
        return self._jobs.update(
            job_id, lambda record: settle_by_operator(record, event, reason, now, self._policy)
        )

    def _ensure_not_running(self, job_id: str, ask: Callable[[str], RunState]) -> None:
        asked, policy = self.job(job_id), self._policy
        claim = asked.claim
        if claim is None or not claim.is_askable(policy) or not policy.engine:
            return
        state = ask(claim.dispatch_id)
        found = self._jobs.update(
            job_id, lambda record: answered(record, asked, state, self._now(), policy)
        )
        if state is RunState.RUNNING:
            raise JobAlreadyRunning(found.record.job.status)


def _all_of(read: Callable[[int, int], list[str]]) -> Iterator[str]:
    for start in count(0, _PAGE):
        page = read(start, _PAGE)
        yield from page
        if len(page) < _PAGE:
            return
