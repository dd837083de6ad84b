"""The rules of a dispatch under way: what a worker, the sweep and an operator may do to its claim.

Each returns the change to commit, or None where there is nothing to do: a message that is late, doubled
or for a claim that is no longer there is not an error.
"""

from dataclasses import dataclass
from datetime import datetime

from domain import claim as protocol
from domain.change import Change, Draft, Errand, Record
from domain.claim import Claim, ClaimEvent, DispatchKind, DispatchPolicy, Phase
from domain.dispatching import OUTCOME_UNKNOWN, resend, retry_awaits_resume, wants_dispatch
from domain.job_fsm import JobStatus, ensure_transition
from domain.trail import Actor, EventType

_EVENT_TYPES = {
    ClaimEvent.ACCEPTED: EventType.ACCEPTED,
    ClaimEvent.REFUSED: EventType.REFUSED,
    ClaimEvent.NOT_STARTED: EventType.NOT_STARTED,
    ClaimEvent.LOST: EventType.UNKNOWN,
    ClaimEvent.UNQUEUED: EventType.RELEASED,
    ClaimEvent.CANCELLED: EventType.RELEASED,
    ClaimEvent.SETTLED_SENT: EventType.SETTLED,
    ClaimEvent.SETTLED_RELEASE: EventType.RELEASED,
}


@dataclass(frozen=True, slots=True)
class Token:
    """Which claim a message is for: all that a message carries, and the fence of every worker step."""

    job_id: str
    dispatch_id: str
    epoch: int


def token_of(record: Record) -> Token:
    """The token of the record's standing claim. Raises `ValueError` if there is none."""
    if record.claim is None:
        raise ValueError("no claim stands")
    return Token(record.job.id, record.claim.dispatch_id, record.claim.epoch)


def _held(record: Record, token: Token) -> Claim | None:
    return record.claim if protocol.holds(record.claim, token.dispatch_id, token.epoch) else None


def begin(record: Record, token: Token, now: datetime, policy: DispatchPolicy) -> Change | None:
    """Write the intent to post. Only the holder, only once, only while the job still wants it."""
    claim = _held(record, token)
    begun = protocol.begin(claim, now, policy) if claim else None
    if begun is None or not wants_dispatch(record.job, begun):
        return None
    draft = Draft(record, now, begun.correlation_id)
    draft.note(EventType.SENT, Actor.SYSTEM, claim=begun)
    draft.set_claim(begun)
    return draft.change()


def still_wanted(record: Record, token: Token) -> bool:
    """Whether a worker that has begun may (still) put bytes on the wire."""
    claim = _held(record, token)
    sending = claim is not None and claim.phase is Phase.SENDING
    return sending and claim is not None and wants_dispatch(record.job, claim)


def settle(
    record: Record,
    token: Token,
    event: ClaimEvent,
    reason: str | None,
    now: datetime,
    policy: DispatchPolicy,
) -> Change | None:
    """Record what came of the post; an acceptance takes the job of a run to AUDIO_EXTRACTING."""
    claim = _held(record, token)
    settled = protocol.settle(claim, event, now, policy, reason) if claim else None
    return _settlement(record, settled, event, reason, now) if settled else None


def _settlement(
    record: Record, settled: Claim, event: ClaimEvent, reason: str | None, now: datetime
) -> Change:
    draft = Draft(record, now, settled.correlation_id)
    draft.note(_EVENT_TYPES[event], Actor.SYSTEM, claim=settled, reason=reason)
    draft.set_claim(settled)
    starts = settled.phase is Phase.SENT and settled.kind is DispatchKind.RUN
    # A job that was cancelled meanwhile stays cancelled; one that a callback moved on stays there.
    if starts and draft.job.status is JobStatus.UPLOADED:
        draft.move(ensure_transition(draft.job.status, JobStatus.AUDIO_EXTRACTING), Actor.SYSTEM)
    return draft.change()


def lease_over(record: Record, now: datetime, policy: DispatchPolicy) -> Change | None:
    """What the sweep does to a claim whose time is up: enqueue it again, call it unknown, or resend it."""
    claim = record.claim
    if claim is None or not claim.in_flight or claim.lease_until is None or claim.lease_until > now:
        return None
    if claim.phase is Phase.CLAIMED and not wants_dispatch(record.job, claim):
        return settle(record, token_of(record), ClaimEvent.CANCELLED, "cancelled", now, policy)
    if claim.phase is Phase.CLAIMED:
        return _redeliver(record, claim, now, policy)
    if claim.phase is Phase.SENDING:
        return _call_unknown(record, claim, now, policy)
    return resend(record, now, policy, Actor.SYSTEM) if policy.deduplicates else None


def _redeliver(
    record: Record, claim: Claim, now: datetime, policy: DispatchPolicy
) -> Change | None:
    again = protocol.redeliver(claim, now, policy)
    if again is None:
        return None
    draft = Draft(record, now, claim.correlation_id)
    draft.set_claim(again)
    return draft.change(errand=Errand.DISPATCH)


def _call_unknown(
    record: Record, claim: Claim, now: datetime, policy: DispatchPolicy
) -> Change | None:
    lost = protocol.settle(claim, ClaimEvent.LEASE_OVER, now, policy, OUTCOME_UNKNOWN)
    if lost is None:
        return None
    draft = Draft(record, now, claim.correlation_id)
    draft.note(EventType.UNKNOWN, Actor.SYSTEM, claim=lost, reason="worker_lost")
    draft.set_claim(lost)
    return draft.change()


def settle_by_operator(
    record: Record, event: ClaimEvent, reason: str, now: datetime, policy: DispatchPolicy
) -> Change | None:
    """An operator's word on a dispatch (SETTLED_SENT or SETTLED_RELEASE), with his reason.

    He settles unknown outcomes, and may release an accepted retry that never called back; an accepted
    run is no longer his to release, because the job has moved on.
    """
    claim = record.claim
    if claim is None or (claim.phase is Phase.SENT and not _awaits_first_callback(record, claim)):
        return None
    settled = protocol.settle(claim, event, now, policy, event.value)
    return _settlement(record, settled, event, reason, now) if settled else None


def _awaits_first_callback(record: Record, claim: Claim) -> bool:
    return retry_awaits_resume(claim) and wants_dispatch(record.job, claim)
