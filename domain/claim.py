"""The claim: which dispatch of a job stands, and what is known of its delivery.

There is one claim per job. `NEXT_PHASE` is the whole protocol: production, the sweep, the operator's
commands and the model checker (`tests/model/`) all step through it. `(dispatch_id, epoch)` is the fencing
token: a worker's step counts only for the claim that its message names, so a late or duplicate message, or
a worker that was stopped past its lease, changes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Self

from domain.job_fsm import JobStatus
from domain.pause import Pause
from domain.stored import Stored

OUTCOME_UNKNOWN = "outcome_unknown"

# How long after the last send a cancelled job's dispatch may still turn up.
ABANDONED_AFTER = timedelta(hours=24)
# A message that tells of a cancel may have been lost after so long.
TOLD_AGAIN_AFTER = timedelta(seconds=30)
_LONGEST_PAUSE = timedelta(seconds=60)
# Where nothing can be asked and nothing may be sent again, a claim is still looked at, so that it stays listed.
SELDOM = timedelta(hours=1)


class Phase(StrEnum):
    """How far a dispatch has come. A RELEASED claim is kept with the job; its key is gone by then."""

    CLAIMED = "CLAIMED"
    SENDING = "SENDING"
    SENT = "SENT"
    UNKNOWN = "UNKNOWN"
    RELEASED = "RELEASED"


class ClaimEvent(StrEnum):
    BEGIN = "begin"  # a worker is about to post; stored before the first byte leaves
    ACCEPTED = "accepted"  # the orchestrator answered 2xx
    REFUSED = "refused"  # the orchestrator answered anything else, whole
    NOT_STARTED = "not_started"  # nothing was sent
    LOST = "lost"  # something was sent, and no whole answer came back
    LEASE_OVER = "lease_over"  # no worker reported within the lease
    RESEND = "resend"  # an unknown outcome may be tried again under the same id
    PROVED = "proved"  # a callback shows that the orchestrator has it
    FOUND = "found"  # the orchestrator, asked, has it
    WINDOW_OVER = "window_over"  # too late to send it again: the orchestrator may not recognise it
    ABANDONED = "abandoned"  # the job is cancelled, and nothing of the dispatch was ever found
    UNQUEUED = "unqueued"  # the broker did not take the message
    CANCELLED = "cancelled"  # the editor cancelled the job
    SETTLED_SENT = "settled_sent"  # an operator knows that it arrived
    SETTLED_RELEASE = "settled_release"  # an operator knows that it did not


class Refusal(StrEnum):
    """Why an orchestrator said no, in words of ours: what callers, the trail and operators are shown."""

    UNAUTHORIZED = "unauthorized"
    UNKNOWN_WORKFLOW = "unknown_workflow"
    UNSUPPORTED = "unsupported_workflow"  # it is there, and would run one dispatch twice
    INVALID_PARAMETERS = "invalid_parameters"
    UNAVAILABLE = "unavailable"
    REFUSED = "refused"


class RunState(StrEnum):
    """What an engine says of a dispatch when it is asked. All but the last two prove that it arrived."""

    RUNNING = "running"  # or queued
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    NOT_FOUND = "not_found"
    NO_ANSWER = "no_answer"


ENDED_BADLY = frozenset({RunState.FAILED, RunState.CANCELLED})
FOUND = frozenset({RunState.RUNNING, RunState.SUCCEEDED}) | ENDED_BADLY

_P, _E = Phase, ClaimEvent

NEXT_PHASE: Mapping[tuple[Phase, ClaimEvent], Phase] = MappingProxyType(
    {
        (_P.CLAIMED, _E.BEGIN): _P.SENDING,
        (_P.CLAIMED, _E.LEASE_OVER): _P.CLAIMED,
        (_P.CLAIMED, _E.UNQUEUED): _P.RELEASED,
        (_P.CLAIMED, _E.CANCELLED): _P.RELEASED,
        # An older epoch's answer that came late.
        (_P.CLAIMED, _E.ACCEPTED): _P.SENT,
        (_P.CLAIMED, _E.PROVED): _P.SENT,
        (_P.CLAIMED, _E.FOUND): _P.SENT,
        (_P.CLAIMED, _E.WINDOW_OVER): _P.UNKNOWN,
        (_P.SENDING, _E.ACCEPTED): _P.SENT,
        (_P.SENDING, _E.REFUSED): _P.RELEASED,
        (_P.SENDING, _E.NOT_STARTED): _P.RELEASED,
        (_P.SENDING, _E.LOST): _P.UNKNOWN,
        (_P.SENDING, _E.LEASE_OVER): _P.UNKNOWN,
        (_P.SENDING, _E.PROVED): _P.SENT,
        (_P.SENDING, _E.FOUND): _P.SENT,
        # A worker that was stopped past its lease still brings the true answer of its own epoch.
        (_P.UNKNOWN, _E.ACCEPTED): _P.SENT,
        (_P.UNKNOWN, _E.REFUSED): _P.RELEASED,
        (_P.UNKNOWN, _E.NOT_STARTED): _P.RELEASED,
        (_P.UNKNOWN, _E.LOST): _P.UNKNOWN,
        (_P.UNKNOWN, _E.RESEND): _P.CLAIMED,
        (_P.UNKNOWN, _E.PROVED): _P.SENT,
        (_P.UNKNOWN, _E.FOUND): _P.SENT,
        (_P.UNKNOWN, _E.ABANDONED): _P.RELEASED,
        (_P.UNKNOWN, _E.SETTLED_SENT): _P.SENT,
        (_P.UNKNOWN, _E.SETTLED_RELEASE): _P.RELEASED,
        # An accepted retry that never called back: only an operator can know that it is dead.
        (_P.SENT, _E.SETTLED_RELEASE): _P.RELEASED,
        # The orchestrator refused and ran it all the same: its callback is the better evidence.
        (_P.RELEASED, _E.PROVED): _P.SENT,
    }
)

# A word that nothing happened speaks only of its own send. While an earlier send of the same dispatch is
# unresolved, the outcome of the dispatch stays unknown.
_ABOUT_ONE_SEND = frozenset({_E.REFUSED, _E.NOT_STARTED, _E.UNQUEUED, _E.CANCELLED})

IN_FLIGHT = frozenset({Phase.CLAIMED, Phase.SENDING, Phase.UNKNOWN})


class DispatchKind(StrEnum):
    RUN = "run"
    RETRY = "retry"


class RetryTerms(Stored):
    """What a retry asks for beyond a run."""

    resume_from_status: JobStatus
    checkpoint_ref: str
    model_profile: str


@dataclass(frozen=True, slots=True)
class DispatchPolicy:
    """The times, and the properties of the orchestrator, that the rules depend on.

    `unknown_hold` of None means that an unknown outcome is held for ever. `window` is how long after the
    first send the same dispatch may be sent again without a second execution, with every margin taken off:
    None for never, `timedelta.max` for ever. `engine` is a digest of which engine this is. `first_report` and
    `silent_after` are how long an accepted dispatch, and a job that has reported, may say nothing (None: for
    ever). `pause` is the latest pause of dispatching.
    """

    claim_lease: timedelta
    send_lease: timedelta
    unknown_hold: timedelta | None
    window: timedelta | None = None
    can_be_asked: bool = False
    can_cancel: bool = False
    engine: str = ""
    first_report: timedelta | None = None
    silent_after: timedelta | None = None
    pause: Pause | None = None

    @property
    def is_paused(self) -> bool:
        return self.pause is not None and self.pause.is_on


@dataclass(frozen=True, slots=True)
class FencingToken:
    """Which claim a message is for: all that a message carries, and what fences every worker step."""

    job_id: str
    dispatch_id: str
    epoch: int


class Claim(Stored):
    """One dispatch of a job, from the claim on.

    `lease_until` is when the sweep looks at it again: the end of the worker's lease; for UNKNOWN the next
    ask, the next send, or the end of the hold; for SENT when a callback is overdue (None: never).
    `messages` counts what was enqueued for this epoch, `sends` the posts of this dispatch under any epoch,
    `first_sent_at` is the time of the first. `engine` is the digest of the engine that it was first sent to.
    `asked_at` is set while a worker asks the engine, `asks` counts the asks since the last send. `run_state`
    is the engine's last word and `run_state_at` when it gave it, `ended_at` since when it says that the run
    ended badly. `is_dead`: it was concluded that it did. `cancel_due`: the engine must still be told to stop.
    `resumed`: the first callback of a retry has come.
    """

    kind: DispatchKind
    dispatch_id: str
    epoch: int
    phase: Phase
    claimed_at: datetime
    lease_until: datetime | None
    messages: int = 1
    sends: int = 0
    sent_at: datetime | None = None
    first_sent_at: datetime | None = None
    engine: str | None = None
    asked_at: datetime | None = None
    asks: int = 0
    run_state: RunState | None = None
    run_state_at: datetime | None = None
    ended_at: datetime | None = None
    is_dead: bool = False
    cancel_due: bool = False
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

    @property
    def awaits_resume(self) -> bool:
        """Whether this is a retry whose first callback, which takes the job out of FAILED, is still due."""
        return self.kind is DispatchKind.RETRY and not self.resumed and not self.is_dead

    @property
    def earlier_sends(self) -> int:
        """How many sends of this dispatch, before the present one, have an outcome that is not known.

        Only a dispatch whose outcome is unknown is sent again, so every earlier send counts.
        """
        is_sent = self.phase in (Phase.SENDING, Phase.UNKNOWN)
        return max(0, self.sends - is_sent)

    @property
    def first_send(self) -> datetime | None:
        """When it was first sent. Not known of a claim that an earlier release has sent more than once."""
        return self.first_sent_at or (self.sent_at if self.sends == 1 else None)

    def holds(self, token: FencingToken) -> bool:
        """Whether `token` is this claim's. No other token moves the claim."""
        return (self.dispatch_id, self.epoch) == (token.dispatch_id, token.epoch)

    def next_phase(self, event: ClaimEvent) -> Phase | None:
        """The phase that `event` leads to; None if it means nothing to this claim now."""
        return NEXT_PHASE.get((self.phase, event))

    def is_elsewhere(self, policy: DispatchPolicy) -> bool:
        """Whether it was sent to another engine than the configured one, whose word then counts for nothing.

        A process whose settings do not name the engine cannot tell; the worker, whose settings do, looks again.
        A claim that an earlier release sent names none: it was a webhook, which cannot be asked.
        """
        if self.engine is None:
            return self.sends > 0 and policy.can_be_asked
        return bool(policy.engine) and self.engine != policy.engine

    def must_be_stopped(self, policy: DispatchPolicy) -> bool:
        """Whether the engine is still to be told to stop it, and can be."""
        return self.cancel_due and policy.can_cancel and not self.is_elsewhere(policy)

    def is_askable(self, policy: DispatchPolicy) -> bool:
        """Whether the engine can be asked about it, and its answer would count."""
        return self.sends > 0 and policy.can_be_asked and not self.is_elsewhere(policy)

    def may_be_sent(self, now: datetime, policy: DispatchPolicy) -> bool:
        """Whether a send at `now` cannot start a second execution, as far as the engine's window tells.

        The first send always may. Where the engine recognises nothing, the hold decides instead
        (`domain.run`).
        """
        if not self.sends:
            return True
        if self.is_elsewhere(policy):
            return False
        if policy.window is None:
            return True
        first = self.first_send
        return first is not None and now - first < policy.window

    def is_recognised(self, now: datetime, policy: DispatchPolicy) -> bool:
        """Whether sending it again is safe whatever happened before."""
        return policy.window is not None and self.may_be_sent(now, policy)

    def pause(self, tries: int) -> timedelta:
        """How long to wait after so many tries: 1, 2, 4 … 60 seconds, each claim a little differently.

        Without the difference, all claims that one fault made unknown would be tried in lockstep.
        """
        digest = sha256(f"{self.dispatch_id}:{tries}".encode()).digest()
        spread = 0.75 + 0.5 * digest[0] / 255
        return min(timedelta(seconds=2 ** min(tries, 6)), _LONGEST_PAUSE) * spread

    def after(
        self, event: ClaimEvent, now: datetime, policy: DispatchPolicy, reason: str | None = None
    ) -> Self | None:
        """The claim once `event` settled it, or made its outcome unknown; None if it changes no phase."""
        phase = self.next_phase(event)
        if phase is Phase.RELEASED and event in _ABOUT_ONE_SEND and self.earlier_sends:
            phase, reason = Phase.UNKNOWN, OUTCOME_UNKNOWN
        if phase is None or phase is self.phase:
            return None
        values: dict[str, Any] = {"phase": phase, "reason": reason, "asked_at": None, "asks": 0}
        if phase is not Phase.UNKNOWN:
            return self.model_copy(update={**values, "settled_at": now, "lease_until": None})
        moved = self.model_copy(update={**values, "settled_at": None})
        return moved.model_copy(update={"lease_until": moved.next_try(now, policy)})

    def next_try(self, now: datetime, policy: DispatchPolicy) -> datetime | None:
        """When the sweep does something about an unknown outcome; None where it is held for ever."""
        if self.is_elsewhere(policy):
            return now + SELDOM
        if policy.can_be_asked:
            return now + self.pause(self.asks)
        if policy.window is None:
            return now + policy.unknown_hold if policy.unknown_hold is not None else None
        # Sending again is safe here; the pauses grow so that an orchestrator in trouble can recover.
        return now + (self.pause(self.sends) if self.may_be_sent(now, policy) else SELDOM)
