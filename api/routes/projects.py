"""Routes of projects, and of the jobs in them."""

from typing import Any
from uuid import uuid4

from flask import Blueprint, Response

from api.context import authenticate, principal, services
from api.request_log import bind, request_id
from api.requests import (
    JOB_EDIT,
    JOB_PAGE_QUERY,
    PAGE_QUERY,
    PROJECT_CREATE,
    page_query,
    read_idempotency_key,
    read_json,
    read_optional_json,
    read_query,
    refuse_query_and_body,
)
from api.responses import created_response, job_shape, json_response, page_response, project_shape
from domain import lifecycle
from domain.errors import IdempotencyKeyMismatch, ResourceNotFound
from domain.job import Project

blueprint = Blueprint("projects", __name__, url_prefix="/api/v1")
blueprint.before_request(authenticate)


@blueprint.post("/projects")
def create_project() -> Response:
    """Create a project."""
    body = read_json(PROJECT_CREATE)
    user = principal().editor()
    project_id, marker_seconds = _new_id(user, "projects", body)
    project = Project(id=project_id, name=body["name"], owner=user, created_at=services().now())
    is_new = services().projects.create(project, marker_seconds)
    stands = project if is_new else services().projects.load(project_id)
    if stands is None:
        raise IdempotencyKeyMismatch
    return created_response(project_shape(stands), is_new=is_new)


@blueprint.get("/projects")
def list_projects() -> Response:
    """List the caller's projects, oldest first."""
    query = read_query(PAGE_QUERY)
    return page_response(
        services().projects.of_user(principal().editor(), page_query(query)), project_shape
    )


@blueprint.get("/projects/<project_id>")
def get_project(project_id: str) -> Response:
    """Show a project."""
    refuse_query_and_body()
    return json_response(project_shape(_own_project(project_id)))


@blueprint.post("/projects/<project_id>/jobs")
def create_job(project_id: str) -> Response:
    """Create a job."""
    body = read_optional_json(JOB_EDIT)
    project = _own_project(project_id)
    job_id, marker_seconds = _new_id(project.owner, f"projects/{project.id}/jobs", body, project.id)
    decision = lifecycle.create_job(
        job_id, project.id, project.owner, services().now(), request_id(), body
    )
    is_new = services().jobs.create(decision, marker_seconds)
    stands = decision.record if is_new else services().jobs.load(job_id)
    if stands is None:
        _own_project(project_id)  # it may be gone by now
        raise IdempotencyKeyMismatch
    bind(job_id=job_id)
    return created_response(job_shape(stands), is_new=is_new)


@blueprint.get("/projects/<project_id>/jobs")
def list_jobs(project_id: str) -> Response:
    """List a project's jobs, oldest first."""
    query = read_query(JOB_PAGE_QUERY)
    project = _own_project(project_id)
    page = services().projects.jobs(project.id, page_query(query), query["status"])
    return page_response(page, job_shape)


def _new_id(
    user: str, place: str, body: dict[str, Any], project_id: str | None = None
) -> tuple[str, int]:
    """The id under which to create, and how long to remember that it was; 0 without an `Idempotency-Key`.

    Counts as a change, but for a key that was used before. Raises `IdempotencyKeyMismatch`, `Forbidden` and
    `RateLimited`.
    """
    new_id, key, keys = str(uuid4()), read_idempotency_key(), services().idempotency_keys

    def count() -> None:
        services().projects.ensure_not_erased(user, project_id)  # what is refused does not count
        services().writes.count(user)

    if key is None:
        count()
        return new_id, 0
    return keys.id_for((user, place, key), body, new_id, count), keys.seconds


def _own_project(project_id: str) -> Project:
    user = principal().owner_of_a_resource()
    project = services().projects.load(project_id)
    if project is None or project.owner != user:
        raise ResourceNotFound
    return project
