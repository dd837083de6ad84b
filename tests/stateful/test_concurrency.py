"""Several clients at once on one job: some order of their calls must explain all their answers.

A call that waits for a dispatch is two events, its admission and its answer, and the dispatch's outcome is
an event of its own; everything else happens at one moment. The checker tries the orders until one fits.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.stateful.contract_model import STEPS
from tests.support.behaviours import accept, refuse
from tests.support.client import ApiClient, status_report
from tests.support.job_handle import JobHandle, at_once
from tests.support.orchestrator import StubOrchestrator

GONE = "GONE"  # what is no state of a job: it was deleted
MOMENT = "2026-05-04T10:00:00Z"  # of every report: equal times are in order
BEHAVIOURS = {"accepts": accept(after=0.03), "refuses": refuse(500, after=0.03)}
CALLS = st.one_of(
    st.just(("run",)),
    st.just(("cancel",)),
    st.just(("delete",)),
    st.just(("edit",)),
    st.tuples(st.just("retry"), st.sampled_from(["r1", "r2"])),
    st.tuples(
        st.just("report"),
        st.sampled_from(["AUDIO_EXTRACTING", "AUDIO_READY", "TRANSCRIBING", "FAILED"]),
        st.sampled_from(["e1", "e2", "e3"]),
    ),
)


@dataclass(frozen=True)
class State:
    """The job as far as these calls can tell, and where each call stands."""

    status: str
    events: frozenset[tuple[str, tuple[str, str]]] = frozenset()  # each with its step and dispatch
    shown: str = "run"  # the current dispatch
    standing: frozenset[str] = frozenset()  # dispatches that are known to have been accepted
    flying: str | None = None  # the dispatch that is being sent
    failed: str | None = None  # the last one that was refused, if nothing came after it
    failures: frozenset[str] = frozenset()  # all that were ever refused
    resumed: bool = True  # whether the latest retry has reported
    posts: int = 0
    admitted: tuple[str | None, ...] = ()  # by call: what it waits for
    answered: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Call:
    """A call that was made, and the answer it got."""

    words: tuple[str, ...]
    status: int
    code: str | None


def make(handle: JobHandle, words: tuple[str, ...], reports: dict[Any, Any]) -> requests.Response:
    match words:
        case ("run",):
            return handle.client.run(handle.id)
        case ("cancel",):
            return handle.client.cancel(handle.id)
        case ("delete",):
            return handle.client.delete_job(handle.id)
        case ("edit",):
            return handle.client.edit_job(handle.id, name="Other")
        case ("retry", request_id):
            return handle.retry(request_id)
    return handle.send(reports[words])


class Explanation:
    """The search for an order of events that leads to all the answers and to what is seen at the end."""

    def __init__(self, calls: list[Call], mode: str, status: str, posts: int) -> None:
        self.calls, self.mode, self.end = calls, mode, (status, posts)
        self.exists = lru_cache(maxsize=None)(self._exists)

    def _exists(self, state: State) -> bool:
        is_over = all(state.answered) and state.flying is None
        if is_over and (state.status, state.posts) == self.end:
            return True
        return any(self.exists(following) for following in self.following(state))

    def following(self, state: State) -> list[State]:
        found = self._outcome(state)
        for number, call in enumerate(self.calls):
            if not state.answered[number]:
                found += self._event(state, number, call)
        return found

    def _outcome(self, state: State) -> list[State]:
        if state.flying is None:
            return []
        landed = replace(state, flying=None)
        if self.mode == "refuses":
            failures = state.failures | {state.flying}
            return [replace(landed, failed=state.flying, failures=failures)]
        status = state.status
        if state.flying == "run" and status == "UPLOADED":
            status = "AUDIO_EXTRACTING"
        return [replace(landed, status=status, standing=state.standing | {state.flying})]

    def _event(self, state: State, number: int, call: Call) -> list[State]:
        if state.status == GONE:
            is_told = (call.status, call.code) == (404, "RESOURCE_NOT_FOUND")
            return [_answered(state, number)] if is_told else []
        if state.admitted[number]:
            return self._answer_of_who_waits(state, number, call)
        rule: Callable[..., list[tuple[State, tuple[int, str | None]]]] = getattr(
            self, f"_{call.words[0]}"
        )
        found = []
        for following, answer in rule(state, number, *call.words[1:]):
            if answer == (call.status, call.code):
                found.append(_answered(following, number))
            elif answer == (0, None):
                found.append(following)
        return found

    def _answer_of_who_waits(self, state: State, number: int, call: Call) -> list[State]:
        role, name = str(state.admitted[number]).split(" ")
        told = None
        if state.status == "CANCELLED":
            told = (409, "FSM_TERMINAL_IMMUTABLE")
        elif name in state.standing:
            told = (202 if role == "first" else 200, None)
        elif name in state.failures:  # also if it has been sent again since
            told = (502, "ORCHESTRATOR_DISPATCH_FAILED")
        return [_answered(state, number)] if told == (call.status, call.code) else []

    def _cancel(self, state: State, number: int) -> list[Any]:
        if not STEPS[state.status]:
            return [(state, (409, "FSM_TERMINAL_IMMUTABLE"))]
        cancelled = replace(state, status="CANCELLED")
        unsent = [replace(cancelled, flying=None, posts=state.posts - 1)] if state.flying else []
        return [(each, (200, None)) for each in [cancelled, *unsent]]

    def _edit(self, state: State, number: int) -> list[Any]:
        return [(state, (200, None))]

    def _delete(self, state: State, number: int) -> list[Any]:
        if STEPS[state.status]:
            return [(state, (409, "NOT_TERMINAL"))]
        refused = (state, (409, "JOB_ALREADY_RUNNING"))
        if state.flying or (not state.resumed and state.failed is None):
            return [refused]
        deleted = (replace(state, status=GONE), (204, None))
        # Perhaps the orchestrator is still to be told of the cancel.
        return [deleted, refused] if state.status == "CANCELLED" else [deleted]

    def _run(self, state: State, number: int) -> list[Any]:
        if not STEPS[state.status]:
            return [(state, (409, "FSM_TERMINAL_IMMUTABLE"))]
        if "run" in state.standing:
            return [(state, (200, None))]
        if state.flying == "run":
            return [(_waits(state, number, "joiner", "run"), (0, None))]
        if state.status != "UPLOADED":
            return [(state, (409, "FSM_TRANSITION_INVALID"))]
        return [(_sends(state, number, "run"), (0, None))]

    def _retry(self, state: State, number: int, name: str) -> list[Any]:
        if name in state.standing:
            return [(state, (200, None))]
        if state.flying == name:
            return [(_waits(state, number, "joiner", name), (0, None))]
        runs = state.status in ("AUDIO_EXTRACTING", "TRANSCRIBING")
        if runs or state.flying or (not state.resumed and state.failed is None):
            return [(state, (409, "JOB_ALREADY_RUNNING"))]
        if state.status != "FAILED":
            return [(state, (409, "RETRY_NOT_ALLOWED_STATE"))]
        return [(replace(_sends(state, number, name), resumed=False), (0, None))]

    def _report(self, state: State, number: int, step: str, event_id: str) -> list[Any]:
        seen = dict(state.events).get(event_id)
        if seen is not None:
            mismatch = (409, "EVENT_ID_PAYLOAD_MISMATCH")
            return [(state, (200, None) if seen == (step, state.shown) else mismatch)]
        dispatch = state.flying or state.failed
        judged_from = state.status
        if state.status == "FAILED" and not state.resumed:
            # These jobs have no artifact but their video; a retry from the start may fail at once.
            judged_from = "AUDIO_EXTRACTING" if step == "FAILED" else "UPLOADED"
        elif state.status == "UPLOADED" and dispatch and step != "AUDIO_EXTRACTING":
            judged_from = "AUDIO_EXTRACTING"
        found = self._judged(state, step, event_id, judged_from)
        if state.status == "FAILED" and state.flying:  # perhaps nothing of that retry was sent yet
            found += self._judged(state, step, event_id, state.status)
        return found

    def _judged(self, state: State, step: str, event_id: str, judged_from: str) -> list[Any]:
        if step not in STEPS[judged_from]:
            code = "FSM_TRANSITION_INVALID" if STEPS[judged_from] else "FSM_TERMINAL_IMMUTABLE"
            return [(state, (409, code))]
        return [(each, (204, None)) for each in self._reported(state, step, event_id)]

    def _reported(self, state: State, step: str, event_id: str) -> list[State]:
        after = replace(state, status=step, events=state.events | {(event_id, (step, state.shown))})
        starts = state.status == "UPLOADED" or (state.status == "FAILED" and not state.resumed)
        if not starts:
            return [after]
        name = state.flying or state.failed or "run"
        proved = replace(
            after, standing=state.standing | {name}, flying=None, failed=None, resumed=True
        )
        # Whether a dispatch that was proved in flight had already left is for the orchestrator to say.
        return [proved, replace(proved, posts=state.posts - 1)] if state.flying else [proved]


def _answered(state: State, number: int) -> State:
    answered = tuple(each or place == number for place, each in enumerate(state.answered))
    return replace(state, answered=answered)


def _waits(state: State, number: int, role: str, name: str) -> State:
    admitted = list(state.admitted)
    admitted[number] = f"{role} {name}"
    return replace(state, admitted=tuple(admitted))


def _sends(state: State, number: int, name: str) -> State:
    return replace(
        _waits(state, number, "first", name), flying=name, shown=name, posts=state.posts + 1
    )


def check(
    handle: JobHandle, orchestrator: StubOrchestrator, begin: str, mode: str, lines: list[Any]
) -> None:
    """Let all calls start at once, and look for an order that explains what came of them."""
    reports = {
        words: status_report(words[1], event_id=words[2], occurred_at=MOMENT, correlation_id="c")
        for words in lines
        if words[0] == "report"
    }
    posts = len(orchestrator.requests_for(handle.id))
    answers = at_once(len(lines), lambda number: make(handle, lines[number], reports))
    calls = [
        Call(words, each.status_code, each.json().get("code") if each.content else None)
        for words, each in zip(lines, answers, strict=True)
    ]
    none = (None,) * len(calls)
    run = frozenset({"run"}) if begin != "UPLOADED" else frozenset()
    first = State(begin, standing=run, admitted=none, answered=(False,) * len(calls))
    made = len(orchestrator.requests_for(handle.id)) - posts
    status = GONE if handle.client.job(handle.id).status_code == 404 else handle.status
    explanation = Explanation(calls, mode, status, made)
    assert explanation.exists(first), (begin, mode, calls, status, made)


@pytest.mark.parametrize("mode", ["accepts", "refuses"])
def test_some_order_explains_the_answers_of_calls_at_the_same_moment(
    mode: str,
    alice: ApiClient,
    callback_secret: str,
    orchestrator: StubOrchestrator,
    pytestconfig: pytest.Config,
) -> None:
    examples = 40 if pytestconfig.getoption("--thorough") else 15

    @settings(
        max_examples=examples, deadline=None, database=None, print_blob=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(
        begin=st.sampled_from(["UPLOADED", "AUDIO_EXTRACTING", "FAILED"]),
        lines=st.lists(CALLS, min_size=2, max_size=7),
    )
    def explained(begin: str, lines: list[Any]) -> None:
        handle = JobHandle.uploaded(alice, callback_secret)
        if begin != "UPLOADED":
            assert alice.run(handle.id).status_code == 202
        if begin == "FAILED":
            handle.reported("FAILED", occurred_at=MOMENT)
        orchestrator.behaviours[handle.id] = BEHAVIOURS[mode]
        check(handle, orchestrator, begin, mode, lines)

    explained()


def test_the_checker_finds_no_order_where_there_is_none() -> None:
    both_first = [Call(("run",), 202, None), Call(("run",), 202, None)]
    none, answered = (None, None), (False, False)
    start = State("UPLOADED", admitted=none, answered=answered)
    assert not Explanation(both_first, "accepts", "AUDIO_EXTRACTING", 1).exists(start)
    one_of_two = [Call(("run",), 202, None), Call(("run",), 200, None)]
    assert Explanation(one_of_two, "accepts", "AUDIO_EXTRACTING", 1).exists(start)
    assert not Explanation(one_of_two, "accepts", "AUDIO_EXTRACTING", 2).exists(start)
    ran_after_cancel = [Call(("cancel",), 200, None), Call(("run",), 202, None)]
    assert not Explanation(ran_after_cancel, "accepts", "AUDIO_EXTRACTING", 1).exists(start)
