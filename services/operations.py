"""What operators do: list all users' jobs that are open, silent or failed, and act on them.

Each act has an operator's name, which only operators are shown, and a reason, which the owner is shown too.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from domain import errors, lifecycle
from domain.audit import AuditEvent, OperatorAct
from domain.claim import ClaimEvent, DispatchPolicy, Phase, RunState
from domain.claim_rules import settle_by_operator
from domain.job_fsm import JobStatus, ensure_transition
from domain.pause import Pause
from domain.reconcile import NO_ANSWER, ask_by_operator, engine_answer, has_answered
from domain.record import Change, Decision, Record
from domain.retry import decide_retry, operator_request_id
from domain.run import DispatchResult
from services.run_and_wait import RunAndWait, watch
from services.wait_slots import Wait
from store import keys
from store.errors import QueueUnavailable, RecordUnreadable, StoreError, StoreUnavailable
from store.indexes import View
from store.jobs import JobStore
from store.lists import LISTED_STATES, JobFilter, Page, PageQuery, every_page
from store.projects import ProjectStore

_PAGE = 200
_MOST_EVENTS = 1_000
SETTLEMENTS = {"sent": ClaimEvent.SETTLED_SENT, "release": ClaimEvent.SETTLED_RELEASE}


@dataclass(frozen=True, slots=True)
class Asked:
    """A job after its engine was asked, and the answer; None if the run reported by itself meanwhile."""

    record: Record
    state: RunState | None


@dataclass(frozen=True, slots=True)
class Retried:
    """The result of one job of a bulk retry: a dispatch, or the error that refused it."""

    job_id: str
    result: DispatchResult | None = None
    error: errors.TakeOneError | None = None


@dataclass(frozen=True, slots=True)
class Operations:
    """The operators' use cases. Each raises `StoreError` if the store fails."""

    store: JobStore
    projects: ProjectStore
    runs: RunAndWait
    wait_seconds: float
    policy: DispatchPolicy
    now: Callable[[], datetime]

    def every(self, view: View | JobStatus, before: datetime | None = None) -> Iterator[Record]:
        """All jobs of a view or state that have been in it since `before`."""
        read = partial(self.projects.jobs_in_view, view)
        for page in every_page(read, PageQuery(_PAGE, before=before)):
            yield from page.items

    def jobs(
        self, status: JobStatus | None, owner: str | None, before: datetime
    ) -> Iterator[Record]:
        """The jobs of one user, or of all, that have been in their state since `before`.

        Those of all users come state by state, oldest first, without the ones in DONE or CANCELLED.
        """
        if owner is None:
            for listed in LISTED_STATES if status is None else (status,):
                yield from self.every(listed, before)
            return
        of_owner = partial(self.projects.jobs_of_user, owner, wanted=JobFilter(status=status))
        for page in every_page(of_owner, PageQuery(_PAGE)):
            yield from (record for record in page.items if record.job.in_state_since <= before)

    def open_dispatches(self) -> Iterator[Record]:
        """The jobs whose dispatch has an open outcome, those with an unknown one first."""
        yield from self.every(View.UNKNOWN)
        for record in self.every(View.IN_FLIGHT):
            if record.claim and record.claim.phase is not Phase.UNKNOWN:
                yield record

    def unreadable(self) -> Iterator[str]:
        """The jobs with an open dispatch whose record this release cannot read."""
        listed = self.store.due_index.listed
        for job_id in {*listed(keys.UNKNOWN), *listed(keys.DUE)}:
            try:
                self.store.load(job_id)
            except RecordUnreadable:
                yield job_id

    def history(self, job_id: str) -> tuple[Record, list[AuditEvent], int]:
        """Any user's job, the latest events of its trail, and how many came before them.

        Raises `ResourceNotFound`.
        """
        record = self.store.get(job_id)
        events, _, length = self.store.trail(job_id, -_MOST_EVENTS, _MOST_EVENTS)
        return record, events, max(0, length - _MOST_EVENTS)

    def ask(self, job_id: str, act: OperatorAct, correlation_id: str | None = None) -> Asked:
        """Have a worker ask the orchestrator about the job's dispatch, and wait for the result.

        Joins an ask that is under way. Raises `ResourceNotFound`, `CannotBeAsked`, `NoWaitSlot`, and
        `OrchestratorDispatchFailed` if there is no answer within `wait_seconds`.
        """
        deadline = time.monotonic() + self.wait_seconds
        change = self._change(act, correlation_id)
        with self.runs.waiting(Wait.DISPATCH, job_id, act.operator) as subscription:
            asked = self.store.update(job_id, lambda it: ask_by_operator(change(it))).result
            record = watch(
                subscription,
                partial(self.store.get, job_id),
                lambda record: has_answered(record, asked),
                deadline,
            )
        if has_answered(record, asked):
            return Asked(record, engine_answer(record, asked))
        raise errors.OrchestratorDispatchFailed(RunState.NO_ANSWER, message=NO_ANSWER)

    def settle(self, job_id: str, settlement: str, act: OperatorAct) -> Record:
        """Settle a dispatch as `sent` or `release`.

        Before a release, the orchestrator is asked if it can be: a dispatch that it has is settled as sent.
        Raises `JobAlreadyRunning` while it runs there, `NothingToSettle`, and `ResourceNotFound`.
        """
        event, change = SETTLEMENTS[settlement], self._change(act, None)
        seen = self.store.get(job_id)
        if event is ClaimEvent.SETTLED_RELEASE:
            asked = self._ask_if_possible(job_id, act)
            if asked is not None and asked.state is RunState.RUNNING:
                raise errors.JobAlreadyRunning(asked.record.job.status)

        def rule(record: Record) -> Decision[None]:
            # The operator did not mean a dispatch that was begun while the orchestrator was asked.
            if seen.claim is None or record.held_by(seen.token) is None:
                return Decision(None, record)
            return settle_by_operator(change(record), event)

        settled = self.store.update(job_id, rule)
        if not settled.changed:
            raise errors.NothingToSettle
        return settled.record

    def cancel(self, job_id: str, act: OperatorAct, correlation_id: str | None = None) -> Record:
        """Cancel any user's job. Raises `FsmTerminalImmutable` and `ResourceNotFound`."""
        change = self._change(act, correlation_id)
        return self._stop(job_id, lambda record: lifecycle.cancel(change(record)))

    def fail(self, job_id: str, act: OperatorAct, correlation_id: str | None = None) -> Record:
        """Fail any user's job, so that it can be retried, after asking the orchestrator if that is possible.

        Raises `FsmTerminalImmutable`, `FsmTransitionInvalid`, `JobAlreadyRunning` if another dispatch was begun
        meanwhile, and `ResourceNotFound`.
        """
        seen, change = self.store.get(job_id), self._change(act, correlation_id)
        ensure_transition(seen.job.status, JobStatus.FAILED)
        self._ask_if_possible(job_id, act)

        def rule(record: Record) -> Decision[None]:
            # The operator did not mean a run that was begun while the orchestrator was asked.
            if record.next_epoch != seen.next_epoch:
                raise errors.JobAlreadyRunning(record.job.status)
            return lifecycle.fail(change(record))

        return self._stop(job_id, rule)

    def _change(self, act: OperatorAct, correlation_id: str | None) -> Callable[[Record], Change]:
        return lambda record: Change(record, self.now(), self.policy, correlation_id, act)

    def _stop(self, job_id: str, rule: Callable[[Record], Decision[None]]) -> Record:
        try:
            return self.store.update(job_id, rule).record
        except QueueUnavailable:
            # The job is stopped, and the sweep has the orchestrator told.
            return self.store.get(job_id)

    def _ask_if_possible(self, job_id: str, act: OperatorAct) -> Asked | None:
        # Without an answer, the operator's word counts.
        with suppress(errors.CannotBeAsked, errors.OrchestratorDispatchFailed):
            return self.ask(job_id, act)
        return None

    def retry_failed(
        self,
        query: PageQuery,
        wanted: JobFilter,
        model_profile: str,
        act: OperatorAct,
        *,
        correlation_id: str | None = None,
        dry_run: bool = False,
    ) -> Page[Retried]:
        """Start the failed jobs of a page again, without waiting for the dispatches. A repeat replays.

        `dry_run`: only decide. Once the store or the broker is away, the rest is refused untried.
        """
        change = self._change(act, correlation_id)

        def rule(record: Record) -> Decision[DispatchResult]:
            return decide_retry(change(record), operator_request_id(record), model_profile)

        page = self.projects.jobs_in_view(View.FAILED, query, wanted)
        job_ids = [record.job.id for record in page.items]
        retried = {job_id: Retried(job_id, error=errors.ServiceUnavailable()) for job_id in job_ids}
        for job_id in job_ids:
            try:
                record = self.store.get(job_id)
                decision = rule(record) if dry_run else self.runs.commit(job_id, None, rule, record)
            except (StoreUnavailable, errors.ServiceUnavailable):
                break  # each of the others would take as long to fail
            except errors.TakeOneError as error:
                retried[job_id] = Retried(job_id, error=error)
            except StoreError:  # of this job alone
                continue
            else:
                retried[job_id] = Retried(job_id, decision.result)
        return Page([*retried.values()], page.next_cursor)

    def pause(self, act: OperatorAct) -> Pause:
        """Pause dispatching; return the pause that is on, which is an earlier one if there was one."""
        return self.store.pauses.begin(act.operator, act.reason or "", self.now())

    def resume(self, act: OperatorAct) -> Pause | None:
        """Resume dispatching; return the pause that this ended, None if none was on."""
        return self.store.pauses.end(act.operator, self.now(), act.reason)
