"""What operators are shown, over HTTP and on the command line: more than a job's owner is."""

from api.responses import Shape, dispatch_shape, event_shape, job_shape
from domain.audit import AuditEvent
from domain.claim import Claim
from domain.job import Job
from domain.pause import Pause
from domain.record import Record
from services.operations import Retried, reason_of
from store.overview import Overview


def overview_shape(seen: Overview, pause: Pause | None, queues: list[str]) -> Shape:
    """An Overview of the contract; `queues` are the names of those that `seen` has the lengths of."""
    return {
        "jobs": {status.value: count for status, count in seen.jobs.items()},
        "claims": {phase.value: count for phase, count in seen.phases.items()},
        "in_flight": seen.in_flight,
        "unknown": seen.unknown,
        "silent": seen.silent,
        "failed_last_24h": seen.failed_lately,
        "oldest_claim_age": seen.oldest_claim_age,
        "oldest_unknown_age": seen.oldest_unknown_age,
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
        "status_since": job.status_since or job.updated_at,
        "reason": reason_of(record),
        "dispatch": claim_shape(claim) if claim else None,
    }


def job_history_shape(record: Record, events: list[AuditEvent], earlier_events: int) -> Shape:
    """A JobHistory of the contract: the job, its claims and its trail."""
    claims = [*record.job.past_claims, *([record.claim] if record.claim else [])]
    return operator_job_shape(record) | {
        "claims": [claim_shape(claim) for claim in claims],
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
