"""Routes of jobs: list, show, edit and delete, confirm the upload, run, retry and cancel, read the trail."""

from collections.abc import Callable
from typing import Any, TypeVar

from flask import Blueprint, Response, request

from api.context import authenticate, principal, services
from api.request_log import bind, request_id
from api.requests import (
    ConfirmUploadSchema,
    JobEditSchema,
    JobQuerySchema,
    OwnJobsQuerySchema,
    RetrySchema,
    TrailQuerySchema,
    ValidationError,
    WaitPreference,
    page_query,
    parse_prefer,
    read_json,
    read_query,
    refuse_query,
    refuse_query_and_body,
)
from api.responses import (
    Shape,
    event_shape,
    job_shape,
    json_response,
    page_response,
    retry_shape,
    run_shape,
)
from api.routes.metrics import counted
from domain import lifecycle
from domain.audit import AuditEvent
from domain.errors import ResourceNotFound
from domain.job import Job
from domain.job_fsm import JobStatus
from domain.record import Decision, Record, owned
from domain.run import DispatchResult
from settings import split_list
from store.errors import QueueUnavailable
from store.lists import Page

Result = TypeVar("Result")

blueprint = Blueprint("jobs", __name__, url_prefix="/api/v1")
blueprint.before_request(authenticate)

_CONFIRM, _RETRY, _EDIT = ConfirmUploadSchema(), RetrySchema(), JobEditSchema()
_JOB_QUERY, _TRAIL, _OWN_JOBS = JobQuerySchema(), TrailQuerySchema(), OwnJobsQuerySchema()


@blueprint.get("/jobs")
def list_own_jobs() -> Response:
    """List the caller's jobs, by creation, or by change those that changed after a moment."""
    query = read_query(_OWN_JOBS)
    status = JobStatus(query["status"]) if query["status"] else None
    user, part = principal().editor(), page_query(query)

    def read() -> Page[Record]:
        return services().projects.jobs_of_user(user, part, status, query["project_id"])

    if query["wait"] and query["updated_after"]:
        page = services().run_and_wait.wait_for_jobs(user, read, query["wait"])
    else:
        page = read()
    return page_response(page, job_shape)


@blueprint.get("/jobs/<job_id>")
def get_job(job_id: str) -> Response:
    """Show a job, or wait until its state changes."""
    query = read_query(_JOB_QUERY)
    user = principal().owner_of_a_resource()
    if query["wait"] and query["status_not"]:
        known = JobStatus(query["status_not"])
        record = services().run_and_wait.wait_for_change(job_id, user, known, query["wait"])
    else:
        record = _own(job_id, user)
    bind(job_id=record.job.id)
    return json_response(job_shape(record))


@blueprint.patch("/jobs/<job_id>")
def edit_job(job_id: str) -> Response:
    """Give a job another name or other metadata."""
    refuse_query()
    body, now = read_json(_EDIT), services().now()
    decision = _update(job_id, lambda record: lifecycle.edit(record, body, now))
    return json_response(job_shape(decision.record))


@blueprint.delete("/jobs/<job_id>")
def delete_job(job_id: str) -> Response:
    """Delete a job that is at rest, and all that is kept of it."""
    refuse_query_and_body()
    user = principal().owner_of_a_resource()
    services().jobs.delete(
        job_id,
        lambda record: lifecycle.ensure_at_rest(owned(record, user)),
        before_write=lambda: services().writes.count(user),
    )
    bind(job_id=job_id)
    return Response(status=204)


@blueprint.post("/jobs/<job_id>/confirm-upload")
def confirm_upload(job_id: str) -> Response:
    """Say where the uploaded video is."""
    video_uri, now = read_json(_CONFIRM)["video_uri"], services().now()
    decision = _update(
        job_id, lambda record: lifecycle.confirm_upload(record, video_uri, now, request_id())
    )
    return json_response({"job": job_shape(decision.record), "replayed": decision.result})


