"""The claim: the current dispatch of a job, and what is known of its delivery.

There is one claim per job. `NEXT_PHASE` is the whole protocol: workers, the sweep, the operator's commands
and the model checker (`tests/model/`) all step through it. `(dispatch_id, epoch)` is the fencing token: a
worker's step counts only for the claim that its message names. So a late or duplicate message changes
nothing, nor does a worker that was stopped past its lease.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from types import MappingProxyType
from typing import Self

from pydantic import AwareDatetime

from domain.job_fsm import JobStatus
from domain.pause import Pause
from domain.stored import Stored

OUTCOME_UNKNOWN = "outcome_unknown"

# How long after the last send a cancelled job's dispatch may still arrive, and how long after a cancel the
# settings may still name its engine again.
ABANDONED_AFTER = timedelta(hours=24)
# When a cancel that the orchestrator has not confirmed is sent again: its message may have been lost.
CANCEL_AGAIN_AFTER = timedelta(seconds=30)
# A first send that is further in the future was timed by a wrong clock, or this one is wrong.
_CLOCKS_DIFFER = timedelta(minutes=1)
_MAX_BACKOFF = timedelta(seconds=60)
# How often the sweep looks at a claim that it can do nothing about, so that it stays listed.
RECHECK_AFTER = timedelta(hours=1)


class Phase(StrEnum):
    """How far a dispatch has come. A RELEASED claim is a past claim of its job and has no key of its own."""

    CLAIMED = "CLAIMED"  # it waits for a worker
    SENDING = "SENDING"  # the trail's `dispatch.sent`: a worker is about to post, or posts
    SENT = "SENT"  # the orchestrator has it
    UNKNOWN = "UNKNOWN"  # it was posted, and may have arrived or not
    RELEASED = "RELEASED"  # it did not start, or counts as if it had not


class ClaimEvent(StrEnum):
    BEGIN = "begin"  # a worker is about to post; stored before the first byte leaves
    ACCEPTED = "accepted"  # the orchestrator answered 2xx
    REFUSED = "refused"  # the orchestrator gave any other complete answer
    NOT_STARTED = "not_started"  # nothing was sent
    LOST = "lost"  # something was sent, and no complete answer came back
    LEASE_OVER = "lease_over"  # no worker reported within the lease
    RESEND = "resend"  # an unknown outcome may be tried again under the same id
    PROVED = "proved"  # a callback shows that the orchestrator has it
    FOUND = "found"  # the orchestrator was asked, and has it
    WINDOW_OVER = "window_over"  # too late to send it again: the orchestrator may not recognise it
    ABANDONED = "abandoned"  # the job is cancelled, and nothing of the dispatch was ever found
    UNQUEUED = "unqueued"  # the broker did not take the message
    CANCELLED = "cancelled"  # the editor cancelled the job
    SETTLED_SENT = "settled_sent"  # an operator knows that it arrived
    SETTLED_RELEASE = "settled_release"  # an operator knows that it did not


class Refusal(StrEnum):
    """Why an orchestrator refused, as callers, the trail and operators are shown it."""

    UNAUTHORIZED = "unauthorized"
    UNKNOWN_WORKFLOW = "unknown_workflow"
    UNSUPPORTED = "unsupported_workflow"  # it exists, and would run one dispatch twice
    INVALID_PARAMETERS = "invalid_parameters"
    UNAVAILABLE = "unavailable"
    REFUSED = "refused"


class RunState(StrEnum):
    """An engine's answer when it is asked about a dispatch. All but the last two prove that it arrived."""

    RUNNING = "running"  # or queued
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    NOT_FOUND = "not_found"
    NO_ANSWER = "no_answer"


ENDED_BADLY = frozenset({RunState.FAILED, RunState.CANCELLED})
FOUND = frozenset({RunState.RUNNING, RunState.SUCCEEDED}) | ENDED_BADLY

_P, _E = Phase, ClaimEvent

