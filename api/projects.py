"""Routes of projects and of the jobs in them."""

from typing import Any
from uuid import uuid4

from flask import Response

from api.call import request_id, say
from api.context import services
from api.errors import json_response
from api.http import Blueprint, authenticate, errors, principal
from api.schemas import (
    JobPageQuerySchema,
    JobPageSchema,
    JobSchema,
    ProjectCreateSchema,
    ProjectListSchema,
    ProjectSchema,
)
from api.shapes import job_shape, project_shape
from domain import lifecycle
from domain.errors import ResourceNotFound
from domain.job_fsm import JobStatus
from domain.models import Project

blueprint = Blueprint("projects", __name__, url_prefix="/api/v1", description="Folders of jobs.")
blueprint.before_request(authenticate)


@blueprint.route("/projects", methods=["POST"])
@blueprint.arguments(ProjectCreateSchema())
@blueprint.response(201, ProjectSchema)
@errors(blueprint, 401, 403, 413, 415, 503)
def create_project(body: dict[str, Any]) -> Response:
    """Create a project"""
    now = services().now()
    project = Project(
        id=str(uuid4()), name=body["name"], owner=principal().editor(), created_at=now
    )
    services().projects.create(project)
    return json_response(project_shape(project), 201)


@blueprint.route("/projects", methods=["GET"])
@blueprint.response(200, ProjectListSchema)
@errors(blueprint, 401, 403, 503)
def list_projects() -> Response:
    """List your projects, oldest first"""
    projects = services().projects.of_user(principal().editor())
    return json_response({"items": [project_shape(each) for each in projects]})


@blueprint.route("/projects/<projectId>", methods=["GET"])
@blueprint.response(200, ProjectSchema)
@errors(blueprint, 401, 404, 503)
def get_project(project_id: str) -> Response:
    """Show a project"""
    return json_response(project_shape(_own_project(project_id)))


@blueprint.route("/projects/<projectId>/jobs", methods=["POST"])
@blueprint.response(201, JobSchema)
@errors(blueprint, 401, 404, 503)
def create_job(project_id: str) -> Response:
    """Create a job"""
    project = _own_project(project_id)
    change = lifecycle.create_job(
        str(uuid4()), project.id, project.owner, services().now(), request_id()
    )
    services().projects.add_job(change)
    say(job_id=change.record.job.id)
    return json_response(job_shape(change.record), 201)


@blueprint.route("/projects/<projectId>/jobs", methods=["GET"])
@blueprint.arguments(JobPageQuerySchema(), location="query")
@blueprint.response(200, JobPageSchema)
@errors(blueprint, 401, 404, 503)
def list_jobs(query: dict[str, Any], project_id: str) -> Response:
    """List a project's jobs, oldest first"""
    project = _own_project(project_id)
    status = JobStatus(query["status"]) if query["status"] else None
    page = services().projects.jobs(project.id, int(query["cursor"]), query["limit"], status)
    return json_response(
        {
            "items": [job_shape(record) for record in page.records],
            "next_cursor": None if page.next_start is None else str(page.next_start),
        }
    )


def _own_project(project_id: str) -> Project:
    user = principal().owner_of_a_resource()
    project = services().projects.load(project_id)
    if project is None or project.owner != user:
        raise ResourceNotFound
    return project
