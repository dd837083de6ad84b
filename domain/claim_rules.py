"""The rules of a dispatch under way: what a worker, the sweep and an operator may do to a claim.

Each returns a `Decision` that changes nothing where there is nothing to do: a message that is late, doubled
or for a claim that is no longer there is not an error.
"""

from dataclasses import replace
from datetime import datetime

from domain.audit import Actor, EventType, OperatorAct
from domain.claim import Claim, ClaimEvent, DispatchKind, DispatchPolicy, FencingToken, Phase
from domain.job import Job
from domain.job_fsm import JobStatus, ensure_transition
from domain.record import Change, Decision, Record, TaskKind, unchanged

# What proves that the orchestrator has a dispatch, whichever send it is the answer to.
_PROOF = frozenset({ClaimEvent.ACCEPTED, ClaimEvent.FOUND})
# What the trail says of an event that settles a dispatch; of any other, that the claim was released.
_EVENT_TYPES = {
    ClaimEvent.ACCEPTED: EventType.ACCEPTED,
    ClaimEvent.FOUND: EventType.FOUND,
    ClaimEvent.REFUSED: EventType.REFUSED,
    ClaimEvent.NOT_STARTED: EventType.NOT_STARTED,
    ClaimEvent.SETTLED_SENT: EventType.SETTLED,
}


def wants_dispatch(job: Job, claim: Claim) -> bool:
    """Whether the job is still where this dispatch would start from."""
    start = JobStatus.UPLOADED if claim.kind is DispatchKind.RUN else JobStatus.FAILED
    return job.status is start


def begin(
    record: Record, token: FencingToken, now: datetime, policy: DispatchPolicy
) -> Decision[bool]:
    """Store the intent to post: CLAIMED → SENDING. Only the holder, only once, only if still wanted.

    The result is whether the caller may post. A dispatch that was sent before and that the engine may not
    recognise any more is not sent again: its outcome stays unknown. While dispatching is paused, the store
    refuses to commit a post's beginning.
    """
    claim = record.held_by(token)
    phase = claim.next_phase(ClaimEvent.BEGIN) if claim else None
    if claim is None or phase is None or not wants_dispatch(record.job, claim):
        return Decision(False, record)
    change = Change(record, now, claim.correlation_id)
    if not claim.may_be_sent(now, policy):
        event = ClaimEvent.WINDOW_OVER
        return settlement(change, claim, event, event.value, policy).with_result(False)
    change.log(EventType.SENT, Actor.SYSTEM, claim=claim)
    change.update_claim(
        phase=phase,
        sent_at=now,
        first_sent_at=claim.first_send if claim.sends else now,
        engine=claim.engine if claim.sends else policy.engine or None,
        sends=claim.sends + 1,
        lease_until=now + policy.send_lease,
    )
    return replace(change.decision(True), unless_paused=True)


def put_back(record: Record, token: FencingToken) -> Decision[None]:
    """Enqueue the message of a claim once more, because the one that was taken could not be acted on."""
    claim = record.held_by(token)
    if claim is None or claim.phase is not Phase.CLAIMED:
        return unchanged(record)
    return Decision(None, record, changed=True, task=TaskKind.DISPATCH)


def still_wanted(
    record: Record, token: FencingToken, now: datetime, policy: DispatchPolicy
) -> bool:
    """Whether a worker that has begun may (still) put bytes on the wire."""
    claim = record.held_by(token)
    if claim is None or claim.phase is not Phase.SENDING or not wants_dispatch(record.job, claim):
        return False
    return not claim.earlier_sends or claim.may_be_sent(now, policy)


def settle(
    record: Record,
    token: FencingToken,
    event: ClaimEvent,
    reason: str | None,
    now: datetime,
    policy: DispatchPolicy,
    http_status: int | None = None,
) -> Decision[None]:
    """Record the outcome of a post; an acceptance takes the job of a run to AUDIO_EXTRACTING.

    `http_status` is the engine's, for the trail. Only negative words are fenced by the epoch: an acceptance
    proves that the dispatch arrived, also under an older epoch, and the next send is then not made.
    """
    claim = record.standing(token.dispatch_id) if event in _PROOF else record.held_by(token)
    if claim is None:
        return unchanged(record)
    shown = f"{reason} {http_status}" if http_status else reason
    change = Change(record, now, claim.correlation_id)
    return settlement(change, claim, event, reason, policy, shown)


def settlement(
    change: Change,
    claim: Claim,
    event: ClaimEvent,
    reason: str | None,
    policy: DispatchPolicy,
    shown: str | None = None,
    actor: Actor = Actor.SYSTEM,
) -> Decision[None]:
    """What `event` does to the claim; nothing if it changes no phase. `shown`: another reason for the trail."""
    settled = claim.after(event, change.now, policy, reason)
    if settled is None:
        return unchanged(change.record)
    is_unknown = settled.phase is Phase.UNKNOWN
    event_type = EventType.UNKNOWN if is_unknown else _EVENT_TYPES.get(event, EventType.RELEASED)
    change.log(event_type, actor, claim=settled, reason=shown or reason)
    change.set_claim(settled)
    starts = settled.phase is Phase.SENT and settled.kind is DispatchKind.RUN
    # A job that was cancelled meanwhile stays cancelled; one that a callback moved on stays there.
    if starts and change.job.status is JobStatus.UPLOADED:
        change.move(ensure_transition(change.job.status, JobStatus.AUDIO_EXTRACTING), Actor.SYSTEM)
    change.set_next_look(policy)
    return change.decision(None)


def resend(change: Change, policy: DispatchPolicy, actor: Actor) -> Decision[None]:
    """Claim an unknown dispatch afresh, under its own id and the next epoch."""
    record, claim, now = change.record, change.record.claim, change.now
    phase = claim.next_phase(ClaimEvent.RESEND) if claim else None
    is_wanted = claim is not None and wants_dispatch(record.job, claim)
    if claim is None or phase is None or not is_wanted or not claim.may_be_sent(now, policy):
        return unchanged(record)
    change.correlation_id = change.correlation_id or claim.correlation_id
    change.update_claim(
        phase=phase,
        epoch=record.next_epoch,
        messages=1,
        reason=None,
        asked_at=None,
        asks=0,
        lease_until=now + policy.claim_lease,
    )
    change.log(EventType.RESENT, actor, claim=change.record.claim)
    return change.decision(None, task=TaskKind.DISPATCH)


def settle_by_operator(
    record: Record, event: ClaimEvent, act: OperatorAct, now: datetime, policy: DispatchPolicy
) -> Decision[None]:
    """An operator's word on a dispatch (SETTLED_SENT or SETTLED_RELEASE), with their reason.

    Operators settle unknown outcomes, and may release an accepted retry that never called back. An accepted
    run cannot be released, because the job has moved on.
    """
    claim = record.claim
    awaited = claim is not None and claim.awaits_resume and wants_dispatch(record.job, claim)
    if claim is None or (claim.phase is Phase.SENT and not awaited):
        return unchanged(record)
    change = Change(record, now, claim.correlation_id, act)
    return settlement(change, claim, event, event.value, policy, act.reason)
