"""What a worker does with a message: begin, post, settle. And what it does about a cancel."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import orjson
import structlog

import tracing
from domain import dispatch_steps as steps
from domain import lifecycle
from domain.change import Change, Record
from domain.claim import Claim, DispatchKind, DispatchPolicy
from domain.dispatch_steps import Token
from domain.models import Job
from logs import hashed
from metrics import dispatch_seconds
from runtime import utc_now
from signatures import Signer
from store.errors import StoreContended, StoreUnavailable
from store.jobs import JobStore
from store.snapshot import Snapshot
from tasks.breaker import CircuitBreaker
from tasks.orchestrator import OrchestratorClient, PostOutcome

log = structlog.get_logger("tasks")

_RETRY_STORE_SECONDS = 0.2
_MOST_BEGIN_SECONDS = 5.0


class DispatchFailed(Exception):
    """The dispatch did not come to stand. Its text is a reason of ours, fit to be shown anywhere."""


@contextmanager
def failing_safely() -> Iterator[None]:
    """Let a task fail with `DispatchFailed` only.

    Its events show what it failed with to onlookers, and the text of any other exception may quote a URL,
    a header or a stored record.
    """
    try:
        yield
    except DispatchFailed:
        raise
    except Exception as error:
        log.error("task.failed", exc_info=True)
        raise DispatchFailed(type(error).__name__) from None


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """One a worker process: everything a dispatch needs. Its only state is the circuit breaker's."""

    store: JobStore
    client: OrchestratorClient
    policy: DispatchPolicy
    url: str
    cancel_url: str
    callback_base: str
    breaker: CircuitBreaker
    signer: Signer
    now: Callable[[], datetime] = utc_now

    def dispatch(self, token: Token) -> str:
        """Post the dispatch that `token` holds, if it is this worker's to post, and settle it.

        Returns "accepted" or "nothing_to_do". Raises `DispatchFailed` with the reason, and
        `StoreUnavailable` before anything was sent.
        """
        # The time for the whole exchange runs from before the intent is stored, like its lease: a worker
        # that was stopped in between must not send when another may already hold the claim.
        began = time.monotonic()
        begun = self._begin(token)
        if begun is None or begun.record.claim is None:
            log.info("dispatch.nothing_to_do", **_ids(token))
            return "nothing_to_do"
        job, claim = begun.record.job, begun.record.claim
        correlation = hashed(claim.correlation_id)
        log.info("dispatch.sending", **_ids(token), request=correlation)
        started = time.monotonic()
        outcome = self.breaker.guard(
            lambda: self._post(
                self.url,
                token.dispatch_id,
                orjson.dumps(payload(job, claim, self.callback_base)),
                lambda: self._still_wanted(token),
                began,
            )
        )
        milliseconds = round((time.monotonic() - started) * 1000, 1)
        self._settle(token, outcome, begun)
        dispatch_seconds[outcome.reason or outcome.event.value,].observe(time.monotonic() - began)
        log.info(
            f"dispatch.{outcome.event.value}",
            **_ids(token),
            request=correlation,
            http_status=outcome.http_status,
            milliseconds=milliseconds,
        )
        if outcome.reason is not None:
            raise DispatchFailed(str(outcome.reason))
        return "accepted"

    def tell_cancelled(self, token: Token) -> None:
        """Tell the orchestrator that a job which it may have received is cancelled; note the result."""
        snapshot = self.store.load(token.job_id)
        if snapshot is None or not self.cancel_url:
            return
        claim = snapshot.record.shown_claim
        told = {"job_id": token.job_id, "dispatch_id": token.dispatch_id}
        if claim is not None and claim.execution_id is not None:
            told["execution_id"] = claim.execution_id
        key = f"cancel-{token.dispatch_id}"
        outcome = self._post(self.cancel_url, key, orjson.dumps(told), lambda: True)
        came_of_it = outcome.event.value
        self.store.apply(
            token.job_id,
            lambda record: lifecycle.cancel_notified(record, came_of_it, self.now()),
        )
        log.info(f"cancel.{came_of_it}", **_ids(token), http_status=outcome.http_status)

    def _post(
        self,
        url: str,
        key: str,
        body: bytes,
        still_wanted: Callable[[], bool],
        began: float | None = None,
    ) -> PostOutcome:
        headers = {"Idempotency-Key": key, **self.signer.headers(key, body, self.now())}
        with tracing.span("POST orchestrator", "CLIENT"):
            headers |= tracing.headers()
            outcome = self.client.post(url, body, headers, still_wanted, began)
            tracing.note({"takeone.outcome": outcome.event.value})
            if outcome.http_status is not None:
                tracing.note({"http.response.status_code": outcome.http_status})
        return outcome

    def _begin(self, token: Token) -> Snapshot | None:
        """Write the intent to post; None if there is nothing to post.

        A write whose reply was lost is read back: this attempt's own moment marks it as ours. Giving up
        instead would leave a claim that looks sent although it never was.
        """
        moment = self.now()
        limit = time.monotonic() + _MOST_BEGIN_SECONDS
        doubtful = False
        while True:
            try:
                if doubtful:
                    mine = self._begun_at(token, moment)
                    if mine is not None:
                        return mine
                return self.store.apply(
                    token.job_id, lambda record: steps.begin(record, token, moment, self.policy)
                )
            except StoreUnavailable:
                doubtful = True
                if time.monotonic() >= limit:
                    raise
                time.sleep(_RETRY_STORE_SECONDS)

    def _begun_at(self, token: Token, moment: datetime) -> Snapshot | None:
        snapshot = self.store.load(token.job_id)
        if snapshot is None or not steps.still_wanted(snapshot.record, token):
            return None
        claim = snapshot.record.claim
        return snapshot if claim and claim.sent_at == moment else None

    def _still_wanted(self, token: Token) -> bool:
        try:
            snapshot = self.store.load(token.job_id)
        except StoreUnavailable:
            return False
        return snapshot is not None and steps.still_wanted(snapshot.record, token)

    def _settle(self, token: Token, outcome: PostOutcome, begun: Snapshot) -> None:
        """Record the outcome, however long the store is away: nobody else knows it.

        Gives up after the sending lease: the sweep has then called it unknown, which is true as well.
        """
        limit = time.monotonic() + self.policy.send_lease.total_seconds()
        known: Snapshot | None = begun

        def rule(record: Record) -> Change | None:
            event, reason = outcome.event, outcome.reason
            return steps.settle(record, token, event, reason, self.now(), self.policy)

        while True:
            try:
                self.store.apply(token.job_id, rule, known)
                return
            except (StoreUnavailable, StoreContended):
                known = None
                if time.monotonic() >= limit:
                    raise
                time.sleep(_RETRY_STORE_SECONDS)


def payload(job: Job, claim: Claim, callback_base: str) -> dict[str, str | None]:
    """What the orchestrator is sent: the contract's four fields, and for a retry where to go on."""
    fields: dict[str, str | None] = {
        "job_id": job.id,
        "project_id": job.project_id,
        "video_uri": job.manifest.video_uri,
        "callback_url": f"{callback_base}/api/v1/internal/jobs/{job.id}/status",
    }
    if claim.kind is DispatchKind.RETRY and claim.retry is not None:
        fields |= claim.retry.model_dump(mode="json")
    return fields


def _ids(token: Token) -> dict[str, str | int]:
    return {"job_id": token.job_id, "dispatch_id": token.dispatch_id, "epoch": token.epoch}
