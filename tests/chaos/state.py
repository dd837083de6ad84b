"""One job at one moment, as the contract knows it, and what it does by itself.

Written from the contract and not from `domain/`, which it is there to check. `FLIGHT` stands for
CLAIMED and SENDING, which no caller can tell apart.
"""

from itertools import pairwise
from typing import NamedTuple

FLIGHT, SENT, UNKNOWN = "FLIGHT", "SENT", "UNKNOWN"
TERMINAL = {"DONE", "FAILED", "CANCELLED"}
RUNNING = {"AUDIO_EXTRACTING", "TRANSCRIBING", "GENERATING", "REGENERATING", "EXPORTING"}
PHASES = {"CLAIMED": FLIGHT, "SENDING": FLIGHT, "SENT": SENT, "UNKNOWN": UNKNOWN}
CHECKPOINTS = ["UPLOADED", "AUDIO_READY", "TRANSCRIPT_READY", "DRAFT_READY"]

# What a refusal's status is called.
REFUSED = "refused"
REFUSAL_REASONS = {
    400: "invalid_parameters",
    404: "unknown_workflow",
    422: "invalid_parameters",
    429: "unavailable",
}

_WAY = ["UPLOADED", "AUDIO_EXTRACTING", "AUDIO_READY", "TRANSCRIBING", "TRANSCRIPT_READY"]
_WAY += ["GENERATING", "DRAFT_READY", "EDITING"]
STEPS = set(pairwise(_WAY))
STEPS |= {(again, again) for again in ("AUDIO_EXTRACTING", "TRANSCRIBING", "GENERATING")}
STEPS |= {(before, "FAILED") for before in _WAY[1:]}
STEPS |= {(before, "CANCELLED") for before in [*_WAY, "CREATED", "UPLOADING"]}
STEPS |= {("CREATED", "UPLOADED"), ("CREATED", "UPLOADING"), ("UPLOADING", "UPLOADED")}


class Claim(NamedTuple):
    """A dispatch that stands; `resume` is a retry's checkpoint, `resumed` that its first step came,
    `resent` that an earlier sending of it had an unknown outcome, `dead` that the engine said that its run
    ended badly."""

    dispatch: str
    epoch: int
    phase: str = FLIGHT
    execution: str | None = None
    profile: str | None = None
    resume: str | None = None
    resumed: bool = False
    reason: str | None = None
    resent: bool = False
    dead: bool = False

    @property
    def maybe_received(self) -> bool:
        """Whether the orchestrator may have it although it was given back."""
        return self.resent or self.reason in REFUSAL_REASONS.values() or self.reason == REFUSED

    @property
    def awaits_resume(self) -> bool:
        """Whether it is a retry whose first step is still due."""
        return self.resume is not None and not self.resumed and not self.dead


class State(NamedTuple):
    """One job at one moment."""

    status: str = "UPLOADED"
    claim: Claim | None = None
    released: Claim | None = None
    earlier: tuple[Claim, ...] = ()
    furthest: str = "UPLOADED"
    latest: str = ""
    applied: frozenset[tuple[str, str]] = frozenset()  # event ids, each with its dispatch
    refusals: int = 0
    asks: bool = False  # whether the engine can be asked: never changes

    @property
    def shown(self) -> Claim | None:
        """The standing claim, else the last one that was given back."""
        return self.claim or self.released

    def standing(self, dispatch: str) -> Claim | None:
        """The claim of a dispatch, if it stands."""
        for claim in (self.claim, *self.earlier):
            if claim is not None and claim.dispatch == dispatch:
                return claim
        return None


class Waiting(NamedTuple):
    """A caller who was let in and waits for the outcome of an epoch."""

    dispatch: str
    epoch: int
    is_first: bool


def release(state: State, reason: str) -> State:
    """Free the standing claim."""
    assert state.claim is not None
    return state._replace(claim=None, released=state.claim._replace(reason=reason))


def give_back(state: State, reason: str) -> State:
    """What a word leads to that nothing happened: it speaks of one send alone, and of no earlier one."""
    assert state.claim is not None
    return settle(state, UNKNOWN) if state.claim.resent else release(state, reason)


def fail_by_engine(state: State) -> State | None:
    """The run ended badly and will not report; None where that word counts for nothing."""
    claim = state.claim
    if claim is None or claim.phase != SENT:
        return None
    awaits = claim.awaits_resume and state.status == "FAILED"
    if not awaits and state.status not in _WAY[1:6]:
        return None
    return state._replace(status="FAILED", claim=claim._replace(dead=True))


def settle(state: State, phase: str) -> State:
    """Let the standing claim be SENT or UNKNOWN; an accepted run takes the job on."""
    assert state.claim is not None
    moves = phase == SENT and state.claim.resume is None and state.status == "UPLOADED"
    status = "AUDIO_EXTRACTING" if moves else state.status
    return state._replace(status=status, claim=state.claim._replace(phase=phase))
