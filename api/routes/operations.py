"""Routes of operators: what is open, silent or failed, of all users, and what may be done about it."""

from dataclasses import replace
from datetime import timedelta

from flask import Blueprint, Response
from marshmallow import Schema

from api import responses
from api.context import authenticate, principal, services
from api.request_log import bind, request_id
from api.requests import (
    ACT,
    JOB_VIEW_QUERY,
    OPTIONAL_ACT,
    RETRIES,
    SETTLE,
    page_query,
    read_json,
    read_optional_json,
    read_query,
    refuse_query_and_body,
)
from api.routes.jobs import ensure_allowed_profile
from api.routes.metrics import seen_with_queues
from domain.audit import OperatorAct
from services.operations import JobFilter
from store.indexes import View
from store.lists import PageQuery

blueprint = Blueprint("operations", __name__, url_prefix="/api/v1/operations")
blueprint.before_request(authenticate)

# A list is read from behind a moment on.
_ONE_BEFORE = timedelta(microseconds=1)


@blueprint.before_request
def ensure_operator() -> None:
    """Find out whether the caller is an operator before anything else is looked at."""
    principal().operator()


@blueprint.get("/overview")
def get_overview() -> Response:
    """Show what is going on, in numbers."""
    refuse_query_and_body()
    return _overview()


@blueprint.get("/jobs")
def list_operator_jobs() -> Response:
    """List the jobs of a view, of all users, oldest first."""
    query = read_query(JOB_VIEW_QUERY)
    wanted = JobFilter(query["project_id"], query["owner"], query["reason"])
    before = services().now() - timedelta(seconds=query["older_than"])
    part = replace(page_query(query), before=before if query["older_than"] else None)
    page = services().operations.page(View(query["view"]), part, wanted)
    return responses.page_response(page, responses.operator_job_shape)


@blueprint.get("/jobs/<job_id>")
def get_operator_job(job_id: str) -> Response:
    """Show any user's job with its claims and its trail."""
    refuse_query_and_body()
    return responses.json_response(
        responses.job_history_shape(*services().operations.history(job_id))
    )


@blueprint.post("/jobs/<job_id>/ask")
def ask_about_job(job_id: str) -> Response:
    """Ask the orchestrator about the job's dispatch, and show what followed from its answer."""
    asked = services().operations.ask(job_id, _act(job_id, OPTIONAL_ACT), request_id())
    return responses.json_response(
        {"state": asked.state, "job": responses.operator_job_shape(asked.record)}
    )


@blueprint.post("/jobs/<job_id>/settle")
def settle_job(job_id: str) -> Response:
    """Settle the job's dispatch as sent, or release it."""
    act, settlement = _act(job_id, SETTLE), read_json(SETTLE)["settlement"]
    return responses.json_response(
        responses.operator_job_shape(services().operations.settle(job_id, settlement, act))
    )


@blueprint.post("/jobs/<job_id>/cancel")
def cancel_operator_job(job_id: str) -> Response:
    """Cancel any user's job."""
    record = services().operations.cancel(job_id, _act(job_id, ACT), request_id())
    return responses.json_response(responses.operator_job_shape(record))


@blueprint.post("/jobs/<job_id>/fail")
def fail_job(job_id: str) -> Response:
    """Fail any user's job, so that it can be retried."""
    record = services().operations.fail(job_id, _act(job_id, ACT), request_id())
    return responses.json_response(responses.operator_job_shape(record))


@blueprint.post("/retries")
def retry_failed_jobs() -> Response:
    """Start failed jobs again, each by itself."""
    body = read_json(RETRIES)
    ensure_allowed_profile(body["model_profile"])
    part = PageQuery(body["limit"], body["cursor"], after=body["failed_since"] - _ONE_BEFORE)
    page = services().operations.retry_failed(
        part,
        JobFilter(body["project_id"], reason=body["failure_code"]),
        body["model_profile"],
        OperatorAct(principal().operator(), body["reason"]),
        correlation_id=request_id(),
        dry_run=body["dry_run"],
    )
    return responses.page_response(page, responses.retried_shape)


@blueprint.post("/pause")
def pause_dispatching() -> Response:
    """Post no dispatch, from any worker."""
    services().operations.pause(_act(None, ACT))
    return _overview()


@blueprint.post("/resume")
def resume_dispatching() -> Response:
    """Post dispatches again."""
    services().operations.resume(_act(None, OPTIONAL_ACT))
    return _overview()


def _act(job_id: str | None, schema: Schema) -> OperatorAct:
    """Who acts, and why: the reason in the body, which only some acts can be without."""
    read = read_optional_json if schema is OPTIONAL_ACT else read_json
    reason = read(schema)["reason"]
    if job_id is not None:
        services().jobs.get(job_id)  # a job that is not there gets no line in the log
        bind(job_id=job_id)
    return OperatorAct(principal().operator(), reason)


def _overview() -> Response:
    seen, queues = seen_with_queues(services())
    return responses.json_response(
        responses.overview_shape(seen, services().jobs.pauses.current(), queues)
    )
