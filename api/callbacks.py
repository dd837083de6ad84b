"""The orchestrator's route: it reports each step of a job here."""

from datetime import UTC
from hashlib import sha256
from typing import Any

import orjson
import structlog
from flask import Response, request

import metrics
from api.auth import is_callback_secret
from api.call import say
from api.context import services
from api.errors import json_response
from api.http import Blueprint, errors, read_body
from api.monitoring import counted_callback
from api.schemas import StatusCallbackReplayResponseSchema, StatusCallbackRequestSchema
from domain.callbacks import CallbackAnswer, StatusCallback, apply_callback
from domain.change import Decision
from domain.errors import ExecutionSuperseded, ResourceNotFound, Unauthorized
from domain.job_fsm import JobStatus
from domain.models import Failure
from domain.trail import Actor
from logs import hashed
from signatures import SIGNATURE_HEADER
from store.snapshot import Snapshot

log = structlog.get_logger("api")

blueprint = Blueprint(
    "callbacks", __name__, url_prefix="/api/v1/internal", description="For the orchestrator only."
)


@blueprint.before_request
def _check_orchestrator() -> None:
    settings = services().settings
    # A signature is never passed over for a secret beside it: a wrong one means that the body was touched.
    if settings.signing_secrets and SIGNATURE_HEADER in request.headers:
        allowed = services().signer.is_signed(read_body(request), dict(request.headers.items()))
    else:
        offered = request.headers.get("X-Callback-Secret")
        allowed = is_callback_secret(offered, settings.callback_secrets)
    if not allowed:
        raise Unauthorized


@blueprint.route("/jobs/<jobId>/status", methods=["POST"])
@blueprint.doc(security=[{"callbackSecret": []}, {"webhookSignature": []}])
@blueprint.arguments(StatusCallbackRequestSchema())
@blueprint.response(204)
@blueprint.alt_response(200, schema=StatusCallbackReplayResponseSchema)
@errors(blueprint, 401, 404, 409, 413, 415, 503)
def report_job_status(body: dict[str, Any], job_id: str) -> Response:
    """Report a step of the workflow"""
    callback = _callback(body)
    now, policy = services().now(), services().settings.policy

    def decide(snapshot: Snapshot | None) -> Decision[CallbackAnswer]:
        if snapshot is None:
            raise ResourceNotFound
        say(job_id=job_id)
        return apply_callback(snapshot.record, snapshot.seen_digest, callback, now, policy)

    try:
        answer = counted_callback(
            lambda: services().jobs.change(job_id, decide, event_id=callback.event_id)
        )
    except ExecutionSuperseded:
        metrics.superseded_executions.inc()
        log.warning(
            "callback.execution_superseded", job_id=job_id, execution=hashed(callback.execution_id)
        )
        raise
    metrics.callbacks["replayed" if answer.replayed else "applied",].inc()
    if not answer.replayed:
        return Response(status=204)
    job = answer.record.job
    return json_response(
        {
            "job_id": job.id,
            "event_id": callback.event_id,
            "replayed": True,
            "current_status": job.status,
            "latest_applied_occurred_at": job.latest_occurred_at,
        }
    )


def _callback(body: dict[str, Any]) -> StatusCallback:
    status = JobStatus(body["status"])
    failure = Failure(
        code=body["failure_code"], message=body["failure_message"], stage=body["failed_stage"]
    )
    return StatusCallback(
        event_id=body["event_id"],
        digest=_digest(body),
        status=status,
        occurred_at=body["occurred_at"].astimezone(UTC),
        correlation_id=body["correlation_id"],
        actor=Actor(body["actor_type"] or Actor.ORCHESTRATOR),
        execution_id=body["execution_id"],
        artifact_updates=body["artifact_updates"] or {},
        failure=failure if status is JobStatus.FAILED else None,
    )


def _digest(body: dict[str, Any]) -> str:
    """The digest of the payload's canonical form.

    It is the same for another order of keys, other white space or a default that was spelled out.
    """
    normal = {
        "occurred_at": body["occurred_at"].astimezone(UTC),
        "actor_type": body["actor_type"] or Actor.ORCHESTRATOR,
        "artifact_updates": body["artifact_updates"] or {},
    }
    canonical = orjson.dumps({**body, **normal}, option=orjson.OPT_SORT_KEYS)
    return sha256(canonical).hexdigest()[:32]
