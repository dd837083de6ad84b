"""How jobs, claims and trail lines are written in Redis: compact JSON.

By pydantic's validators and serializers themselves: the methods around them take a fifth as long again, and
every request reads a job and a claim.
"""

from datetime import UTC, datetime
from typing import Any

import orjson

from domain.claim import Claim
from domain.job_fsm import JobStatus
from domain.models import Job, Project
from domain.trail import Actor, EventType, TrailEvent


def dump(model: Job | Claim | Project) -> bytes:
    """Write a model; fields at their default are left out."""
    return model.__pydantic_serializer__.to_json(model, exclude_defaults=True)


def load_job(raw: bytes) -> Job:
    """Read a job."""
    job: Job = Job.__pydantic_validator__.validate_json(raw)
    return job


def load_claim(raw: bytes) -> Claim:
    """Read a claim."""
    claim: Claim = Claim.__pydantic_validator__.validate_json(raw)
    return claim


def load_project(raw: bytes) -> Project:
    """Read a project."""
    return Project.model_validate_json(raw)


def dump_event(event: TrailEvent) -> bytes:
    """Write a trail line as a list without its empty tail: a million jobs have several million lines."""
    fields: list[Any] = [
        event.event_type,
        event.actor,
        event.from_status,
        event.to_status,
        _micros(event.occurred_at),
        _micros(event.recorded_at),
        event.correlation_id,
        event.dispatch_id,
        event.epoch,
        event.reason,
        event.execution_id,
    ]
    while fields[-1] is None:
        fields.pop()
    return orjson.dumps(fields)


def load_event(raw: bytes) -> TrailEvent:
    """Read a trail line."""
    kind, actor, before, after, occurred, recorded, *rest = orjson.loads(raw)
    return TrailEvent(
        EventType(kind),
        Actor(actor),
        JobStatus(before) if before else None,
        JobStatus(after),
        _moment(occurred),
        _moment(recorded),
        *rest,
    )


def _micros(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)


def _moment(micros: int) -> datetime:
    return datetime.fromtimestamp(micros / 1_000_000, UTC)
