"""Routes of a job: show it, confirm its upload, run, retry and cancel it, read its trail."""

from collections.abc import Callable
from typing import Any, TypeVar

from flask import Response

from api.call import request_id, say, this_call
from api.context import services
from api.dispatching import Dispatched
from api.errors import json_response
from api.http import Blueprint, authenticate, bad_request, errors, principal
from api.monitoring import counted
from api.preferences import WaitPreference, parse_prefer
from api.schemas import (
    AuditTrailSchema,
    ConfirmUploadRequestSchema,
    ConfirmUploadResponseSchema,
    JobQuerySchema,
    JobSchema,
    PageQuerySchema,
    RetryJobRequestSchema,
    RetryJobResponseSchema,
    RunJobResponseSchema,
)
from api.shapes import event_shape, job_shape
from domain import lifecycle
from domain.change import Decision, Record, owned
from domain.job_fsm import JobStatus
from settings import split_list
from store.snapshot import Snapshot
from tasks.outbox import QueueUnavailable

Answer = TypeVar("Answer")

blueprint = Blueprint("jobs", __name__, url_prefix="/api/v1", description="A video's way.")
blueprint.before_request(authenticate)

_PREFER = {"in": "header", "name": "Prefer", "schema": {"type": "string"}, "required": False}


@blueprint.route("/jobs/<jobId>", methods=["GET"])
@blueprint.arguments(JobQuerySchema(), location="query")
@blueprint.response(200, JobSchema)
@errors(blueprint, 401, 404, 503)
def get_job(query: dict[str, Any], job_id: str) -> Response:
    """Show a job, or wait until its state changes"""
    user = principal().owner_of_a_resource()
    if query["wait"] and query["status_not"]:
        known = JobStatus(query["status_not"])
        record = services().dispatching.wait_for_change(job_id, user, known, query["wait"])
    else:
        record = _own(job_id, user)
    say(job_id=record.job.id)
    return json_response(job_shape(record))


@blueprint.route("/jobs/<jobId>/confirm-upload", methods=["POST"])
@blueprint.arguments(ConfirmUploadRequestSchema())
@blueprint.response(200, ConfirmUploadResponseSchema)
@errors(blueprint, 401, 404, 409, 413, 415, 503)
def confirm_upload(body: dict[str, Any], job_id: str) -> Response:
    """Say where the uploaded video is"""

    def rule(record: Record) -> Decision[tuple[bool, Record]]:
        decision = lifecycle.confirm_upload(
            record, body["video_uri"], services().now(), request_id()
        )
        after = decision.change.record if decision.change else record
        return Decision((decision.answer, after), decision.change)

    replayed, record = _change(job_id, rule)
    return json_response({"job": job_shape(record), "replayed": replayed})


@blueprint.route("/jobs/<jobId>/run", methods=["POST"], parameters=[])
@blueprint.doc(parameters=[_PREFER])
@blueprint.response(202, RunJobResponseSchema)
@blueprint.alt_response(200, schema=RunJobResponseSchema)
@errors(blueprint, 401, 404, 409, 429, 502, 503)
def run_job(job_id: str) -> Response:
    """Start the job's workflow, once"""
    preference = _preference()
    user = principal().owner_of_a_resource()

    def run() -> Dispatched:
        _count_run(user)
        return services().dispatching.run(job_id, user, preference.seconds, request_id())

    told = counted("run", run)
    body = {
        "job_id": job_id,
        "status": told.status,
        "dispatch_id": told.claim.dispatch_id,
        "replayed": not told.first,
    }
    return _dispatched(told, job_id, body, preference.applied)


@blueprint.route("/jobs/<jobId>/retry", methods=["POST"])
@blueprint.doc(parameters=[_PREFER])
@blueprint.arguments(RetryJobRequestSchema())
@blueprint.response(202, RetryJobResponseSchema)
@blueprint.alt_response(200, schema=RetryJobResponseSchema)
@errors(blueprint, 401, 404, 409, 413, 415, 502, 503)
def retry_job(body: dict[str, Any], job_id: str) -> Response:
    """Start a failed job's workflow again, from its furthest checkpoint"""
    _ensure_allowed_profile(body["model_profile"])
    preference = _preference()
    user = principal().owner_of_a_resource()
    told = counted(
        "retry",
        lambda: services().dispatching.retry(
            job_id,
            user,
            body["client_request_id"],
            body["model_profile"],
            preference.seconds,
            request_id(),
        ),
    )
    terms = told.claim.retry.model_dump() if told.claim.retry else {}
    answer = {
        "job_id": job_id,
        "status": told.status,
        **terms,
        "dispatch_id": told.claim.dispatch_id,
        "replayed": not told.first,
    }
    return _dispatched(told, job_id, answer, preference.applied)


@blueprint.route("/jobs/<jobId>/cancel", methods=["POST"])
@blueprint.response(200, JobSchema)
@errors(blueprint, 401, 404, 409, 503)
def cancel_job(job_id: str) -> Response:
    """Give a job up"""
    now, policy = services().now(), services().settings.policy
    try:
        record = _change(job_id, lambda record: lifecycle.cancel(record, now, policy, request_id()))
    except QueueUnavailable:
        # The job is cancelled; what could not be sent is only the word of it to the orchestrator,
        # which will learn of it by the answers to its callbacks.
        record = _own(job_id, principal().owner_of_a_resource())
    return json_response(job_shape(record))


@blueprint.route("/jobs/<jobId>/events", methods=["GET"])
@blueprint.arguments(PageQuerySchema(), location="query")
@blueprint.response(200, AuditTrailSchema)
@errors(blueprint, 401, 404, 503)
def list_job_events(query: dict[str, Any], job_id: str) -> Response:
    """Read a job's audit trail, oldest first"""
    job = _own(job_id, principal().owner_of_a_resource()).job
    start, limit = int(query["cursor"]), query["limit"]
    events, more = services().jobs.trail(job.id, start, limit)
    return json_response(
        {
            "items": [event_shape(job, event) for event in events],
            "next_cursor": str(start + limit) if more else None,
        }
    )


def _own(job_id: str, user: str) -> Record:
    snapshot = services().jobs.load(job_id)
    return owned(snapshot.record if snapshot else None, user)


def _change(job_id: str, rule: Callable[[Record], Decision[Answer]]) -> Answer:
    user = principal().owner_of_a_resource()

    def decide(snapshot: Snapshot | None) -> Decision[Answer]:
        return rule(owned(snapshot.record if snapshot else None, user))

    answer = services().jobs.change(job_id, decide)
    say(job_id=job_id)
    return answer


def _dispatched(
    told: Dispatched, job_id: str, body: dict[str, Any], preference_applied: str | None
) -> Response:
    say(job_id=job_id, dispatch_id=told.claim.dispatch_id, epoch=told.claim.epoch)
    headers = {"Location": f"/api/v1/jobs/{job_id}"}
    if preference_applied:
        headers["Preference-Applied"] = preference_applied
    return json_response(body, 202 if told.first else 200, headers)


def _preference() -> WaitPreference:
    return parse_prefer(this_call().headers.get("Prefer"), services().settings.run_wait_seconds)


def _count_run(user: str) -> None:
    limit = services().run_limit
    if limit is not None:
        limit.count(user)


def _ensure_allowed_profile(profile: str) -> None:
    allowed = split_list(services().settings.model_profiles)
    if profile not in allowed:
        raise bad_request("model_profile", f"Must be one of: {', '.join(allowed)}.")
