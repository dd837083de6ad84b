"""Routes of operators: what is open, silent or failed, of all users, and what may be done about it."""

from dataclasses import replace
from datetime import timedelta

from flask import Blueprint, Response

from api.context import authenticate, principal, services
from api.operator_requests import JobViewQuerySchema
from api.operator_shapes import job_history_shape, operator_job_shape, overview_shape
from api.requests import page_query, read_query, refuse_query_and_body
from api.responses import json_response, page_response
from services.operations import JobFilter
from store.overview import overview
from store.views import View
from tasks.queues import queue_keys, queue_names

blueprint = Blueprint("operations", __name__, url_prefix="/api/v1/operations")
blueprint.before_request(authenticate)

_VIEW = JobViewQuerySchema()


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
    query = read_query(_VIEW)
    wanted = JobFilter(query["project_id"], query["owner"], query["reason"])
    before = services().now() - timedelta(seconds=query["older_than"])
    part = replace(page_query(query), before=before if query["older_than"] else None)
    page = services().operations.page(View(query["view"]), part, wanted)
    return page_response(page, operator_job_shape)


@blueprint.get("/jobs/<job_id>")
def get_operator_job(job_id: str) -> Response:
    """Show any user's job with its claims and its trail."""
    refuse_query_and_body()
    return json_response(job_history_shape(*services().operations.history(job_id)))


def _overview() -> Response:
    settings = services().settings
    # Another broker's queues are for its own tools.
    names = queue_names(settings) if settings.broker_is_store else []
    seen = overview(services().redis, queue_keys(names), services().now())
    return json_response(overview_shape(seen, services().jobs.pauses.current(), names))
