"""The rules of a dispatch under way: what a worker, the sweep and an operator may do to a claim.

A rule that has nothing to do returns an unchanged decision: a late or duplicate message, or one for a claim
that is gone, is no error.
"""

from dataclasses import replace
from datetime import datetime

from domain.audit import Actor, EventType
from domain.claim import Claim, ClaimEvent, DispatchKind, DispatchPolicy, FencingToken, Phase
from domain.job import Job
from domain.job_fsm import JobStatus
from domain.record import Change, Decision, Record, TaskKind

# These prove that the orchestrator has a dispatch, whichever of its sends they answer.
_PROOF = frozenset({ClaimEvent.ACCEPTED, ClaimEvent.FOUND})
# The trail's event for each claim event that settles a dispatch; any other is RELEASED.
_EVENT_TYPES = {
    ClaimEvent.ACCEPTED: EventType.ACCEPTED,
    ClaimEvent.FOUND: EventType.FOUND,
    ClaimEvent.REFUSED: EventType.REFUSED,
    ClaimEvent.NOT_STARTED: EventType.NOT_STARTED,
    ClaimEvent.SETTLED_SENT: EventType.SETTLED,
}


def wants_dispatch(job: Job, claim: Claim) -> bool:
    """Whether the job is still in the state that this dispatch starts from."""
    start = JobStatus.UPLOADED if claim.kind is DispatchKind.RUN else JobStatus.FAILED
    return job.status is start


def begin(change: Change, token: FencingToken) -> Decision[bool]:
    """Store the intent to post (CLAIMED → SENDING); the result is whether the caller may post.

    A dispatch that was sent before, and that the engine may no longer recognise, becomes UNKNOWN instead.
    While dispatching is paused, the store refuses this commit.
    """
    now, policy, claim = change.now, change.policy, change.record.held_by(token)
    phase = claim.next_phase(ClaimEvent.BEGIN) if claim else None
    if claim is None or phase is None or not wants_dispatch(change.job, claim):
        return change.decision(False)
    change.correlation_id = claim.correlation_id
    if not claim.may_be_sent(now, policy):
        settle_claim(change, claim, ClaimEvent.WINDOW_OVER, ClaimEvent.WINDOW_OVER.value)
        return change.decision(False)
    change.log(EventType.SENT, Actor.SYSTEM, claim=claim)
    change.update_claim(
        phase=phase,
        sent_at=now,
        first_sent_at=claim.first_sent_at if claim.sends else now,
        engine=claim.engine if claim.sends else policy.engine or None,
        sends=claim.sends + 1,
        lease_until=now + policy.send_lease,
    )
    return replace(change.decision(True), unless_paused=True)


def put_back(change: Change, token: FencingToken) -> Decision[None]:
    """Enqueue a claim's message again, because the worker that took it could not act on it."""
    claim = change.record.held_by(token)
    if claim is not None and claim.phase is Phase.CLAIMED:
        change.task = TaskKind.DISPATCH
    return change.decision(None)


def still_wanted(
    record: Record, token: FencingToken, now: datetime, policy: DispatchPolicy
) -> bool:
    """Whether a worker that has begun may (still) send."""
    claim = record.held_by(token)
    if claim is None or claim.phase is not Phase.SENDING or not wants_dispatch(record.job, claim):
        return False
    return not claim.earlier_sends or claim.may_be_sent(now, policy)


def settle(
    change: Change,
    token: FencingToken,
    event: ClaimEvent,
    reason: str | None,
    http_status: int | None = None,
) -> Decision[None]:
    """Record the outcome of a post; `http_status`, the engine's, is for the trail.

    Only a negative outcome is fenced by the epoch. An acceptance proves that the dispatch arrived, even one
    of an older epoch, and the next send is then not made.
    """
    record = change.record
    claim = record.standing(token.dispatch_id) if event in _PROOF else record.held_by(token)
    if claim is not None:
        change.correlation_id = claim.correlation_id
        shown = f"{reason} {http_status}" if http_status else reason
        settle_claim(change, claim, event, reason, shown)
    return change.decision(None)


def settle_claim(
    change: Change,
    claim: Claim,
    event: ClaimEvent,
    reason: str | None = None,
    shown: str | None = None,
    actor: Actor = Actor.SYSTEM,
) -> None:
    """Apply `event` to the claim, if it changes the phase. `shown`: the reason for the trail, if another.

    An accepted run takes its job to AUDIO_EXTRACTING.
    """
    settled = claim.after(event, change.now, change.policy, reason)
    if settled is None:
        return
    is_unknown = settled.phase is Phase.UNKNOWN
    event_type = EventType.UNKNOWN if is_unknown else _EVENT_TYPES.get(event, EventType.RELEASED)
    change.log(event_type, actor, claim=settled, reason=shown or reason)
    change.set_claim(settled)
    # A job that was cancelled meanwhile, or moved on by a callback, stays where it is.
    if settled.phase is Phase.SENT and change.job.status is JobStatus.UPLOADED:
        change.move(JobStatus.AUDIO_EXTRACTING, Actor.SYSTEM)
    change.set_next_look()


def resend(change: Change, claim: Claim, actor: Actor) -> bool:
    """Claim an unknown dispatch again, under its own id and the next epoch; whether that is allowed."""
    phase, now, policy = claim.next_phase(ClaimEvent.RESEND), change.now, change.policy
    is_wanted = wants_dispatch(change.job, claim) and claim.may_be_sent(now, policy)
    if phase is None or not is_wanted:
        return False
    change.correlation_id = change.correlation_id or claim.correlation_id
    change.update_claim(
        phase=phase,
        epoch=change.record.next_epoch,
        messages=1,
        reason=None,
        asked_at=None,
        asks=0,
        lease_until=now + policy.claim_lease,
    )
    change.log(EventType.RESENT, actor, claim=change.record.claim)
    change.task = TaskKind.DISPATCH
    return True


def settle_by_operator(change: Change, event: ClaimEvent) -> Decision[None]:
    """Settle a dispatch on an operator's word: SETTLED_SENT or SETTLED_RELEASE.

    Operators settle unknown outcomes, and may release an accepted retry that never called back. An accepted
    run is not released, because its job has moved on.
    """
    claim = change.record.claim
    if claim is not None and (claim.phase is not Phase.SENT or change.record.awaits_resume):
        change.correlation_id = claim.correlation_id
        settle_claim(change, claim, event, event.value)
    return change.decision(None)
