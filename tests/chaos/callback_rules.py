"""The contract's rules for status callbacks: part of `tests.chaos.model`."""

from collections.abc import Iterator

from tests.chaos.history import Operation
from tests.chaos.state import CHECKPOINTS, SENT, STEPS, TERMINAL, Claim, State


def callback(state: State, operation: Operation) -> Iterator[State]:
    """Yield the states that a callback may lead to, if it takes effect now and its answer is correct."""
    request = operation.request
    current = state.latest_claim.dispatch if state.latest_claim else f"run-{operation.job}"
    named = request.get("dispatch_id")
    applied_under = dict(state.applied).get(request["event_id"])
    if applied_under is not None and named in (None, applied_under):
        # A callback without a dispatch_id is taken to be about the current dispatch.
        code = None if (named or current) == applied_under else "EVENT_ID_PAYLOAD_MISMATCH"
        if operation.is_ambiguous or operation.body.get("code") == code:
            yield state
    elif named not in (None, current) or _is_superseded(state, request["execution_id"]):
        if operation.is_ambiguous or operation.body.get("code") == "EXECUTION_SUPERSEDED":
            yield state
    elif request["occurred_at"] < state.latest and not _resumes(state, named):
        if operation.is_ambiguous or operation.body.get("code") == "CALLBACK_OUT_OF_ORDER":
            yield state
    elif _is_dead(state):
        yield from _report_late(state, operation)
    else:
        yield from _report(state, operation)


def _report_late(state: State, operation: Operation) -> Iterator[State]:
    if operation.is_ambiguous or operation.status == 204:
        yield _applied(state, operation, resumes=False)._replace(status="FAILED")


def _is_dead(state: State) -> bool:
    """Whether the engine reported the run as failed: later callbacks are recorded, and change no status."""
    claim = state.latest_claim
    return state.status == "FAILED" and claim is not None and claim.dead


def _is_superseded(state: State, execution: str | None) -> bool:
    if execution is None:
        return False
    if state.latest_claim is not None and state.latest_claim.execution is not None:
        return state.latest_claim.execution != execution
    return any(claim.execution == execution for claim in state.earlier)


def _report(state: State, operation: Operation) -> Iterator[State]:
    status, claim = operation.request["status"], state.latest_claim
    resumes = _resumes(state, operation.request.get("dispatch_id"))
    if resumes:
        before = claim.resume if claim else None
        if (before, status) == ("UPLOADED", "FAILED"):
            before = "AUDIO_EXTRACTING"
    elif state.status == "UPLOADED" and claim is not None and status != "AUDIO_EXTRACTING":
        before = "AUDIO_EXTRACTING"
    else:
        before = state.status
    if (before, status) in STEPS:
        if operation.is_ambiguous or operation.status == 204:
            yield _applied(state, operation, resumes)
    else:
        code = "FSM_TERMINAL_IMMUTABLE" if before in TERMINAL else "FSM_TRANSITION_INVALID"
        if operation.matches_error(409, code, before):
            yield state


def _resumes(state: State, named: str | None) -> bool:
    """Whether the next callback is the first of a retry: `occurred_at` starts over with it.

    Where the engine can be queried, such a callback must name its dispatch.
    """
    claim = state.latest_claim
    if state.queryable and named is None:
        return False
    if state.status != "FAILED" or claim is None or not claim.awaits_resume:
        return False
    return state.claim is not None or claim.maybe_received


def _applied(state: State, operation: Operation, resumes: bool) -> State:
    request, claim, current = operation.request, state.latest_claim, f"run-{operation.job}"
    if state.status == "UPLOADED" or resumes:
        claim = claim or Claim(current, 1)
        claim = claim._replace(phase=SENT, resumed=resumes)
    if claim is not None and claim.execution is None:
        claim = claim._replace(execution=request["execution_id"])
    status = request["status"]
    checkpoints = CHECKPOINTS[CHECKPOINTS.index(state.furthest) :]
    return state._replace(
        status=status,
        claim=claim,
        furthest=status if status in checkpoints else state.furthest,
        latest=request["occurred_at"],
        applied=state.applied | {(request["event_id"], claim.dispatch if claim else current)},
    )
