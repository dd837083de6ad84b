"""What a status callback does to a job, and what it may be answered: part of `tests.chaos.model`."""

from collections.abc import Iterator

from tests.chaos.history import Operation
from tests.chaos.state import CHECKPOINTS, SENT, STEPS, TERMINAL, Claim, State


def callback(state: State, operation: Operation) -> Iterator[State]:
    """All states that a callback may lead to if it takes effect now and its answer is true."""
    asked = operation.asked
    if asked["event_id"] in state.applied:
        if operation.is_either or operation.status == 200:
            yield state
    elif _is_superseded(state, asked["execution_id"]):
        if operation.is_either or operation.body.get("code") == "EXECUTION_SUPERSEDED":
            yield state
    elif asked["occurred_at"] < state.latest:
        if operation.is_either or operation.body.get("code") == "CALLBACK_OUT_OF_ORDER":
            yield state
    else:
        yield from _report(state, operation)


def _is_superseded(state: State, execution: str | None) -> bool:
    if execution is None:
        return False
    if state.shown is not None and state.shown.execution is not None:
        return state.shown.execution != execution
    return any(claim.execution == execution for claim in state.earlier)


def _report(state: State, operation: Operation) -> Iterator[State]:
    status, shown = operation.asked["status"], state.shown
    resumes = state.status == "FAILED" and shown is not None and shown.awaits_resume
    if resumes and (state.claim is not None or (shown and shown.maybe_received)):
        before = shown.resume if shown else None
        if (before, status) == ("UPLOADED", "FAILED"):
            before = "AUDIO_EXTRACTING"
    elif state.status == "UPLOADED" and shown is not None and status != "AUDIO_EXTRACTING":
        before = "AUDIO_EXTRACTING"
    else:
        before, resumes = state.status, False
    if (before, status) in STEPS:
        if operation.is_either or operation.status == 204:
            yield _applied(state, operation, resumes)
    else:
        code = "FSM_TERMINAL_IMMUTABLE" if before in TERMINAL else "FSM_TRANSITION_INVALID"
        if operation.may_be(409, code, before):
            yield state


def _applied(state: State, operation: Operation, resumes: bool) -> State:
    asked, claim = operation.asked, state.shown
    if state.status == "UPLOADED" or resumes:
        claim = claim or Claim(f"run-{operation.job}", 1)
        claim = claim._replace(phase=SENT, resumed=resumes)
    if claim is not None and claim.execution is None:
        claim = claim._replace(execution=asked["execution_id"])
    status = asked["status"]
    ahead = status in CHECKPOINTS
    further = ahead and CHECKPOINTS.index(status) > CHECKPOINTS.index(state.furthest)
    return state._replace(
        status=status,
        claim=claim,
        furthest=status if further else state.furthest,
        latest=asked["occurred_at"],
        applied=state.applied | {asked["event_id"]},
    )
