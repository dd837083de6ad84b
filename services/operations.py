"""What an operator does to a dispatch: list what is open, and settle what no process can know."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime

from domain.claim import ClaimEvent, DispatchPolicy, Phase, RunState
from domain.claim_rules import settle_by_operator
from domain.errors import JobAlreadyRunning, ResourceNotFound
from domain.reconcile import answered
from domain.record import Decision, Record
from store import keys
from store.errors import RecordUnreadable
from store.jobs import JobStore

_EVENTS = {"sent": ClaimEvent.SETTLED_SENT, "release": ClaimEvent.SETTLED_RELEASE}
SETTLEMENTS = tuple(_EVENTS)


class Operations:
    """The operator's use cases. Each raises `StoreError` where the store does not serve."""

    def __init__(self, jobs: JobStore, policy: DispatchPolicy, now: Callable[[], datetime]) -> None:
        self._jobs, self._policy, self._now = jobs, policy, now

    def open_dispatches(self, *, unknown_only: bool = False) -> Iterator[Record]:
        """The records whose dispatch has an open outcome, those with an unknown one first."""
        seen: set[str] = set()
        for index in [keys.UNKNOWN] if unknown_only else [keys.UNKNOWN, keys.IN_FLIGHT]:
            for job_id in self._jobs.index.listed(index):
                record = None if job_id in seen else self._readable(job_id)
                seen.add(job_id)
                # The index can be ahead of the claim, or behind it: what counts is the claim.
                claim = record.claim if record else None
                unknown = claim is not None and claim.phase is Phase.UNKNOWN
                if record and claim and claim.in_flight and (unknown or not unknown_only):
                    yield record

    def silent_jobs(self) -> Iterator[Record]:
        """The records whose next callback is overdue, the longest silent first."""
        for job_id in self._jobs.index.listed(keys.SILENT):
            record = self._readable(job_id)
            if record is not None and record.job.silent_since is not None:
                yield record

    def unreadable(self) -> Iterator[str]:
        """The jobs with an open dispatch whose record this release cannot read."""
        listed = self._jobs.index.listed
        for job_id in {*listed(keys.UNKNOWN), *listed(keys.DUE)}:
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
