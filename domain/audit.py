"""The audit trail: what happened to a job, who did it, and when."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from domain.job_fsm import JobStatus


class Actor(StrEnum):
    """Who caused an event."""

    EDITOR = "editor"
    ORCHESTRATOR = "orchestrator"
    OPERATOR = "operator"
    SYSTEM = "system"


class EventType(StrEnum):
    JOB_CREATED = "job.created"
    UPLOAD_CONFIRMED = "job.upload_confirmed"
    STATUS_CHANGED = "job.status_changed"
    JOB_CANCELLED = "job.cancelled"
    CLAIMED = "dispatch.claimed"
    SENT = "dispatch.sent"  # stored before the post; the claim is then SENDING
    ACCEPTED = "dispatch.accepted"
    REFUSED = "dispatch.refused"
    NOT_STARTED = "dispatch.not_started"
    UNKNOWN = "dispatch.unknown"
    PROVED = "dispatch.proved"
    FOUND = "dispatch.found"
    RELEASED = "dispatch.released"
    SUPERSEDED = "dispatch.superseded"
    RESENT = "dispatch.resent"
    SETTLED = "dispatch.settled"
    CANCEL_NOTIFIED = "orchestrator.cancel_notified"
    RUN_FAILED = "orchestrator.run_failed"
    REPORTED_LATE = "orchestrator.reported_late"
    SILENT = "job.silent"
    ASKED = "dispatch.asked"


@dataclass(frozen=True, slots=True)
class OperatorAct:
    """Who acts, and why. Editors are shown the reason, and operators the name too."""

    operator: str
    reason: str | None


class AuditEvent(NamedTuple):
    """One event of a job's trail. The fields are stored in this order; the ids are part of the key.

    `from_status` and `to_status` differ only if the event changed the job's state. `reason` is a word of the
    service's own or an operator's text; never a URI, an orchestrator's message or a secret. `operator`: a
    name.
    """

    event_type: EventType
    actor: Actor
    from_status: JobStatus | None
    to_status: JobStatus
    occurred_at: datetime
    recorded_at: datetime
    correlation_id: str | None = None
    dispatch_id: str | None = None
    epoch: int | None = None
    reason: str | None = None
    execution_id: str | None = None
    operator: str | None = None
