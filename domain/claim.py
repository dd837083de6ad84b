"""The claim: who may post a job's dispatch, and what is known of that post.

One claim a job. `NEXT_PHASE` is the whole protocol: production, the sweep, the operator's commands and
the model checker of `tests/model/` all step through it. `(dispatch_id, epoch)` is the claim's token: a
worker's step counts only for the claim that its message named, so that a late or doubled message, or
a worker that slept through its lease, changes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict

from domain.job_fsm import JobStatus

LONGEST_CLAIM_LEASE = timedelta(minutes=10)


class Phase(StrEnum):
    """How far a dispatch has come. RELEASED is a record: the claim's key is gone by then."""

    CLAIMED = "CLAIMED"
    SENDING = "SENDING"
    SENT = "SENT"
    UNKNOWN = "UNKNOWN"
    RELEASED = "RELEASED"


class ClaimEvent(StrEnum):
    """Everything that can happen to a claim."""

    BEGIN = "begin"  # a worker is about to post; written before the first byte leaves
    ACCEPTED = "accepted"  # the orchestrator answered 2xx
    REFUSED = "refused"  # the orchestrator answered anything else, whole
    NOT_STARTED = "not_started"  # nothing was sent
    LOST = "lost"  # something was sent, and no whole answer came back
    LEASE_OVER = "lease_over"  # nobody reported within the lease
    RESEND = "resend"  # an unknown outcome may be tried again under the same id
    PROVED = "proved"  # a callback shows that the orchestrator has it
    UNQUEUED = "unqueued"  # the broker did not take the message
    CANCELLED = "cancelled"  # the editor gave the job up
    SETTLED_SENT = "settled_sent"  # an operator knows that it arrived
    SETTLED_RELEASE = "settled_release"  # an operator knows that it did not


_P, _E = Phase, ClaimEvent

NEXT_PHASE: Mapping[tuple[Phase, ClaimEvent], Phase] = MappingProxyType(
    {
        (_P.CLAIMED, _E.BEGIN): _P.SENDING,
        (_P.CLAIMED, _E.LEASE_OVER): _P.CLAIMED,
        (_P.CLAIMED, _E.UNQUEUED): _P.RELEASED,
        (_P.CLAIMED, _E.CANCELLED): _P.RELEASED,
        (_P.CLAIMED, _E.PROVED): _P.SENT,
        (_P.SENDING, _E.ACCEPTED): _P.SENT,
        (_P.SENDING, _E.REFUSED): _P.RELEASED,
        (_P.SENDING, _E.NOT_STARTED): _P.RELEASED,
        (_P.SENDING, _E.LOST): _P.UNKNOWN,
        (_P.SENDING, _E.LEASE_OVER): _P.UNKNOWN,
        (_P.SENDING, _E.PROVED): _P.SENT,
        # A worker that slept through its lease still brings the true answer of its own epoch.
        (_P.UNKNOWN, _E.ACCEPTED): _P.SENT,
        (_P.UNKNOWN, _E.REFUSED): _P.RELEASED,
        (_P.UNKNOWN, _E.NOT_STARTED): _P.RELEASED,
        (_P.UNKNOWN, _E.LOST): _P.UNKNOWN,
        (_P.UNKNOWN, _E.RESEND): _P.CLAIMED,
        (_P.UNKNOWN, _E.PROVED): _P.SENT,
        (_P.UNKNOWN, _E.SETTLED_SENT): _P.SENT,
        (_P.UNKNOWN, _E.SETTLED_RELEASE): _P.RELEASED,
        # An accepted retry that never called back: only an operator can know that it is dead.
        (_P.SENT, _E.SETTLED_RELEASE): _P.RELEASED,
        # The orchestrator refused and ran it all the same: its callback is the better witness.
        (_P.RELEASED, _E.PROVED): _P.SENT,
    }
)

IN_FLIGHT = frozenset({Phase.CLAIMED, Phase.SENDING, Phase.UNKNOWN})


class DispatchKind(StrEnum):
    """What a dispatch starts."""

    RUN = "run"
    RETRY = "retry"


class RetryTerms(BaseModel):
    """What a retry asks for beyond a run."""

    model_config = ConfigDict(frozen=True)

    resume_from_status: JobStatus
    checkpoint_ref: str
    model_profile: str


