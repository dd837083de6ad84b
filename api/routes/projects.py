"""Routes of projects, and of the jobs in them."""

from typing import Any
from uuid import uuid4

from flask import Blueprint
from flask.typing import ResponseReturnValue
from structlog.contextvars import bind_contextvars

from api import schemas
from api.context import authenticate, editor, services
from api.request_log import request_id
from api.requests import (
    page_query,
    read_idempotency_key,
    read_json,
    read_query,
    refuse_input,
)
from api.responses import Shape, created, job_shape, page_shape, project_shape
from domain import lifecycle
from domain.errors import IdempotencyKeyMismatch, ResourceNotFound
from domain.job import Project
from store.lists import JobFilter

blueprint = Blueprint("projects", __name__, url_prefix="/api/v1")
blueprint.before_request(authenticate)


@blueprint.post("/projects")
def create_project() -> ResponseReturnValue:
    """Create a project."""
    body = read_json(schemas.PROJECT_CREATE)
    user = editor()
    project_id, marker_seconds = _new_id(user, "projects", body)
    project = Project(id=project_id, name=body["name"], owner=user, created_at=services().now())
    is_new = services().projects.create(project, marker_seconds)
    stored = project if is_new else services().projects.load(project_id)
    if stored is None:
        raise IdempotencyKeyMismatch
    return created(project_shape(stored), is_new=is_new)


@blueprint.get("/projects")
def list_projects() -> Shape:
    """List the caller's projects, oldest first."""
    query = page_query(read_query(schemas.PAGE_QUERY))
    return page_shape(services().projects.of_user(editor(), query), project_shape)


@blueprint.get("/projects/<project_id>")
def get_project(project_id: str) -> Shape:
    """Show a project."""
    refuse_input()
    return project_shape(_own_project(project_id))


@blueprint.post("/projects/<project_id>/jobs")
def create_job(project_id: str) -> ResponseReturnValue:
    """Create a job."""
    body = read_json(schemas.JOB_EDIT, optional=True)
    project = _own_project(project_id)
    job_id, marker_seconds = _new_id(project.owner, f"projects/{project.id}/jobs", body, project.id)
    decision = lifecycle.create_job(
        job_id, project.id, project.owner, services().now(), request_id(), body
    )
    is_new = services().jobs.create(decision, marker_seconds)
    stored = decision.record if is_new else services().jobs.load(job_id)
    if stored is None:
        _own_project(project_id)  # it may have been erased by now
        raise IdempotencyKeyMismatch
    bind_contextvars(job_id=job_id)
    return created(job_shape(stored), is_new=is_new)


@blueprint.get("/projects/<project_id>/jobs")
def list_jobs(project_id: str) -> Shape:
    """List a project's jobs, oldest first."""
    query = read_query(schemas.JOB_PAGE_QUERY)
    project = _own_project(project_id)
    page = services().projects.jobs(
        project.id, page_query(query), JobFilter(status=query["status"])
    )
    return page_shape(page, job_shape)


def _new_id(
    user: str, place: str, body: dict[str, Any], project_id: str | None = None
) -> tuple[str, int]:
    """The id to create under, and for how many seconds to remember it: 0 without an `Idempotency-Key`.

    Counts towards the write limit unless the key was used before. Raises `IdempotencyKeyMismatch`,
    `Forbidden` and `RateLimited`.
    """
    new_id, key, keys = str(uuid4()), read_idempotency_key(), services().idempotency_keys

    def count() -> None:
        services().projects.ensure_not_erased(user, project_id)  # a refused call does not count
        services().writes.count(user)

    if key is None:
        count()
        return new_id, 0
    return keys.id_for((user, place, key), body, new_id, count), keys.seconds


def _own_project(project_id: str) -> Project:
    user = editor()
    project = services().projects.load(project_id)
    if project is None or project.owner != user:
        raise ResourceNotFound
    return project
