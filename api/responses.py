"""Domain values as the JSON of the contract. A test holds every answer to `spec/api/openapi.yaml`."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import orjson
from flask.json.provider import JSONProvider

from domain.audit import AuditEvent
from domain.claim import Claim
from domain.job import Job, Project
from domain.pause import Pause
from domain.record import Record
from domain.run import DispatchResult
from domain.stored import Stored
from services.operations import Retried
from store.lists import Page
from store.overview import Overview

Shape = dict[str, Any]
Item = TypeVar("Item")


class JsonProvider(JSONProvider):
    """What Flask makes answers of, where a view returns a dict."""

    def dumps(self, obj: Any, **_: Any) -> str:
        """JSON, with times in RFC 3339 with a Z."""
        return encode(obj).decode()


def encode(body: Any) -> bytes:
    """JSON in UTF-8, with times in RFC 3339 with a Z."""
    return orjson.dumps(body, option=orjson.OPT_UTC_Z)


def page_shape(page: Page[Item], shape: Callable[[Item], Shape]) -> Shape:
    """A page of a list."""
    return {"items": [shape(item) for item in page.items], "next_cursor": page.next_cursor}


def created(body: Shape, *, is_new: bool) -> tuple[Shape, int, dict[str, str]]:
    """The answer to a create: 201, or 200 if the same `Idempotency-Key` created it earlier."""
    return (body, 201, {}) if is_new else (body, 200, {"Idempotent-Replayed": "true"})


# Fields that the contract and the stored record call by the same name.
_PROJECT = ("id", "name", "created_at")
_JOB = (
    "id", "project_id", "name", "metadata", "status", "silent_since", "created_at", "updated_at",
)  # fmt: skip
_DISPATCH = (
    "kind", "dispatch_id", "phase", "claimed_at", "sent_at", "settled_at", "reason", "execution_id",
)  # fmt: skip
_CLAIM = (*_DISPATCH, "first_sent_at", "sends", "run_state", "cancel_due")
_EVENT = ("event_type", "occurred_at", "recorded_at", "correlation_id")
_EVENT_DETAILS = ("dispatch_id", "reason", "execution_id")
_OVERVIEW = (
    "in_flight", "unknown", "at_another_engine", "silent", "oldest_claim_age", "oldest_unknown_age",
)  # fmt: skip


def _fields(stored: object, names: Iterable[str], **renamed: str) -> Shape:
    same = {name: getattr(stored, name) for name in names}
    return same | {name: getattr(stored, field) for name, field in renamed.items()}


def _known_fields(stored: Stored) -> Shape:
    # The store may also hold fields of a later release, which the contract does not have.
    return _fields(stored, type(stored).model_fields)


def project_shape(project: Project) -> Shape:
    """A Project of the contract."""
    return _fields(project, _PROJECT)


def job_shape(record: Record) -> Shape:
    """A Job of the contract, with its dispatch and failure."""
    job, claim = record.job, record.latest_claim
    return _fields(job, _JOB) | {
        "manifest": job.manifest.model_dump(),
        "dispatch": _fields(claim, _DISPATCH) if claim else None,
        "failure": _known_fields(job.failure) if job.failure else None,
    }


def event_shape(job: Job, event: AuditEvent, details: tuple[str, ...] = _EVENT_DETAILS) -> Shape:
    """An AuditEvent of the contract, with those of its `details` that are set."""
    shape = _fields(
        event, _EVENT, actor_type="actor", prev_status="from_status", new_status="to_status"
    )
    shape |= {"job_id": job.id, "project_id": job.project_id}
    found = _fields(event, details, attempt="epoch")
    return shape | {name: value for name, value in found.items() if value is not None}


def dispatch_shape(job_id: str, result: DispatchResult) -> Shape:
    """A RunJobResponse of the contract; of a retry a RetryJobResponse, which also has its terms."""
    return {
        "job_id": job_id,
        "status": result.status,
        "dispatch_id": result.claim.dispatch_id,
        "replayed": not result.started,
    } | (_known_fields(result.claim.retry) if result.claim.retry else {})


def overview_shape(seen: Overview, pause: Pause | None, queues: dict[str, int]) -> Shape:
    """An Overview of the contract, with the length of each queue."""
    return _fields(seen, _OVERVIEW, failed_last_24h="failed_lately") | {
        "jobs": {status.value: count for status, count in seen.jobs.items()},
        "claims": {phase.value: count for phase, count in seen.phases.items()},
        "queues": queues,
        "paused": pause is not None,
        "pause": _fields(pause, ("by", "reason"), since="paused_at") if pause else None,
    }


def operator_job_shape(record: Record) -> Shape:
    """An OperatorJob of the contract."""
    job, claim = record.job, record.latest_claim
    return job_shape(record) | {
        "owner": job.owner,
        "status_since": job.in_state_since,
        "reason": record.reason,
        "dispatch": claim_shape(claim) if claim else None,
    }


def job_history_shape(record: Record, events: list[AuditEvent], earlier_events: int) -> Shape:
    """A JobHistory of the contract: the job, its claims and its trail with the names of operators."""
    details = (*_EVENT_DETAILS, "operator")
    return operator_job_shape(record) | {
        "claims": [claim_shape(claim) for claim in record.claims],
        "events": [event_shape(record.job, event, details) for event in events],
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
    retry = claim.retry
    return _fields(claim, _CLAIM, attempt="epoch", due_at="lease_until") | {
        "model_profile": retry.model_profile if retry else None,
        "resume_from_status": retry.resume_from_status if retry else None,
    }
