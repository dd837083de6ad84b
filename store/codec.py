"""How records and audit events are stored in Redis: compact JSON.

A record states its form (spec/decisions/0019). This release reads its own form and the one before, and keeps
fields that it does not know. A job's past claims are stored under the names that the previous release knows
(`released` and `earlier`), so that both can run on one store.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import orjson

from domain.audit import Actor, AuditEvent, EventType
from domain.claim import Claim, Phase
from domain.job import Job, Project
from domain.job_fsm import JobStatus
from domain.record import AppliedEvent, Record
from store.errors import RecordUnreadable

Model = TypeVar("Model", Claim, Project)

#: The form that this release writes. A record that states none is of form 0.
FORM: Final = 1

# How many optional fields at an event's end this release knows. A later one may add more.
_OPTIONAL_FIELDS = 6


@contextmanager
def _reading(record_id: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RecordUnreadable(record_id) from error


def load_record(job_id: str, job: bytes, claim: bytes, seen: bytes | None = None) -> Record:
    """Read a job, its claim (empty: none) and an applied callback. Raises `RecordUnreadable`."""
    with _reading(job_id):
        fields = _load(job)
        past = [*fields.pop("earlier", {}).values(), fields.pop("released", None)]
        fields["past_claims"] = sorted(filter(None, past), key=lambda claim: claim["epoch"])
        return Record(
            Job.model_validate(fields),
            load(Claim, job_id, claim) if claim else None,
            revision=(job, claim),
            seen=AppliedEvent(*seen.decode().partition(" ")[::2]) if seen else None,
        )


def load(kind: type[Model], record_id: str, raw: bytes) -> Model:
    """Read a claim (by its job's id) or a project. Raises `RecordUnreadable`."""
    with _reading(record_id):
        return kind.model_validate(_load(raw))


def _load(raw: bytes) -> dict[str, Any]:
    fields = orjson.loads(raw)
    if not isinstance(fields, dict) or fields.pop("form", 0) not in (FORM - 1, FORM):
        raise ValueError("the record has another form")
    return fields


def dump(record: Job | Claim | Project) -> bytes:
    """Write a record without the fields that have their default."""
    fields = record.model_dump(exclude_defaults=True)
    for claim in fields.pop("past_claims", ()):  # of a job
        if claim["phase"] is Phase.RELEASED:
            fields["released"] = claim
        else:
            fields.setdefault("earlier", {})[claim["dispatch_id"]] = claim
    return orjson.dumps({"form": FORM, **fields}, option=orjson.OPT_UTC_Z)


def dump_event(event: AuditEvent) -> bytes:
    """Write an event as a list without its empty tail: a million jobs have several million events."""
    fields: list[Any] = [*event]
    fields[4:6] = (round(moment.timestamp() * 1_000_000) for moment in event[4:6])
    while fields[-1] is None:
        fields.pop()
    return orjson.dumps(fields)


def load_event(raw: bytes) -> AuditEvent | None:
    """Read an event; None if this release does not know its type, actor or state."""
    try:
        kind, actor, before, after, occurred, recorded, *rest = orjson.loads(raw)
        return AuditEvent(
            EventType(kind),
            Actor(actor),
            JobStatus(before) if before else None,
            JobStatus(after),
            datetime.fromtimestamp(occurred / 1_000_000, UTC),
            datetime.fromtimestamp(recorded / 1_000_000, UTC),
            *rest[:_OPTIONAL_FIELDS],
        )
    except (ValueError, TypeError, OverflowError):
        return None
