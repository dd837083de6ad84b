"""Routes of operators: any user's jobs that are open, silent or failed, and how to act on them."""

from dataclasses import replace
from datetime import timedelta

from flask import Blueprint
from marshmallow import Schema
from structlog.contextvars import bind_contextvars

from api import responses, schemas
from api.context import authenticate, principal, services
from api.request_log import request_id
from api.requests import check_profile, page_query, read_json, read_query, refuse_input
from api.routes.metrics import seen_with_queues
from domain.audit import OperatorAct
from domain.errors import Forbidden
from store.indexes import View
from store.lists import JobFilter, PageQuery

blueprint = Blueprint("operations", __name__, url_prefix="/api/v1/operations")
blueprint.before_request(authenticate)


@blueprint.before_request
def ensure_operator() -> None:
    """Refuse other callers before anything else is checked."""
    if not principal().is_operator:
        raise Forbidden("The operator role is required.")


@blueprint.get("/overview")
def get_overview() -> responses.Shape:
    """Count jobs, claims and queued messages, and show a pause."""
    refuse_input()
    return _overview()


@blueprint.get("/jobs")
def list_operator_jobs() -> responses.Shape:
    """List the jobs of a view, of all users, oldest first."""
    query = read_query(schemas.JOB_VIEW_QUERY)
    wanted = JobFilter(query["project_id"], query["owner"], query["reason"])
    before = services().now() - timedelta(seconds=query["older_than"])
    part = replace(page_query(query), before=before if query["older_than"] else None)
    page = services().projects.jobs_in_view(View(query["view"]), part, wanted)
    return responses.page_shape(page, responses.operator_job_shape)


@blueprint.get("/jobs/<job_id>")
def get_operator_job(job_id: str) -> responses.Shape:
    """Show any user's job with its claims and its trail."""
    refuse_input()
    return responses.job_history_shape(*services().operations.history(job_id))


@blueprint.post("/jobs/<job_id>/ask")
def ask_about_job(job_id: str) -> responses.Shape:
    """Ask the orchestrator about the job's dispatch, and act on its answer."""
    act = _act(job_id, schemas.OPTIONAL_ACT, optional=True)
    asked = services().operations.ask(job_id, act, request_id())
    return {"state": asked.state, "job": responses.operator_job_shape(asked.record)}


@blueprint.post("/jobs/<job_id>/settle")
def settle_job(job_id: str) -> responses.Shape:
    """Settle the job's dispatch as sent, or release it."""
    act, settlement = _act(job_id, schemas.SETTLE), read_json(schemas.SETTLE)["settlement"]
    return responses.operator_job_shape(services().operations.settle(job_id, settlement, act))


@blueprint.post("/jobs/<job_id>/cancel")
def cancel_operator_job(job_id: str) -> responses.Shape:
    """Cancel any user's job."""
    act = _act(job_id, schemas.ACT)
    return responses.operator_job_shape(services().operations.cancel(job_id, act, request_id()))


@blueprint.post("/jobs/<job_id>/fail")
def fail_job(job_id: str) -> responses.Shape:
    """Fail any user's job, so that it can be retried."""
    act = _act(job_id, schemas.ACT)
    return responses.operator_job_shape(services().operations.fail(job_id, act, request_id()))


@blueprint.post("/retries")
def retry_failed_jobs() -> responses.Shape:
    """Retry failed jobs, each independently of the others."""
    body = read_json(schemas.RETRIES)
    check_profile(body["model_profile"])
    after = body["failed_since"] - timedelta(microseconds=1)  # `after` is exclusive
    part = PageQuery(body["limit"], body["cursor"], after=after)
    page = services().operations.retry_failed(
        part,
        JobFilter(body["project_id"], reason=body["failure_code"]),
        body["model_profile"],
        OperatorAct(principal().user, body["reason"]),
        correlation_id=request_id(),
        dry_run=body["dry_run"],
    )
    return responses.page_shape(page, responses.retried_shape)


@blueprint.post("/pause")
def pause_dispatching() -> responses.Shape:
    """Stop all workers from posting dispatches."""
    services().operations.pause(_act(None, schemas.ACT))
    return _overview()


@blueprint.post("/resume")
def resume_dispatching() -> responses.Shape:
    """Let workers post dispatches again."""
    services().operations.resume(_act(None, schemas.OPTIONAL_ACT, optional=True))
    return _overview()


def _act(job_id: str | None, schema: Schema, *, optional: bool = False) -> OperatorAct:
    """The operator, with the reason from the body. Raises `ResourceNotFound` if there is no such job."""
    reason = read_json(schema, optional=optional)["reason"]
    if job_id is not None:
        services().jobs.get(job_id)  # first: an id that does not exist is not logged
        bind_contextvars(job_id=job_id)
    return OperatorAct(principal().user, reason)


def _overview() -> responses.Shape:
    seen, queue_lengths = seen_with_queues(services())
    return responses.overview_shape(seen, services().jobs.pauses.current(), queue_lengths)
