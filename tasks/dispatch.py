"""The worker's tasks: post a dispatch and settle it, ask the orchestrator about one, tell it of a cancel."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
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
from domain.record import Change, Decision, Record
from observability import tracing
from observability.logs import hashed
from observability.metrics import asks, dispatch_seconds
from orchestrators.base import Cancel, Dispatch, Outcome
from orchestrators.engine import Engine
from store.errors import DispatchingPaused, StoreContended, StoreUnavailable
from store.jobs import JobStore
from tasks.circuit_breaker import CircuitBreaker

log = structlog.get_logger("tasks")

Result = TypeVar("Result")
_STORE_RETRY_SECONDS = 0.2
_MAX_BEGIN_SECONDS = 5.0
PREVIOUS_RUN_ACTIVE = "previous_run_active"
# How soon a worker learns of a pause. It then leaves messages in their queues; what keeps a dispatch from being
# posted is the commit that begins it.
PAUSE_SEEN_SECONDS = 1.0
_PAUSES_BEFORE_ASKING_SECONDS = (0.0, 0.5, 1.0, 1.5)


class DispatchFailed(Exception):
    """The dispatch was not accepted. The message is one of our own reasons, which may be shown anywhere."""


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """What the tasks of a worker process work with. Its only state is that of the circuit breaker."""

    store: JobStore
    engine: Engine
    policy: DispatchPolicy
    callback_base: str
    breaker: CircuitBreaker
    now: Callable[[], datetime]

    def dispatch(self, token: FencingToken) -> str:
        """Post the dispatch of `token`, if its claim still waits to be posted, and settle it.

        Returns "accepted", "nothing_to_do", or "paused" with the message put back. Raises `DispatchFailed`
        with the reason, and the store's errors if nothing was sent.
        """
        # The exchange is timed from before the intent is stored, like its lease: a worker that is stopped in
        # between must not send when another may hold the claim.
        began = time.monotonic()
        try:
            begun = self._begin(token)
        except DispatchingPaused:
            with suppress(ResourceNotFound):
                self.store.update(token.job_id, lambda it: rules.put_back(self._change(it), token))
            # Until this worker has seen the pause it takes messages, and would take this one again and again.
            time.sleep(PAUSE_SEEN_SECONDS)
            return "paused"
        if begun is None or begun.claim is None:
            log.info("dispatch.nothing_to_do", **asdict(token))
            return "nothing_to_do"
        job, claim = begun.job, begun.claim
        claim_log = log.bind(**asdict(token), request=hashed(claim.correlation_id))
        claim_log.info("dispatch.sending")
        started = time.monotonic()
        if self._previous_run_is_active(begun, claim):
            outcome = Outcome(ClaimEvent.NOT_STARTED, PREVIOUS_RUN_ACTIVE)
        else:
            outcome = self.breaker.guard(lambda: self._start(job, claim, token, began))
        milliseconds = round((time.monotonic() - started) * 1000, 1)
        self._settle(token, outcome, begun)
        seconds = time.monotonic() - began
        dispatch_seconds.labels(outcome.reason or outcome.event.value).observe(seconds)
        claim_log.info(
            f"dispatch.{outcome.event}", http_status=outcome.http_status, milliseconds=milliseconds
        )
        if outcome.reason is not None:
            raise DispatchFailed(str(outcome.reason))
        return "accepted"

    def tell_cancelled(self, token: FencingToken) -> None:
        """Tell the orchestrator to stop a job that it may have received, and record the result."""
        record = self.store.load(token.job_id)
        claim = record.held_by(token) if record else None
        # Anyone who may write to the broker can forge a message or send one twice: only the record counts.
        if record is None or claim is None or not claim.cancel_due:
            log.warning("cancel.not_wanted", **asdict(token))
            return
        if not self.policy.can_cancel or claim.is_elsewhere(self.policy):
            return
        with tracing.span("cancel at the orchestrator", "CLIENT"):
            result = self.engine.cancel(self._dispatch_of(record.job, claim))
        # An engine without such a run may still receive it until the start is settled.
        is_absent = result is Cancel.NOT_FOUND and claim.phase is Phase.SENT
        is_done = is_absent or result in (Cancel.DONE, Cancel.REFUSED)
        with suppress(ResourceNotFound):  # another message did this before, and the job was deleted
            self.store.update(
                token.job_id,
                lambda it: lifecycle.cancel_notified(self._change(it), token, result, is_done),
            )
        log.info(f"cancel.{result}", **asdict(token))

    def ask(self, token: FencingToken) -> RunState | None:
        """Ask the orchestrator about a dispatch, apply the answer and return it; None if none is awaited."""
        asked = self.store.load(token.job_id)
        claim = asked.held_by(token) if asked else None
        # Without `asked_at` it was answered: the sweep sends a message again that waits long.
        is_awaited = claim is not None and claim.asked_at and claim.is_askable(self.policy)
        if asked is None or not is_awaited:
            log.info("ask.not_wanted", **asdict(token))
            return None
        with tracing.span("ask the orchestrator", "CLIENT"):
            state = self.engine.ask(token.dispatch_id).state
        policy = replace(self.policy, pause=self.store.pauses.latest())
        with suppress(ResourceNotFound):  # deleted meanwhile
            self.store.update(
                token.job_id,
                lambda it: reconcile.answered(Change(it, self.now(), policy), asked, state),
            )
        asks.labels(state).inc()
        log.info(f"ask.{state}", **asdict(token))
        return state

    def _start(self, job: Job, claim: Claim, token: FencingToken, began: float) -> Outcome:
        with tracing.span("POST orchestrator", "CLIENT"):
            try:
                dispatch = self._dispatch_of(job, claim)
                outcome = self.engine.start(dispatch, partial(self._still_wanted, token), began)
            except Exception:
                # Nothing was sent, and the claim must not look as if something had been.
                log.error("dispatch.not_built", exc_info=True)
                return Outcome(ClaimEvent.NOT_STARTED, ClaimEvent.NOT_STARTED)
            status = outcome.http_status
            tracing.note({"takeone.outcome": outcome.event, "http.response.status_code": status})
        return outcome

    def _dispatch_of(self, job: Job, claim: Claim) -> Dispatch:
        return Dispatch.of(job, claim, self.callback_base, self.now())

    def _previous_run_is_active(self, record: Record, claim: Claim) -> bool:
        """Whether the run before a retry is still active at the engine, although the job has failed here.

        It is asked several times, because a run that reports its failure itself ends a moment later.
        """
        if claim.kind is not DispatchKind.RETRY:
            return False
        past = record.job.past_claims
        # A released claim may have a run too: an operator may have released an accepted one, and a refusal
        # may have come from a gateway.
        previous = [item for item in past if item.phase is Phase.SENT][-1:]
        previous += [item for item in past if item.phase is Phase.RELEASED]
        active = [
            item.dispatch_id
            for item in previous
            if item.is_askable(self.policy) and item.dispatch_id != claim.dispatch_id
        ]
        for pause in _PAUSES_BEFORE_ASKING_SECONDS:
            time.sleep(pause)
            active = [one for one in active if self.engine.ask(one).state is RunState.RUNNING]
            if not active:
                return False
        return True

    def _begin(self, token: FencingToken) -> Record | None:
        """Write the intent to post; None if there is nothing to post.

        If the reply to the write was lost, the record is read: `sent_at` tells whether the write is ours.
        Giving up instead would leave a claim that looks sent although it never was.
        """
        now = self.now()

        def begin(is_retry: bool) -> Record | None:
            record = self.store.load(token.job_id) if is_retry else None
            claim = record.held_by(token) if record else None
            if claim is not None and claim.sent_at == now:
                return record
            decision = self.store.update(
                token.job_id, lambda it: rules.begin(Change(it, now, self.policy), token)
            )
            return decision.record if decision.result else None

        return _until_stored(_MAX_BEGIN_SECONDS, begin)

    def _change(self, record: Record) -> Change:
        return Change(record, self.now(), self.policy)

    def _still_wanted(self, token: FencingToken) -> bool:
        try:
            record = self.store.load(token.job_id)
        except StoreUnavailable:
            return False
        return record is not None and rules.still_wanted(record, token, self.now(), self.policy)

    def _settle(self, token: FencingToken, outcome: Outcome, begun: Record) -> None:
        """Record the outcome even if the store is unavailable for a while: it is known nowhere else.

        Gives up after the sending lease: the sweep has called it unknown by then, which is true too.
        """
        event, reason = outcome.event, outcome.reason
        http_status = outcome.http_status if event is ClaimEvent.REFUSED else None

        def rule(record: Record) -> Decision[None]:
            return rules.settle(self._change(record), token, event, reason, http_status)

        def settle(_: bool) -> None:
            self.store.update(token.job_id, rule, known=begun)

        _until_stored(self.policy.send_lease.total_seconds(), settle)


def _until_stored(seconds: float, step: Callable[[bool], Result]) -> Result | None:
    """Call `step` until the store is available, for at most `seconds`; None if the job is gone.

    The argument of `step` is whether it was called before, and so may have been carried out.
    """
    limit, is_retry = time.monotonic() + seconds, False
    while True:
        try:
            return step(is_retry)
        except ResourceNotFound:
            return None
        except (StoreUnavailable, StoreContended):
            if time.monotonic() >= limit:
                raise
            is_retry = True
            time.sleep(_STORE_RETRY_SECONDS)