# The protocol: an event, the phases that it applies to, and the phase that it leads to.
_STEPS: tuple[tuple[ClaimEvent, set[Phase], Phase], ...] = (
    (_E.BEGIN, {_P.CLAIMED}, _P.SENDING),
    # In CLAIMED it is a late answer to an older epoch, as with PROVED and FOUND.
    (_E.ACCEPTED, {_P.CLAIMED, _P.SENDING, _P.UNKNOWN}, _P.SENT),
    # A worker that was stopped past its lease still reports the true outcome of its own epoch.
    (_E.REFUSED, {_P.SENDING, _P.UNKNOWN}, _P.RELEASED),
    (_E.NOT_STARTED, {_P.SENDING, _P.UNKNOWN}, _P.RELEASED),
    (_E.LOST, {_P.SENDING, _P.UNKNOWN}, _P.UNKNOWN),
    (_E.LEASE_OVER, {_P.CLAIMED}, _P.CLAIMED),
    (_E.LEASE_OVER, {_P.SENDING}, _P.UNKNOWN),
    (_E.RESEND, {_P.UNKNOWN}, _P.CLAIMED),
    # In RELEASED the orchestrator refused it and ran it all the same: a callback is the better evidence.
    (_E.PROVED, {_P.CLAIMED, _P.SENDING, _P.UNKNOWN, _P.RELEASED}, _P.SENT),
    (_E.FOUND, {_P.CLAIMED, _P.SENDING, _P.UNKNOWN}, _P.SENT),
    (_E.WINDOW_OVER, {_P.CLAIMED}, _P.UNKNOWN),
    (_E.ABANDONED, {_P.UNKNOWN}, _P.RELEASED),
    (_E.UNQUEUED, {_P.CLAIMED}, _P.RELEASED),
    (_E.CANCELLED, {_P.CLAIMED}, _P.RELEASED),
    (_E.SETTLED_SENT, {_P.UNKNOWN}, _P.SENT),
    # In SENT it is an accepted retry that never called back: only an operator can know that it is dead.
    (_E.SETTLED_RELEASE, {_P.UNKNOWN, _P.SENT}, _P.RELEASED),
)

NEXT_PHASE: Mapping[tuple[Phase, ClaimEvent], Phase] = MappingProxyType(
    {(before, event): after for event, phases, after in _STEPS for before in phases}
)

# "Nothing happened" is true only of one send. While an earlier send of the same dispatch is unresolved, its
# outcome stays unknown.
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
    """The times, and the properties of the orchestrator, that the rules depend on."""

    claim_lease: timedelta
    send_lease: timedelta
    unknown_hold: timedelta | None  # None: for ever
    # How long after the first send the same dispatch may be sent again without a second execution, less all
    # margins. None: never; `timedelta.max`: for ever.
    window: timedelta | None = None
    can_be_asked: bool = False
    can_cancel: bool = False
    engine: str = ""  # a digest that identifies it
    first_report: timedelta | None = None  # after it the first callback is overdue; None: never
    silent_after: timedelta | None = None  # after it the next callback is overdue; None: never
    pause: Pause | None = None  # the latest one

    @property
    def is_paused(self) -> bool:
        return self.pause is not None and self.pause.is_on


@dataclass(frozen=True, slots=True)
class FencingToken:
    """Identifies a claim. It is all that a message carries, and it fences every step of a worker."""

    job_id: str
    dispatch_id: str
    epoch: int


