"""The route by which the orchestrator reports each step of a job."""

from datetime import UTC, timedelta
from hashlib import sha256
from threading import BoundedSemaphore
from typing import Any

import orjson
import structlog
from flask import Blueprint, request
from flask.typing import ResponseReturnValue
from structlog.contextvars import bind_contextvars

from api import schemas
from api.auth import is_callback_secret
from api.context import services
from api.requests import ValidationError, read_body, read_json
from api.routes.metrics import count_refusals
from domain.audit import Actor
from domain.errors import ExecutionSuperseded, ServiceUnavailable, Unauthorized
from domain.job import Failure
from domain.job_fsm import JobStatus
from domain.record import Change, Decision, Record
from domain.status_callback import StatusCallback, apply_callback
from observability.logs import hashed
from observability.metrics import callbacks, superseded_executions
from orchestrators.signatures import SIGNATURE_HEADER

log = structlog.get_logger("api")

blueprint = Blueprint("callbacks", __name__, url_prefix="/api/v1/internal")

# How far ahead the sender's clock may be: every later report would be out of order.
_MAX_AHEAD = timedelta(minutes=5)
# A signature covers the body, which is therefore read before the caller is authenticated. This many threads
# at most read such bodies, however slowly they arrive.
_unauthenticated_readers = BoundedSemaphore(16)


@blueprint.before_request
def _authenticate() -> None:
    settings = services().settings
    # A signature is checked even if a secret is sent too: a wrong one means that the body was changed.
    if settings.signing_secrets and SIGNATURE_HEADER in request.headers:
        allowed = _is_signed()
    else:
        offered = request.headers.get("X-Callback-Secret")
        allowed = is_callback_secret(offered, settings.callback_secrets)
    if not allowed:
        raise Unauthorized


def _is_signed() -> bool:
    if not _unauthenticated_readers.acquire(blocking=False):
        raise ServiceUnavailable
    try:
        body = read_body()
    finally:
        _unauthenticated_readers.release()
    return services().signer.is_signed(body, dict(request.headers.items()))


@blueprint.post("/jobs/<job_id>/status")
def report_job_status(job_id: str) -> ResponseReturnValue:
    """Report a step of the workflow."""
    callback = _callback(read_json(schemas.STATUS_CALLBACK))
    now, policy = services().now(), services().policy
    if callback.occurred_at > now + _MAX_AHEAD:
        raise ValidationError(occurred_at=["Is more than five minutes in the future."])

    def rule(record: Record) -> Decision[bool]:
        bind_contextvars(job_id=job_id)  # the job exists
        return apply_callback(Change(record, now, policy), callback)

    try:
        with count_refusals(callbacks):
            decision = services().jobs.update(job_id, rule, event_id=callback.event_id)
    except ExecutionSuperseded:
        superseded_executions.inc()
        log.warning("callback.execution_superseded", execution=hashed(callback.execution_id))
        raise
    callbacks.labels("replayed" if decision.result else "applied").inc()
    if not decision.result:
        return "", 204
    job = decision.record.job
    return {
        "job_id": job.id,
        "event_id": callback.event_id,
        "replayed": True,
        "current_status": job.status,
        "latest_applied_occurred_at": job.latest_occurred_at,
    }


def _callback(body: dict[str, Any]) -> StatusCallback:
    # The digest ignores the order of keys, white space and spelled-out defaults, and `occurred_at`, which a
    # workflow may read from its clock at each try.
    canonical = orjson.dumps({**body, "occurred_at": None}, option=orjson.OPT_SORT_KEYS)
    failure = Failure(
        code=body["failure_code"], message=body["failure_message"], stage=body["failed_stage"]
    )
    return StatusCallback(
        event_id=body["event_id"],
        digest=sha256(canonical).hexdigest()[:32],
        status=body["status"],
        occurred_at=body["occurred_at"].astimezone(UTC),
        correlation_id=body["correlation_id"],
        actor=Actor(body["actor_type"]),
        execution_id=body["execution_id"],
        dispatch_id=body["dispatch_id"],
        artifact_updates=body["artifact_updates"],
        failure=failure if body["status"] is JobStatus.FAILED else None,
    )
