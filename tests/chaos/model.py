"""The contract of one job as a small state machine: what may be answered where, and what follows.

Written from the contract and not from `domain/`, which it is there to check.
"""

from collections.abc import Iterator
from hashlib import sha256

from tests.chaos.callback_rules import callback
from tests.chaos.history import Operation
from tests.chaos.state import (
    FLIGHT,
    PHASES,
    RUNNING,
    SENT,
    TERMINAL,
    UNKNOWN,
    Claim,
    State,
    Waiting,
    give_back,
)

Step = tuple[State, Waiting | None]


def dispatch_of(operation: Operation) -> str:
    """The dispatch that a run or retry asks for."""
    if operation.kind == "run":
        return f"run-{operation.job}"
    digest = sha256(operation.asked["client_request_id"].encode()).hexdigest()[:16]
    return f"retry-{operation.job}-{digest}"


def begin(state: State, operation: Operation) -> Iterator[Step]:
    """All states that an operation may lead to if it takes effect now and its answer is true."""
    if operation.kind in ("run", "retry"):
        yield from _begin_dispatch(state, operation)
    elif operation.kind == "cancel":
        yield from _cancel(state, operation)
    elif operation.kind == "callback":
        yield from ((after, None) for after in callback(state, operation))
    elif operation.is_either or _shows(state, operation):
        yield state, None


def _shows(state: State, read: Operation) -> bool:
    phase = (read.body.get("dispatch") or {}).get("phase")
    expected = state.claim.phase if state.claim else None
    same_phase = PHASES.get(phase) == expected
    return read.status == 200 and read.body["status"] == state.status and same_phase


def _begin_dispatch(state: State, operation: Operation) -> Iterator[Step]:
    dispatch, is_run = dispatch_of(operation), operation.kind == "run"
    if is_run and state.status in TERMINAL:
        if operation.may_be(409, "FSM_TERMINAL_IMMUTABLE", state.status):
            yield state, None
        return
    standing = state.standing(dispatch)
    if standing is not None:
        yield from _begin_again(state, operation, standing)
    elif (refusal := _refusal(state, is_run)) is not None:
        if operation.may_be(409, refusal, state.status):
            yield state, None
    else:
        yield from _claim(state, operation, dispatch)


def _refusal(state: State, is_run: bool) -> str | None:
    """Why no new claim may be made, if so."""
    claim = state.claim
    if is_run:
        return None if state.status == "UPLOADED" else "FSM_TRANSITION_INVALID"
    awaited = claim is not None and (claim.phase != SENT or claim.awaits_resume)
    if state.status in RUNNING or awaited:
        return "JOB_ALREADY_RUNNING"
    return None if state.status == "FAILED" else "RETRY_NOT_ALLOWED_STATE"


def _claim(state: State, operation: Operation, dispatch: str) -> Iterator[Step]:
    epoch = state.shown.epoch + 1 if state.shown else 1
    claim = Claim(dispatch, epoch)
    if operation.kind == "retry":
        profile = operation.asked["model_profile"]
        claim = claim._replace(profile=profile, resume=state.furthest)
    earlier = (*state.earlier, state.claim) if state.claim else state.earlier
    yield state._replace(claim=claim, earlier=earlier), Waiting(dispatch, epoch, is_first=True)


def _begin_again(state: State, operation: Operation, standing: Claim) -> Iterator[Step]:
    profile = operation.asked.get("model_profile")
    if profile is not None and profile != standing.profile:
        if operation.is_either or operation.body.get("code") == "CLIENT_REQUEST_MISMATCH":
            yield state, None
        return
    joined = Waiting(standing.dispatch, standing.epoch, is_first=False)
    if standing.phase == SENT:
        if operation.is_either or _accepted(state, joined, operation):
            yield state, None
    elif standing.phase == FLIGHT:
        yield state, joined
    else:
        yield from _begin_unknown(state, operation, standing, joined)


def _begin_unknown(
    state: State, operation: Operation, standing: Claim, joined: Waiting
) -> Iterator[Step]:
    if operation.is_either or _reason(operation) == "outcome_unknown":
        yield state, None
    if state.asks:
        yield state, joined  # it waits for the engine's answer
        return
    again = standing._replace(phase=FLIGHT, epoch=standing.epoch + 1, resent=True)
    if _wants(state, again):
        yield state._replace(claim=again), joined._replace(epoch=again.epoch, is_first=True)


def _wants(state: State, claim: Claim) -> bool:
    return state.status == ("UPLOADED" if claim.resume is None else "FAILED")


def _reason(operation: Operation) -> str | None:
    """Why a dispatch did not come to stand; that the circuit is open is a way of not starting, and so is
    that the run before it still works."""
    reason = operation.details.get("reason") if operation.status == 502 else None
    return "not_started" if reason in ("circuit_open", "previous_run_active") else reason


def _accepted(state: State, waiting: Waiting, operation: Operation) -> bool:
    """Whether an answer calls the dispatch accepted, or under way, as it is true of this state."""
    standing, told = state.standing(waiting.dispatch), operation.body
    if operation.status != (202 if waiting.is_first else 200) or standing is None:
        return False
    resume = told.get("resume_from_status")
    return told.get("status") == state.status and resume == standing.resume


def is_true(state: State, waiting: Waiting, operation: Operation) -> bool:
    """Whether the answer to a run or retry that was let in is true of this state."""
    standing, accepted = state.standing(waiting.dispatch), _accepted(state, waiting, operation)
    released = state.released
    if state.status == "CANCELLED":
        return operation.error == ("FSM_TERMINAL_IMMUTABLE", "CANCELLED")
    if standing is not None and standing.phase == SENT:
        return accepted
    if released is not None and released.epoch >= waiting.epoch:
        return _reason(operation) == released.reason
    if standing is not None and standing.phase == UNKNOWN:
        return _reason(operation) == "outcome_unknown"
    return accepted  # the wait was over first


def may_begin(operation: Operation) -> bool:
    """Whether a run or retry with this answer may have made the claim, or sent it again."""
    return operation.kind in ("run", "retry") and (operation.status == 202 or _failed(operation))


def may_join(operation: Operation) -> bool:
    """Whether a run or retry with this answer may have waited for another one's claim."""
    return operation.status == 200 or _failed(operation)


def _failed(operation: Operation) -> bool:
    """Whether it was let in, and the dispatch came to nothing."""
    cancelled = operation.error == ("FSM_TERMINAL_IMMUTABLE", "CANCELLED")
    return operation.status == 502 or cancelled


def _cancel(state: State, operation: Operation) -> Iterator[Step]:
    if state.status in TERMINAL:
        if operation.may_be(409, "FSM_TERMINAL_IMMUTABLE", state.status):
            yield state, None
    elif operation.is_either or operation.body.get("status") == "CANCELLED":
        cancelled = state._replace(status="CANCELLED")
        yield cancelled, None
        if state.claim is not None and state.claim.phase == FLIGHT:
            yield give_back(cancelled, "cancelled"), None
