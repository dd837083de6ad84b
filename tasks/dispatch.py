"""What a worker does with a message: begin, start, settle; ask the orchestrator; tell it of a cancel."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TypeVar

import structlog

from domain import claim_rules as rules
from domain import lifecycle, reconcile
from domain.claim import (
    Claim,
    ClaimEvent,
    DispatchKind,
    DispatchPolicy,
    FencingToken,
    Phase,
    RunState,
)
from domain.errors import ResourceNotFound
from domain.job import Job
from domain.job_fsm import JobStatus
from domain.record import Decision, Record
from observability import tracing
from observability.logs import hashed
from observability.metrics import asks, dispatch_seconds
from orchestrators.base import Cancel, Dispatch, Outcome
from orchestrators.engine import Engine
from orchestrators.payload import payload
from store.errors import DispatchingPaused, StoreContended, StoreUnavailable
from store.jobs import JobStore
from tasks.circuit_breaker import CircuitBreaker
from tasks.pause_watch import PAUSE_SEEN_SECONDS

log = structlog.get_logger("tasks")

Result = TypeVar("Result")
_RETRY_STORE_SECONDS = 0.2
_MOST_BEGIN_SECONDS = 5.0
PREVIOUS_RUN_ACTIVE = "previous_run_active"
_LOOK_AGAIN_SECONDS = (0.0, 0.5, 1.0, 1.5)


class DispatchFailed(Exception):
    """The dispatch did not come to stand. Its text is a reason of ours, fit to be shown anywhere."""


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """One a worker process: everything a dispatch needs. Its only state is the circuit breaker's."""

    store: JobStore
    engine: Engine
    policy: DispatchPolicy
    callback_base: str
    breaker: CircuitBreaker
    now: Callable[[], datetime]

    def dispatch(self, token: FencingToken) -> str:
        """Post the dispatch that `token` holds, if it is this worker's to post, and settle it.

        Returns "accepted", "nothing_to_do", or "paused" with its message put back. Raises `DispatchFailed`
        with the reason, and the store's errors before anything was sent.
        """
        # The time for the whole exchange runs from before the intent is stored, like its lease: a worker
        # that was stopped in between must not send when another may already hold the claim.
        began = time.monotonic()
        try:
            begun = self._begin(token)
        except DispatchingPaused:
            with suppress(ResourceNotFound):
                self.store.update(token.job_id, lambda record: rules.put_back(record, token))
            # This worker goes on fetching until it has seen the pause: it must not go round and round.
            time.sleep(PAUSE_SEEN_SECONDS)
            return "paused"
        if begun is None or begun.claim is None:
            log.info("dispatch.nothing_to_do", **_ids(token))
            return "nothing_to_do"
        job, claim = begun.job, begun.claim
        bound = log.bind(**_ids(token), request=hashed(claim.correlation_id))
        bound.info("dispatch.sending")
        started = time.monotonic()
        if self._previous_run_is_active(begun, claim):
            outcome = Outcome(ClaimEvent.NOT_STARTED, PREVIOUS_RUN_ACTIVE)
        else:
            outcome = self.breaker.guard(lambda: self._start(job, claim, token, began))
        milliseconds = round((time.monotonic() - started) * 1000, 1)
        self._settle(token, outcome, begun)
        seconds = time.monotonic() - began
        dispatch_seconds.labels(outcome.reason or outcome.event.value).observe(seconds)
        event, http_status = f"dispatch.{outcome.event.value}", outcome.http_status
        bound.info(event, http_status=http_status, milliseconds=milliseconds)
        if outcome.reason is not None:
            raise DispatchFailed(str(outcome.reason))
        return "accepted"

    def tell_cancelled(self, token: FencingToken) -> None:
        """Tell the orchestrator to stop a job which it may have received; note the result."""
        record = self.store.load(token.job_id)
        claim = record.shown_claim if record else None
        if record is None or claim is None or not self.policy.can_cancel:
            return
        # A message can be forged by anyone who may write to the broker: only the record counts.
        is_failed = record.job.status is JobStatus.FAILED and claim.cancel_due
        is_ended = record.job.status is JobStatus.CANCELLED or is_failed
        if not is_ended or not claim.holds(token):
            log.warning("cancel.not_wanted", **_ids(token))
            return
        if claim.is_elsewhere(self.policy):
            return
        with tracing.span("cancel at the orchestrator", "CLIENT"):
            result = self.engine.cancel(self._dispatch_of(record.job, claim))
        # An engine that has no such run may still get it, as long as the start is not settled.
        is_final = result is Cancel.NOT_FOUND and claim.phase is Phase.SENT
        is_told = is_final or result in (Cancel.DONE, Cancel.REFUSED)
        with suppress(ResourceNotFound):  # deleted since: it was told before, or erased by force
            self.store.update(
                token.job_id,
                lambda record: lifecycle.cancel_notified(
                    record, token, result, is_told, self.now()
                ),
            )
        log.info(f"cancel.{result}", **_ids(token))

    def ask(self, token: FencingToken) -> RunState | None:
        """Ask the orchestrator about a dispatch, and do what follows from its answer; None: nothing to ask.

        Raises the store's errors.
        """
        asked = self.store.load(token.job_id)
        claim = asked.held_by(token) if asked else None
        if asked is None or claim is None or not claim.is_askable(self.policy):
            return None
        with tracing.span("ask the orchestrator", "CLIENT"):
            state = self.engine.ask(token.dispatch_id).state
        policy = replace(self.policy, pause=self.store.pauses.latest())
        with suppress(ResourceNotFound):  # it came to rest, and was deleted since
            self.store.update(
                token.job_id,
                lambda record: reconcile.answered(record, asked, state, self.now(), policy),
            )
        asks.labels(state).inc()
        log.info(f"ask.{state}", **_ids(token))
        return state

    def _start(self, job: Job, claim: Claim, token: FencingToken, began: float) -> Outcome:
        with tracing.span("POST orchestrator", "CLIENT"):
            try:
                dispatch = self._dispatch_of(job, claim)
                outcome = self.engine.start(dispatch, partial(self._still_wanted, token), began)
            except Exception:
                # Nothing was sent: the claim must not be left as if something had been.
                log.error("dispatch.not_built", exc_info=True)
                return Outcome(ClaimEvent.NOT_STARTED, ClaimEvent.NOT_STARTED)
            tracing.note({"takeone.outcome": outcome.event.value})
            if outcome.http_status is not None:
                tracing.note({"http.response.status_code": outcome.http_status})
        return outcome

    def _dispatch_of(self, job: Job, claim: Claim) -> Dispatch:
        fields = payload(job, claim, self.callback_base)
        return Dispatch(claim.dispatch_id, fields, self.now(), claim.execution_id)

    def _previous_run_is_active(self, record: Record, claim: Claim) -> bool:
        """Whether the run before a retry still works there, although the job counts as failed here.

        A run that reports its failure itself ends a moment later.
        """
        if claim.kind is not DispatchKind.RETRY:
            return False
        past = record.job.past_claims
        # An operator may have released one that was accepted, and a refusal may have been no engine's.
        last_sent = [each for each in past if each.phase is Phase.SENT][-1:]
        before = [*last_sent, *(each for each in past if each.phase is Phase.RELEASED)]
        active = [
            each.dispatch_id
            for each in before
            if each.is_askable(self.policy) and each.dispatch_id != claim.dispatch_id
        ]
        for pause in _LOOK_AGAIN_SECONDS:
            time.sleep(pause)
            active = [each for each in active if self.engine.ask(each).state is RunState.RUNNING]
            if not active:
                return False
        return True

    def _begin(self, token: FencingToken) -> Record | None:
        """Write the intent to post; None if there is nothing to post.

        A write whose reply was lost is read back: this attempt's own time marks it as ours. Giving up
        instead would leave a claim that looks sent although it never was.
        """
        moment = self.now()

        def begin(is_again: bool) -> Record | None:
            record = self.store.load(token.job_id) if is_again else None
            is_ours = record and record.claim and record.claim.sent_at == moment
            if record and is_ours and rules.still_wanted(record, token, moment, self.policy):
                return record
            decision = self.store.update(
                token.job_id, lambda record: rules.begin(record, token, moment, self.policy)
            )
            return decision.record if decision.result else None

        return _in_the_end(_MOST_BEGIN_SECONDS, begin)

    def _still_wanted(self, token: FencingToken) -> bool:
        try:
            record = self.store.load(token.job_id)
        except StoreUnavailable:
            return False
        return record is not None and rules.still_wanted(record, token, self.now(), self.policy)

    def _settle(self, token: FencingToken, outcome: Outcome, begun: Record) -> None:
        """Record the outcome, however long the store is away: it is known nowhere else.

        Gives up after the sending lease: the sweep has then called it unknown, which is true as well.
        """

        def rule(record: Record) -> Decision[None]:
            return rules.settle(
                record,
                token,
                outcome.event,
                outcome.reason,
                self.now(),
                self.policy,
                outcome.http_status if outcome.event is ClaimEvent.REFUSED else None,
            )

        def settle(is_again: bool) -> None:
            self.store.update(token.job_id, rule, known=None if is_again else begun)

        _in_the_end(self.policy.send_lease.total_seconds(), settle)


def _in_the_end(seconds: float, step: Callable[[bool], Result]) -> Result | None:
    """Take a step until the store takes it, for so many seconds; None for a job that is gone.

    The step is told whether it was tried before: then it may have been carried out.
    """
    limit, is_again = time.monotonic() + seconds, False
    while True:
        try:
            return step(is_again)
        except ResourceNotFound:
            return None
        except (StoreUnavailable, StoreContended):
            if time.monotonic() >= limit:
                raise
            is_again = True
            time.sleep(_RETRY_STORE_SECONDS)


def _ids(token: FencingToken) -> dict[str, str | int]:
    return {"job_id": token.job_id, "dispatch_id": token.dispatch_id, "epoch": token.epoch}
