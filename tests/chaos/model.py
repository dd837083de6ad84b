"""The contract of one job as a state machine: which answers are correct in a state, and the state after.

Written from the contract and not from `domain/`, which it checks.
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
    fail_send,
)

Step = tuple[State, Waiting | None]


def dispatch_of(operation: Operation) -> str:
    """Return the id of the dispatch that a run or retry requests."""
    if operation.kind == "run":
        return f"run-{operation.job}"
    digest = sha256(operation.request["client_request_id"].encode()).hexdigest()[:16]
    return f"retry-{operation.job}-{digest}"


def begin(state: State, operation: Operation) -> Iterator[Step]:
    """Yield the states that an operation may lead to, if it takes effect now and its answer is correct."""
    if operation.kind in ("run", "retry"):
        yield from _begin_dispatch(state, operation)
    elif operation.kind == "cancel":
        yield from _cancel(state, operation)
    elif operation.kind == "callback":
        yield from ((after, None) for after in callback(state, operation))
    elif operation.is_ambiguous or _shows(state, operation):
        yield state, None


def _shows(state: State, read: Operation) -> bool:
    phase = (read.body.get("dispatch") or {}).get("phase")
    expected = state.claim.phase if state.claim else None
    same_phase = PHASES.get(phase) == expected
    return read.status == 200 and read.body["status"] == state.status and same_phase


def _begin_dispatch(state: State, operation: Operation) -> Iterator[Step]:
    dispatch, is_run = dispatch_of(operation), operation.kind == "run"
    if is_run and state.status in TERMINAL:
        if operation.matches_error(409, "FSM_TERMINAL_IMMUTABLE", state.status):
            yield state, None
        return
    active = state.active_claim(dispatch)
    if active is not None:
        yield from _begin_again(state, operation, active)
    elif (refusal := _refusal(state, is_run)) is not None:
        if operation.matches_error(409, refusal, state.status):
            yield state, None
    else:
        yield from _claim(state, operation, dispatch)


def _refusal(state: State, is_run: bool) -> str | None:
    """Return the error code if no new claim may be made."""
    claim = state.claim
    if is_run:
        return None if state.status == "UPLOADED" else "FSM_TRANSITION_INVALID"
    pending = claim is not None and (claim.phase != SENT or claim.awaits_resume)
    if state.status in RUNNING or pending:
        return "JOB_ALREADY_RUNNING"
    return None if state.status == "FAILED" else "RETRY_NOT_ALLOWED_STATE"


def _claim(state: State, operation: Operation, dispatch: str) -> Iterator[Step]:
    epoch = state.latest_claim.epoch + 1 if state.latest_claim else 1
    claim = Claim(dispatch, epoch)
    if operation.kind == "retry":
        profile = operation.request["model_profile"]
        claim = claim._replace(profile=profile, resume=state.furthest)
    earlier = (*state.earlier, state.claim) if state.claim else state.earlier
    yield state._replace(claim=claim, earlier=earlier), Waiting(dispatch, epoch, is_first=True)


def _begin_again(state: State, operation: Operation, active: Claim) -> Iterator[Step]:
    profile = operation.request.get("model_profile")
    if profile is not None and profile != active.profile:
        if operation.is_ambiguous or operation.body.get("code") == "CLIENT_REQUEST_MISMATCH":
            yield state, None
        return
    joined = Waiting(active.dispatch, active.epoch, is_first=False)
    if active.phase == SENT:
        if operation.is_ambiguous or _accepted(state, joined, operation):
            yield state, None
    elif active.phase == FLIGHT:
        yield state, joined
    else:
        yield from _begin_unknown(state, operation, active, joined)


def _begin_unknown(
    state: State, operation: Operation, active: Claim, joined: Waiting
) -> Iterator[Step]:
    if operation.is_ambiguous or _reason(operation) == "outcome_unknown":
        yield state, None
    if state.queryable:
        yield state, joined  # it waits for the engine's answer
        return
    again = active._replace(phase=FLIGHT, epoch=active.epoch + 1, resent=True)
    if state.status == ("UPLOADED" if again.resume is None else "FAILED"):
        yield state._replace(claim=again), joined._replace(epoch=again.epoch, is_first=True)


def _reason(operation: Operation) -> str | None:
    """Return why a dispatch failed. An open circuit and an active previous run count as not_started."""
    reason = operation.details.get("reason") if operation.status == 502 else None
    return "not_started" if reason in ("circuit_open", "previous_run_active") else reason


def _accepted(state: State, waiting: Waiting, operation: Operation) -> bool:
    """Whether the answer is a success that matches this state."""
    active, body = state.active_claim(waiting.dispatch), operation.body
    if operation.status != (202 if waiting.is_first else 200) or active is None:
        return False
    resume = body.get("resume_from_status")
    return body.get("status") == state.status and resume == active.resume


def is_correct(state: State, waiting: Waiting, operation: Operation) -> bool:
    """Whether the answer to a run or retry that waits for its dispatch is correct in this state."""
    active, accepted = state.active_claim(waiting.dispatch), _accepted(state, waiting, operation)
    released = state.released
    if state.status == "CANCELLED":
        return operation.error == ("FSM_TERMINAL_IMMUTABLE", "CANCELLED")
    if active is not None and active.phase == SENT:
        return accepted
    if released is not None and released.epoch >= waiting.epoch:
        return _reason(operation) == released.reason
    if active is not None and active.phase == UNKNOWN:
        return _reason(operation) == "outcome_unknown"
    return accepted  # the wait ended before the dispatch was settled


def may_begin(operation: Operation) -> bool:
    """Whether a run or retry with this answer may have made the claim, or caused a resend."""
    return operation.kind in ("run", "retry") and (operation.status == 202 or _failed(operation))


def may_join(operation: Operation) -> bool:
    """Whether a run or retry with this answer may have waited for another caller's claim."""
    return operation.status == 200 or _failed(operation)


def _failed(operation: Operation) -> bool:
    """Whether the dispatch failed or was cancelled while the caller waited."""
    cancelled = operation.error == ("FSM_TERMINAL_IMMUTABLE", "CANCELLED")
    return operation.status == 502 or cancelled


def _cancel(state: State, operation: Operation) -> Iterator[Step]:
    if state.status in TERMINAL:
        if operation.matches_error(409, "FSM_TERMINAL_IMMUTABLE", state.status):
            yield state, None
    elif operation.is_ambiguous or operation.body.get("status") == "CANCELLED":
        cancelled = state._replace(status="CANCELLED")
        yield cancelled, None
        if state.claim is not None and state.claim.phase == FLIGHT:
            yield fail_send(cancelled, "cancelled"), None
