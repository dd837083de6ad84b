"""What goes out: domain values as the JSON of the contract.

A test holds every answer to `spec/api/openapi.yaml`.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import orjson
from flask import Response
from pydantic import BaseModel

from domain.audit import AuditEvent
from domain.claim import Claim
from domain.job import Job, Project
from domain.record import Record
from domain.run import DispatchResult
from store.lists import Page

Shape = dict[str, Any]
Item = TypeVar("Item")


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer in UTF-8, with times in RFC 3339 with a Z."""
    return Response(encode(body), status, headers, content_type="application/json")


def encode(body: Any) -> bytes:
    """The JSON of an answer."""
    return orjson.dumps(body, option=orjson.OPT_UTC_Z)


def page_response(page: Page[Item], shape: Callable[[Item], Shape]) -> Response:
    """A page of a list."""
    items = [shape(item) for item in page.items]
    return json_response({"items": items, "next_cursor": page.next_cursor})


def created_response(body: Shape, *, is_new: bool) -> Response:
    """What was created: now, or earlier under the same `Idempotency-Key`."""
    return (
        json_response(body, 201)
        if is_new
        else json_response(body, 200, {"Idempotent-Replayed": "true"})
    )


def project_shape(project: Project) -> Shape:
    """A Project of the contract."""
    return {"id": project.id, "name": project.name, "created_at": project.created_at}


def job_shape(record: Record) -> Shape:
    """A Job of the contract, with its dispatch and failure."""
    job, claim = record.job, record.shown_claim
    return {
        "id": job.id,
        "project_id": job.project_id,
        "name": job.name,
        "metadata": job.metadata,
        "status": job.status,
        "manifest": job.manifest.model_dump(),
        "silent_since": job.silent_since,
        "created_at": job.created_at,
        "updated_at": job.updated_at,
        "dispatch": dispatch_shape(claim) if claim else None,
        "failure": _known_fields(job.failure) if job.failure else None,
    }


def _known_fields(stored: BaseModel) -> Shape:
    # A later release's are in the store, and no part of the contract.
    return stored.model_dump(include=set(type(stored).model_fields))


def dispatch_shape(claim: Claim) -> Shape:
    """A Dispatch of the contract."""
    return {
        "kind": claim.kind,
        "dispatch_id": claim.dispatch_id,
        "phase": claim.phase,
        "claimed_at": claim.claimed_at,
        "sent_at": claim.sent_at,
        "settled_at": claim.settled_at,
        "reason": claim.reason,
        "execution_id": claim.execution_id,
    }


def event_shape(job: Job, event: AuditEvent) -> Shape:
    """An AuditEvent of the contract; what does not apply to an event is left out."""
    shape = {
        "event_type": event.event_type,
        "job_id": job.id,
        "project_id": job.project_id,
        "actor_type": event.actor,
        "prev_status": event.from_status,
        "new_status": event.to_status,
        "occurred_at": event.occurred_at,
        "recorded_at": event.recorded_at,
        "correlation_id": event.correlation_id,
    }
    about_dispatch = {
        "dispatch_id": event.dispatch_id,
        "attempt": event.epoch,
        "reason": event.reason,
        "execution_id": event.execution_id,
    }
    return shape | {name: value for name, value in about_dispatch.items() if value is not None}


def run_shape(job_id: str, result: DispatchResult) -> Shape:
    """A RunJobResponse of the contract."""
    return {
        "job_id": job_id,
        "status": result.status,
        "dispatch_id": result.claim.dispatch_id,
        "replayed": not result.started,
    }


def retry_shape(job_id: str, result: DispatchResult) -> Shape:
    """A RetryJobResponse of the contract."""
    terms = _known_fields(result.claim.retry) if result.claim.retry else {}
    return run_shape(job_id, result) | terms
