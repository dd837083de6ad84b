"""The contract's state of one job, and how its dispatch settles.

Written from the contract and not from `domain/`, which it checks. `FLIGHT` stands for CLAIMED and SENDING,
which callers cannot distinguish.
"""

from itertools import pairwise
from typing import NamedTuple

FLIGHT, SENT, UNKNOWN = "FLIGHT", "SENT", "UNKNOWN"
TERMINAL = {"DONE", "FAILED", "CANCELLED"}
RUNNING = {"AUDIO_EXTRACTING", "TRANSCRIBING", "GENERATING", "REGENERATING", "EXPORTING"}
PHASES = {"CLAIMED": FLIGHT, "SENDING": FLIGHT, "SENT": SENT, "UNKNOWN": UNKNOWN}
CHECKPOINTS = ["UPLOADED", "AUDIO_READY", "TRANSCRIPT_READY", "DRAFT_READY"]

# A refusal's `details.reason`, by the orchestrator's status.
REFUSED = "refused"
REFUSAL_REASONS = {
    400: "invalid_parameters",
    404: "unknown_workflow",
    422: "invalid_parameters",
    429: "unavailable",
}

_PATH = ["UPLOADED", "AUDIO_EXTRACTING", "AUDIO_READY", "TRANSCRIBING", "TRANSCRIPT_READY"]
_PATH += ["GENERATING", "DRAFT_READY", "EDITING"]
STEPS = set(pairwise(_PATH))
STEPS |= {(again, again) for again in ("AUDIO_EXTRACTING", "TRANSCRIBING", "GENERATING")}
STEPS |= {(before, "FAILED") for before in _PATH[1:]}
STEPS |= {(before, "CANCELLED") for before in [*_PATH, "CREATED", "UPLOADING"]}
STEPS |= {("CREATED", "UPLOADED"), ("CREATED", "UPLOADING"), ("UPLOADING", "UPLOADED")}


class Claim(NamedTuple):
    """A dispatch's claim.

    `resume`: a retry's checkpoint. `resumed`: its first callback was applied. `resent`: an earlier send had an
    unknown outcome. `dead`: the engine reported that its run failed.
    """

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
        """Whether the orchestrator may have received it although the claim was released."""
        return self.resent or self.reason in REFUSAL_REASONS.values() or self.reason == REFUSED

    @property
    def awaits_resume(self) -> bool:
        """Whether it is a retry whose first callback is still to come."""
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
    queryable: bool = False  # the engine's property; constant within a run

    @property
    def latest_claim(self) -> Claim | None:
        """The current claim, or else the one released last."""
        return self.claim or self.released

    def active_claim(self, dispatch: str) -> Claim | None:
        """The claim of a dispatch, unless it was released."""
        for claim in (self.claim, *self.earlier):
            if claim is not None and claim.dispatch == dispatch:
                return claim
        return None


class Waiting(NamedTuple):
    """A caller that waits for the outcome of a dispatch's epoch; `is_first`: it made the claim."""

    dispatch: str
    epoch: int
    is_first: bool


def release(state: State, reason: str) -> State:
    assert state.claim is not None
    return state._replace(claim=None, released=state.claim._replace(reason=reason))


def fail_send(state: State, reason: str) -> State:
    """Release the claim after a send that had no effect; UNKNOWN if an earlier send may have had one."""
    assert state.claim is not None
    return settle(state, UNKNOWN) if state.claim.resent else release(state, reason)


def fail_by_engine(state: State) -> State | None:
    """Fail the job after the engine reported a failed run; None if the report is irrelevant here."""
    claim = state.claim
    if claim is None or claim.phase != SENT:
        return None
    awaits = claim.awaits_resume and state.status == "FAILED"
    if not awaits and state.status not in _PATH[1:6]:
        return None
    return state._replace(status="FAILED", claim=claim._replace(dead=True))


def settle(state: State, phase: str) -> State:
    """Set the current claim to SENT or UNKNOWN; an accepted run moves the job to AUDIO_EXTRACTING."""
    assert state.claim is not None
    moves = phase == SENT and state.claim.resume is None and state.status == "UPLOADED"
    status = "AUDIO_EXTRACTING" if moves else state.status
    return state._replace(status=status, claim=state.claim._replace(phase=phase))