@blueprint.post("/jobs/<job_id>/run")
def run_job(job_id: str) -> Response:
    """Start the job's workflow, once."""
    refuse_query_and_body()
    preference = _preference()
    user = principal().owner_of_a_resource()

    def run() -> DispatchResult:
        return services().run_and_wait.run(job_id, user, preference.seconds, request_id())

    result = counted("run", run)
    return _dispatched(result, job_id, run_shape(job_id, result), preference.applied)


@blueprint.post("/jobs/<job_id>/retry")
def retry_job(job_id: str) -> Response:
    """Start a failed job's workflow again, from its furthest checkpoint."""
    body = read_json(_RETRY)
    ensure_allowed_profile(body["model_profile"])
    preference = _preference()
    user = principal().owner_of_a_resource()

    def retry() -> DispatchResult:
        return services().run_and_wait.retry(
            job_id,
            user,
            body["client_request_id"],
            body["model_profile"],
            preference.seconds,
            request_id(),
        )

    result = counted("retry", retry)
    return _dispatched(result, job_id, retry_shape(job_id, result), preference.applied)


@blueprint.post("/jobs/<job_id>/cancel")
def cancel_job(job_id: str) -> Response:
    """Cancel a job."""
    refuse_query_and_body()
    now, policy = services().now(), services().policy
    try:
        record = _update(
            job_id, lambda record: lifecycle.cancel(record, now, policy, request_id())
        ).record
    except QueueUnavailable:
        # The job is cancelled; only the word of it to the orchestrator could not be sent, which will learn
        # of it by the answers to its callbacks.
        record = _own(job_id, principal().owner_of_a_resource())
    return json_response(job_shape(record))


@blueprint.get("/jobs/<job_id>/events")
def list_job_events(job_id: str) -> Response:
    """Read a job's audit trail, oldest first."""
    query = read_query(_TRAIL)
    user = principal().owner_of_a_resource()
    job = _own(job_id, user).job
    if query["after"] is not None:
        return _events_after(job, user, int(query["after"]), query)
    start, limit = int(query["cursor"]), query["limit"]
    events, more = services().jobs.trail(job.id, start, limit)
    return json_response(
        {
            "items": [event_shape(job, event) for event in events],
            "next_cursor": str(start + limit) if more else None,
        }
    )


def _events_after(job: Job, user: str, start: int, query: dict[str, Any]) -> Response:
    def read() -> tuple[list[AuditEvent], int]:
        _own(job.id, user)  # it may be deleted while the caller waits
        return services().jobs.trail_after(job.id, start, query["limit"])

    events, end = services().run_and_wait.long_poll(
        job.id, user, read, lambda seen: bool(seen[0]), query["wait"]
    )
    items = [event_shape(job, event) for event in events]
    return json_response({"items": items, "next_cursor": str(end)})


def _own(job_id: str, user: str) -> Record:
    record = services().jobs.load(job_id)
    if record is None:
        raise ResourceNotFound
    return owned(record, user)


def _update(job_id: str, rule: Callable[[Record], Decision[Result]]) -> Decision[Result]:
    user = principal().owner_of_a_resource()
    decision = services().jobs.update(
        job_id,
        lambda record: rule(owned(record, user)),
        before_write=lambda: services().writes.count(user),
    )
    bind(job_id=job_id)
    return decision


def _dispatched(
    result: DispatchResult, job_id: str, body: Shape, preference_applied: str | None
) -> Response:
    bind(job_id=job_id, dispatch_id=result.claim.dispatch_id, epoch=result.claim.epoch)
    headers = {"Location": f"/api/v1/jobs/{job_id}"}
    if preference_applied:
        headers["Preference-Applied"] = preference_applied
    return json_response(body, 202 if result.started else 200, headers)


def _preference() -> WaitPreference:
    return parse_prefer(request.headers.get("Prefer"), services().settings.run_wait_seconds)


def ensure_allowed_profile(profile: str) -> None:
    """Raise `ValidationError` for a profile that the settings do not allow."""
    allowed = split_list(services().settings.model_profiles)
    if profile not in allowed:
        raise ValidationError(model_profile=[f"Must be one of: {', '.join(allowed)}."])
