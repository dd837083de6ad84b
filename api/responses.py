"""What goes out: domain values as the JSON of the contract.

A test holds every answer to `spec/api/openapi.yaml`.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import orjson
from flask import Response

from domain.audit import AuditEvent
from domain.claim import Claim
from domain.job import Job, Project
from domain.pause import Pause
from domain.record import Record
from domain.run import DispatchResult
from domain.stored import Stored
from services.operations import Retried, reason_of
from store.lists import Page
from store.overview import Overview

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
    if is_new:
        return json_response(body, 201)
    return json_response(body, 200, {"Idempotent-Replayed": "true"})


# What the contract shows by the name under which it is stored.
_PROJECT = ("id", "name", "created_at")
_JOB = (
    "id", "project_id", "name", "metadata", "status", "silent_since", "created_at", "updated_at",
)  # fmt: skip
_DISPATCH = (
    "kind", "dispatch_id", "phase", "claimed_at", "sent_at", "settled_at", "reason", "execution_id",
)  # fmt: skip
_OVERVIEW = ("in_flight", "unknown", "silent", "oldest_claim_age", "oldest_unknown_age")


def _fields(stored: object, names: Iterable[str]) -> Shape:
    return {name: getattr(stored, name) for name in names}


def _known_fields(stored: Stored) -> Shape:
    # A later release's are in the store, and no part of the contract.
    return _fields(stored, type(stored).model_fields)


def project_shape(project: Project) -> Shape:
    """A Project of the contract."""
    return _fields(project, _PROJECT)


def job_shape(record: Record) -> Shape:
    """A Job of the contract, with its dispatch and failure."""
    job, claim = record.job, record.shown_claim
    return _fields(job, _JOB) | {
        "manifest": job.manifest.model_dump(),
        "dispatch": dispatch_shape(claim) if claim else None,
        "failure": _known_fields(job.failure) if job.failure else None,
    }


def dispatch_shape(claim: Claim) -> Shape:
    """A Dispatch of the contract."""
    return _fields(claim, _DISPATCH)


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


def overview_shape(seen: Overview, pause: Pause | None, queues: list[str]) -> Shape:
    """An Overview of the contract; `queues` are the names of those that `seen` has the lengths of."""
    return _fields(seen, _OVERVIEW) | {
        "jobs": {status.value: count for status, count in seen.jobs.items()},
        "claims": {phase.value: count for phase, count in seen.phases.items()},
        "failed_last_24h": seen.failed_lately,
        "queues": dict(zip(queues, seen.queue_lengths, strict=True)),
        "paused": pause is not None,
        "pause": pause_shape(pause) if pause else None,
    }


def pause_shape(pause: Pause) -> Shape:
    """A Pause of the contract."""
    return {"since": pause.paused_at, "by": pause.by, "reason": pause.reason}


def operator_job_shape(record: Record) -> Shape:
    """An OperatorJob of the contract."""
    job, claim = record.job, record.shown_claim
    return job_shape(record) | {
        "owner": job.owner,
        "status_since": job.in_state_since,
        "reason": reason_of(record),
        "dispatch": claim_shape(claim) if claim else None,
    }


def job_history_shape(record: Record, events: list[AuditEvent], earlier_events: int) -> Shape:
    """A JobHistory of the contract: the job, its claims and its trail."""
    return operator_job_shape(record) | {
        "claims": [claim_shape(claim) for claim in record.claims],
        "events": [operator_event_shape(record.job, event) for event in events],
        "earlier_events": earlier_events,
    }


def retried_shape(retried: Retried) -> Shape:
    """A RetriedJob of the contract."""
    result, error = retried.result, retried.error
    return {
        "job_id": retried.job_id,
        "outcome": result.outcome if result else "refused",
        "dispatch_id": result.claim.dispatch_id if result else None,
        "code": error.code if error else None,
    }


def claim_shape(claim: Claim) -> Shape:
    """A Claim of the contract."""
    return dispatch_shape(claim) | {
        "attempt": claim.epoch,
        "sends": claim.sends,
        "first_sent_at": claim.first_send,
        "due_at": claim.lease_until,
        "run_state": claim.run_state,
        "cancel_due": claim.cancel_due,
        "model_profile": claim.retry.model_profile if claim.retry else None,
        "resume_from_status": claim.retry.resume_from_status if claim.retry else None,
    }


def operator_event_shape(job: Job, event: AuditEvent) -> Shape:
    """An AuditEvent with the name of the operator who did it, if one did."""
    shape = event_shape(job, event)
    return shape | ({"operator": event.operator} if event.operator else {})