class Claim(BaseModel):
    """One dispatch of a job, from the claim on.

    `lease_until` is when the sweep looks at it again: the end of the worker's lease, or for UNKNOWN
    the end of the hold (None: for ever). `messages` counts what was enqueued for this epoch.
    `resumed` tells of a retry that its first callback has come.
    """

    model_config = ConfigDict(frozen=True)

    kind: DispatchKind
    dispatch_id: str
    epoch: int
    phase: Phase
    claimed_at: datetime
    lease_until: datetime | None
    messages: int = 1
    sends: int = 0
    sent_at: datetime | None = None
    settled_at: datetime | None = None
    reason: str | None = None
    execution_id: str | None = None
    superseded: tuple[str, ...] = ()
    correlation_id: str | None = None
    retry: RetryTerms | None = None
    resumed: bool = False

    @property
    def in_flight(self) -> bool:
        """Whether it is not yet known if the orchestrator has the dispatch."""
        return self.phase in IN_FLIGHT


@dataclass(frozen=True, slots=True)
class DispatchPolicy:
    """The times and the one promise of the orchestrator that the rules depend on.

    `unknown_hold` of None means that an unknown outcome is held for ever.
    """

    claim_lease: timedelta
    send_lease: timedelta
    unknown_hold: timedelta | None
    deduplicates: bool


def next_phase(claim: Claim, event: ClaimEvent) -> Phase | None:
    """Return the phase that `event` leads to, or None if it means nothing to this claim now."""
    return NEXT_PHASE.get((claim.phase, event))


def holds(claim: Claim | None, dispatch_id: str, epoch: int) -> bool:
    """Whether `(dispatch_id, epoch)` is this claim's token. Without it nobody moves the claim."""
    return claim is not None and claim.dispatch_id == dispatch_id and claim.epoch == epoch


def begin(claim: Claim, now: datetime, policy: DispatchPolicy) -> Claim | None:
    """The write-ahead intent: CLAIMED -> SENDING, or None if it is not for this worker to post."""
    phase = next_phase(claim, ClaimEvent.BEGIN)
    if phase is None:
        return None
    return claim.model_copy(
        update={
            "phase": phase,
            "sent_at": now,
            "sends": claim.sends + 1,
            "lease_until": now + policy.send_lease,
        }
    )


def settle(
    claim: Claim,
    event: ClaimEvent,
    now: datetime,
    policy: DispatchPolicy,
    reason: str | None = None,
) -> Claim | None:
    """The claim after an outcome became known (or known to be unknown); None if that changes nothing."""
    phase = next_phase(claim, event)
    if phase is None or phase == claim.phase:
        return None
    return claim.model_copy(
        update={
            "phase": phase,
            "settled_at": None if phase is Phase.UNKNOWN else now,
            "reason": reason,
            "lease_until": _unknown_until(claim, now, policy) if phase is Phase.UNKNOWN else None,
        }
    )


def _unknown_until(claim: Claim, now: datetime, policy: DispatchPolicy) -> datetime | None:
    if policy.deduplicates:
        # Sending again is safe here, but an orchestrator in trouble is given more and more air.
        return now + min(timedelta(seconds=2 ** min(claim.sends, 6)), timedelta(seconds=60))
    return now + policy.unknown_hold if policy.unknown_hold is not None else None


def redeliver(claim: Claim, now: datetime, policy: DispatchPolicy) -> Claim | None:
    """The claim with one more message sent for it; None if it no longer waits for a worker.

    The lease doubles each time: a claim that merely waits in a long queue is not lost, and must not fill
    that queue with copies of its message.
    """
    if next_phase(claim, ClaimEvent.LEASE_OVER) is not Phase.CLAIMED:
        return None
    lease = min(policy.claim_lease * 2 ** min(claim.messages, 16), LONGEST_CLAIM_LEASE)
    return claim.model_copy(update={"lease_until": now + lease, "messages": claim.messages + 1})


def resend(claim: Claim, epoch: int, now: datetime, policy: DispatchPolicy) -> Claim | None:
    """The same dispatch claimed afresh under the next epoch; None if its outcome is not unknown."""
    phase = next_phase(claim, ClaimEvent.RESEND)
    if phase is None:
        return None
    return claim.model_copy(
        update={
            "phase": phase,
            "epoch": epoch,
            "messages": 1,
            "reason": None,
            "lease_until": now + policy.claim_lease,
        }
    )


def may_resend(claim: Claim, now: datetime) -> bool:
    """Whether an unknown outcome's hold is over."""
    return claim.lease_until is not None and now >= claim.lease_until
