"""How things of the domain look in an answer.

`api/schemas.py` documents the same, and a test holds both to the specification. Plain dicts: passing
them through marshmallow again would only cost time.
"""

from typing import Any

from domain.change import Record
from domain.claim import Claim
from domain.models import Job, Project
from domain.trail import TrailEvent

Shape = dict[str, Any]


def project_shape(project: Project) -> Shape:
    """A Project of the contract."""
    return {"id": project.id, "name": project.name, "created_at": project.created_at}


def job_shape(record: Record) -> Shape:
    """A Job of the contract, with its dispatch and failure."""
    job, claim = record.job, record.shown_claim
    return {
        "id": job.id,
        "project_id": job.project_id,
        "status": job.status,
        "manifest": job.manifest.model_dump(),
        "created_at": job.created_at,
        "updated_at": job.updated_at,
        "dispatch": _dispatch_shape(claim) if claim else None,
        "failure": job.failure.model_dump() if job.failure else None,
    }


def _dispatch_shape(claim: Claim) -> Shape:
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


def event_shape(job: Job, event: TrailEvent) -> Shape:
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
