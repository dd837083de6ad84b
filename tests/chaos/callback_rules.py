"""What a status callback does to a job, and what it may be answered: part of `tests.chaos.model`."""

from collections.abc import Iterator

from tests.chaos.history import Operation
from tests.chaos.state import CHECKPOINTS, SENT, STEPS, TERMINAL, Claim, State


def callback(state: State, operation: Operation) -> Iterator[State]:
    """All states that a callback may lead to if it takes effect now and its answer is true."""
    asked = operation.asked
    current = state.shown.dispatch if state.shown else f"run-{operation.job}"
    named = asked.get("dispatch_id")
    applied_under = dict(state.applied).get(asked["event_id"])
    if applied_under is not None and named in (None, applied_under):
        # Without a name it cannot be told from a report of the present dispatch that has the same id.
        code = None if (named or current) == applied_under else "EVENT_ID_PAYLOAD_MISMATCH"
        if operation.is_either or operation.body.get("code") == code:
            yield state
    elif named not in (None, current) or _is_superseded(state, asked["execution_id"]):
        if operation.is_either or operation.body.get("code") == "EXECUTION_SUPERSEDED":
            yield state
    elif asked["occurred_at"] < state.latest and not _resumes(state, named):
        if operation.is_either or operation.body.get("code") == "CALLBACK_OUT_OF_ORDER":
            yield state
    elif _is_dead(state):
        yield from _report_late(state, operation)
    else:
        yield from _report(state, operation)


def _report_late(state: State, operation: Operation) -> Iterator[State]:
    if operation.is_either or operation.status == 204:
        yield _applied(state, operation, resumes=False)._replace(status="FAILED")


def _is_dead(state: State) -> bool:
    """Whether the engine's word came first: what the run still reports is kept, and moves nothing."""
    return state.status == "FAILED" and state.shown is not None and state.shown.dead


def _is_superseded(state: State, execution: str | None) -> bool:
    if execution is None:
        return False
    if state.shown is not None and state.shown.execution is not None:
        return state.shown.execution != execution
    return any(claim.execution == execution for claim in state.earlier)


def _report(state: State, operation: Operation) -> Iterator[State]:
    status, shown = operation.asked["status"], state.shown
    resumes = _resumes(state, operation.asked.get("dispatch_id"))
    if resumes:
        before = shown.resume if shown else None
        if (before, status) == ("UPLOADED", "FAILED"):
            before = "AUDIO_EXTRACTING"
    elif state.status == "UPLOADED" and shown is not None and status != "AUDIO_EXTRACTING":
        before = "AUDIO_EXTRACTING"
    else:
        before = state.status
    if (before, status) in STEPS:
        if operation.is_either or operation.status == 204:
            yield _applied(state, operation, resumes)
    else:
        code = "FSM_TERMINAL_IMMUTABLE" if before in TERMINAL else "FSM_TRANSITION_INVALID"
        if operation.may_be(409, code, before):
            yield state


def _resumes(state: State, named: str | None) -> bool:
    """Whether the next report is a retry's first, with which an order of its own begins.

    Where the engine can be asked, only one that names its dispatch is.
    """
    shown = state.shown
    if state.asks and named is None:
        return False
    if state.status != "FAILED" or shown is None or not shown.awaits_resume:
        return False
    return state.claim is not None or shown.maybe_received


def _applied(state: State, operation: Operation, resumes: bool) -> State:
    asked, claim, current = operation.asked, state.shown, f"run-{operation.job}"
    if state.status == "UPLOADED" or resumes:
        claim = claim or Claim(current, 1)
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
        applied=state.applied | {(asked["event_id"], claim.dispatch if claim else current)},
    )
