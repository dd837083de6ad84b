"""Routes of jobs: list, show, edit and delete, confirm the upload, run, retry and cancel, read the trail."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from flask import Blueprint
from flask.typing import ResponseReturnValue
from structlog.contextvars import bind_contextvars

from api import schemas
from api.context import authenticate, editor, services
from api.request_log import request_id
from api.requests import check_profile, page_query, read_json, read_prefer, read_query, refuse_input
from api.responses import Shape, dispatch_shape, event_shape, job_shape, page_shape
from api.routes.metrics import count_refusals
from domain import lifecycle
from domain.audit import AuditEvent
from domain.job import Job
from domain.job_fsm import JobStatus
from domain.record import Change, Decision, Record, owned
from domain.retry import decide_retry
from domain.run import decide_run
from observability.metrics import runs
from services.run_and_wait import Decide
from store import keys
from store.errors import QueueUnavailable
from store.lists import JobFilter, Page

Result = TypeVar("Result")

# FAILED is not the end: a retry can leave it.
_END_STATUSES = frozenset({JobStatus.DONE, JobStatus.CANCELLED})

blueprint = Blueprint("jobs", __name__, url_prefix="/api/v1")
blueprint.before_request(authenticate)


@blueprint.get("/jobs")
def list_own_jobs() -> Shape:
    """List the caller's jobs: by creation, or with `updated_after` by change."""
    query = read_query(schemas.OWN_JOBS_QUERY)
    user, part = editor(), page_query(query)
    wanted = JobFilter(query["project_id"], status=query["status"])
    page = services().run_and_wait.long_poll(
        keys.user_changes(user),
        user,
        partial(services().projects.jobs_of_user, user, part, wanted),
        # An empty page with a next cursor is news too: reading it again would not get beyond it.
        lambda page: bool(page.items or page.next_cursor),
        query["wait"] if part.after else 0,
    )
    return page_shape(page, job_shape)


@blueprint.get("/jobs/<job_id>")
def get_job(job_id: str) -> Shape:
    """Show a job, or wait until its state changes."""
    query = read_query(schemas.JOB_QUERY)
    known = query["status_not"]
    record = services().run_and_wait.long_poll(
        job_id,
        editor(),
        lambda: _own(job_id),
        lambda record: record.job.status is not known or known in _END_STATUSES,
        query["wait"] if known else 0,
    )
    bind_contextvars(job_id=record.job.id)
    return job_shape(record)


@blueprint.patch("/jobs/<job_id>")
def edit_job(job_id: str) -> Shape:
    """Change a job's name or metadata."""
    body = read_json(schemas.JOB_EDIT)
    return job_shape(_update(job_id, lambda change: lifecycle.edit(change, body)).record)


@blueprint.delete("/jobs/<job_id>")
def delete_job(job_id: str) -> ResponseReturnValue:
    """Delete a job that is at rest, with everything that is stored of it."""
    refuse_input()
    _update(job_id, lambda change: lifecycle.delete(change.record))
    return "", 204


@blueprint.post("/jobs/<job_id>/confirm-upload")
def confirm_upload(job_id: str) -> Shape:
    """Record where the uploaded video is."""
    video_uri = read_json(schemas.CONFIRM_UPLOAD)["video_uri"]
    decision = _update(job_id, lambda change: lifecycle.confirm_upload(change, video_uri))
    return {"job": job_shape(decision.record), "replayed": decision.result}


@blueprint.post("/jobs/<job_id>/run")
def run_job(job_id: str) -> ResponseReturnValue:
    """Start the job's workflow, once."""
    refuse_input()
    return _dispatch("run", job_id, decide_run)


@blueprint.post("/jobs/<job_id>/retry")
def retry_job(job_id: str) -> ResponseReturnValue:
    """Start a failed job's workflow again, from its furthest checkpoint."""
    body = read_json(schemas.RETRY)
    check_profile(body["model_profile"])
    return _dispatch("retry", job_id, partial(decide_retry, **body))


@blueprint.post("/jobs/<job_id>/cancel")
def cancel_job(job_id: str) -> Shape:
    """Cancel a job."""
    refuse_input()
    try:
        record = _update(job_id, lifecycle.cancel).record
    except QueueUnavailable:
        # The job is cancelled, and the sweep sends the message about it again.
        record = _own(job_id)
    return job_shape(record)


@blueprint.get("/jobs/<job_id>/events")
def list_job_events(job_id: str) -> Shape:
    """Read a job's audit trail, oldest first."""
    query = read_query(schemas.TRAIL_QUERY)
    is_followed = query["after"] is not None
    start = int(query["after"] if is_followed else query["cursor"])

    def read() -> tuple[Job, list[AuditEvent], int, int]:
        job = _own(job_id).job  # it may be deleted during a wait
        return job, *services().jobs.trail(job.id, start, query["limit"])

    # Compares positions, not events: `trail` skips events of a later release, but others may follow them.
    job, events, end, length = services().run_and_wait.long_poll(
        job_id, editor(), read, lambda seen: seen[2] > start, query["wait"] if is_followed else 0
    )
    next_cursor = str(end) if is_followed or end < length else None
    return page_shape(Page(events, next_cursor), partial(event_shape, job))


def _own(job_id: str) -> Record:
    user = editor()
    return owned(services().jobs.get(job_id), user)


def _update(job_id: str, rule: Callable[[Change], Decision[Result]]) -> Decision[Result]:
    user = editor()
    now, policy = services().now(), services().policy
    decision = services().jobs.update(
        job_id,
        lambda record: rule(Change(owned(record, user), now, policy, request_id())),
        before_write=lambda: services().writes.count(user),
    )
    bind_contextvars(job_id=job_id)
    return decision


def _dispatch(kind: str, job_id: str, decide: Decide) -> ResponseReturnValue:
    seconds, applied = read_prefer(services().settings.run_wait_seconds)
    user = editor()
    with count_refusals(runs, kind):
        result = services().run_and_wait.dispatch(job_id, user, decide, seconds, request_id())
    runs.labels(kind, result.outcome.value).inc()
    bind_contextvars(job_id=job_id, dispatch_id=result.claim.dispatch_id, epoch=result.claim.epoch)
    headers = {"Location": f"/api/v1/jobs/{job_id}"}
    if applied:
        headers["Preference-Applied"] = applied
    return dispatch_shape(job_id, result), 202 if result.started else 200, headers