class Claim(Stored):
    """One dispatch of a job, from the moment it is claimed."""

    kind: DispatchKind
    dispatch_id: str
    epoch: int
    phase: Phase
    claimed_at: AwareDatetime
    lease_until: AwareDatetime | None  # when the sweep looks at it next; None: never
    messages: int = 1  # enqueued for this epoch, or for its cancel
    sends: int = 0  # posts under any epoch
    sent_at: AwareDatetime | None = None  # the last post, stored before it
    first_sent_at: AwareDatetime | None = None  # the first post
    engine: str | None = None  # the digest of the engine that it was first sent to
    asked_at: AwareDatetime | None = None  # set while a worker asks the engine
    asks: int = 0  # asks, or tries to cancel, in this phase
    run_state: RunState | None = None  # the engine's last answer
    run_state_at: AwareDatetime | None = None  # the time of that answer
    ended_at: AwareDatetime | None = None  # since when the engine says that the run ended badly
    is_dead: bool = False  # a second answer confirmed that
    cancel_due: bool = False  # the engine must still be told to stop it
    settled_at: AwareDatetime | None = None
    reason: str | None = None
    execution_id: str | None = None  # of the first execution that reported
    superseded: tuple[str, ...] = ()  # ids of other executions that reported
    correlation_id: str | None = None
    retry: RetryTerms | None = None
    resumed: bool = False  # the first callback of a retry was applied

    @property
    def in_flight(self) -> bool:
        """Whether it is not yet known if the orchestrator has the dispatch."""
        return self.phase in IN_FLIGHT

    @property
    def awaits_resume(self) -> bool:
        """Whether the first callback of this retry, which takes the job out of FAILED, is still due."""
        return self.kind is DispatchKind.RETRY and not self.resumed and not self.is_dead

    @property
    def earlier_sends(self) -> int:
        """The sends before the current one. Their outcome is unknown, else it would not be sent again."""
        is_sent = self.phase in (Phase.SENDING, Phase.UNKNOWN)
        return max(0, self.sends - is_sent)

    def holds(self, token: FencingToken) -> bool:
        """Whether `token` identifies this claim."""
        return (self.dispatch_id, self.epoch) == (token.dispatch_id, token.epoch)

    def next_phase(self, event: ClaimEvent) -> Phase | None:
        """The phase that `event` leads to; None if it does not apply."""
        return NEXT_PHASE.get((self.phase, event))

    def is_elsewhere(self, policy: DispatchPolicy) -> bool:
        """Whether it was sent to another engine than the configured one, whose answers then do not count.

        A process whose settings do not name the engine cannot tell, but the worker checks again. A claim that
        an earlier release sent names no engine: it was a webhook, which cannot be asked.
        """
        if self.engine is None:
            return self.sends > 0 and policy.can_be_asked
        return bool(policy.engine) and self.engine != policy.engine

    def is_askable(self, policy: DispatchPolicy) -> bool:
        """Whether the engine can be asked about it, and its answer would count."""
        return self.sends > 0 and policy.can_be_asked and not self.is_elsewhere(policy)

    def may_be_sent(self, now: datetime, policy: DispatchPolicy) -> bool:
        """Whether the engine's window allows a send at `now`: it cannot start a second execution.

        The first send is always allowed. If the engine recognises nothing, the hold decides (`domain.run`).
        """
        if not self.sends:
            return True
        if self.is_elsewhere(policy):
            return False
        first, window = self.first_sent_at, policy.window
        if first is None or window is None:
            return window is None
        return window == timedelta.max or -_CLOCKS_DIFFER <= now - first < window

    def is_recognised(self, now: datetime, policy: DispatchPolicy) -> bool:
        """Whether sending it again is safe, because the engine recognises it."""
        return policy.window is not None and self.may_be_sent(now, policy)

    def backoff(self, tries: int) -> timedelta:
        """How long to wait after so many tries: 1, 2, 4 … 60 seconds, with a jitter by dispatch.

        Without it, all claims that one fault made unknown would be tried in lockstep.
        """
        digest = sha256(f"{self.dispatch_id}:{tries}".encode()).digest()
        spread = 0.75 + 0.5 * digest[0] / 255
        return min(timedelta(seconds=2 ** min(tries, 6)), _MAX_BACKOFF) * spread

    def after(
        self, event: ClaimEvent, now: datetime, policy: DispatchPolicy, reason: str | None = None
    ) -> Self | None:
        """The claim after `event` settled it, or made its outcome unknown; None if it changes no phase."""
        phase = self.next_phase(event)
        if phase is Phase.RELEASED and event in _ABOUT_ONE_SEND and self.earlier_sends:
            phase, reason = Phase.UNKNOWN, OUTCOME_UNKNOWN
        if phase is None or phase is self.phase:
            return None
        settled_at = None if phase is Phase.UNKNOWN else now
        values = {"phase": phase, "reason": reason, "settled_at": settled_at, "asked_at": None}
        moved = self.model_copy(update={**values, "asks": 0})
        due = None if settled_at else moved.next_try(now, policy)
        return moved.model_copy(update={"lease_until": due})

    def next_try(self, now: datetime, policy: DispatchPolicy) -> datetime | None:
        """When the sweep next acts on an unknown outcome; None if it is held for ever."""
        if self.is_elsewhere(policy):
            return now + RECHECK_AFTER
        if policy.can_be_asked:
            return now + self.backoff(self.asks)
        if policy.window is None:
            return now + policy.unknown_hold if policy.unknown_hold is not None else None
        # Sending again is safe here. The pauses grow so that an overloaded orchestrator can recover.
        return now + (self.backoff(self.sends) if self.may_be_sent(now, policy) else RECHECK_AFTER)
