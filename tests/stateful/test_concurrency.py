"""Concurrent calls on one job are linearizable: some order of the calls explains all answers.

A call that waits for a dispatch consists of two events, its admission and its answer; the dispatch's outcome is
a separate event; every other call is one event. The checker searches for an order that fits.
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

DELETED = "DELETED"  # stands for a job that no longer exists; not a status
MOMENT = "2026-05-04T10:00:00Z"  # of every callback: equal times are in order
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
    """The job's state as far as these calls depend on it, and the progress of each call."""

    status: str
    events: frozenset[tuple[str, tuple[str, str]]] = frozenset()  # event id: status and dispatch
    current: str = "run"  # the current dispatch
    accepted: frozenset[str] = frozenset()
    in_flight: str | None = None  # the dispatch that is being sent
    refused: str | None = None  # the current dispatch, if it was refused
    all_refused: frozenset[str] = frozenset()
    resumed: bool = True  # whether the latest retry has had a callback
    posts: int = 0
    admitted: tuple[str | None, ...] = ()  # by call: its role and the dispatch that it waits for
    answered: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Call:
    """A call and its answer."""

    command: tuple[str, ...]
    status: int
    code: str | None


def make(handle: JobHandle, command: tuple[str, ...], reports: dict[Any, Any]) -> requests.Response:
    match command:
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
    return handle.send(reports[command])


class Explanation:
    """Searches for an order of events that leads to all answers, and to the status and posts at the end."""

    def __init__(self, calls: list[Call], mode: str, status: str, posts: int) -> None:
        self.calls, self.mode, self.end = calls, mode, (status, posts)
        self.exists = lru_cache(maxsize=None)(self._exists)

    def _exists(self, state: State) -> bool:
        is_over = all(state.answered) and state.in_flight is None
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
        if state.in_flight is None:
            return []
        settled = replace(state, in_flight=None)
        if self.mode == "refuses":
            all_refused = state.all_refused | {state.in_flight}
            return [replace(settled, refused=state.in_flight, all_refused=all_refused)]
        status = state.status
        if state.in_flight == "run" and status == "UPLOADED":
            status = "AUDIO_EXTRACTING"
        return [replace(settled, status=status, accepted=state.accepted | {state.in_flight})]

    def _event(self, state: State, number: int, call: Call) -> list[State]:
        if state.status == DELETED:
            not_found = (call.status, call.code) == (404, "RESOURCE_NOT_FOUND")
            return [_answered(state, number)] if not_found else []
        if state.admitted[number]:
            return self._answer_waiting(state, number, call)
        rule: Callable[..., list[tuple[State, tuple[int, str | None]]]] = getattr(
            self, f"_{call.command[0]}"
        )
        found = []
        for following, answer in rule(state, number, *call.command[1:]):
            if answer == (call.status, call.code):
                found.append(_answered(following, number))
            elif answer == (0, None):
                found.append(following)
        return found

    def _answer_waiting(self, state: State, number: int, call: Call) -> list[State]:
        role, name = str(state.admitted[number]).split(" ")
        expected: tuple[int, str | None] | None = None
        if state.status == "CANCELLED":
            expected = (409, "FSM_TERMINAL_IMMUTABLE")
        elif name in state.accepted:
            expected = (202 if role == "first" else 200, None)
        elif name in state.all_refused:  # even if it has been sent again since
            expected = (502, "ORCHESTRATOR_DISPATCH_FAILED")
        return [_answered(state, number)] if expected == (call.status, call.code) else []

    def _cancel(self, state: State, number: int) -> list[Any]:
        if not STEPS[state.status]:
            return [(state, (409, "FSM_TERMINAL_IMMUTABLE"))]
        cancelled = replace(state, status="CANCELLED")
        unsent = (
            [replace(cancelled, in_flight=None, posts=state.posts - 1)] if state.in_flight else []
        )
        return [(after, (200, None)) for after in [cancelled, *unsent]]

    def _edit(self, state: State, number: int) -> list[Any]:
        return [(state, (200, None))]

    def _delete(self, state: State, number: int) -> list[Any]:
        if STEPS[state.status]:
            return [(state, (409, "NOT_TERMINAL"))]
        refused = (state, (409, "JOB_ALREADY_RUNNING"))
        if state.in_flight or (not state.resumed and state.refused is None):
            return [refused]
        deleted = (replace(state, status=DELETED), (204, None))
        # Until the cancel is delivered to the orchestrator, the job cannot be deleted.
        return [deleted, refused] if state.status == "CANCELLED" else [deleted]

    def _run(self, state: State, number: int) -> list[Any]:
        if not STEPS[state.status]:
            return [(state, (409, "FSM_TERMINAL_IMMUTABLE"))]
        if "run" in state.accepted:
            return [(state, (200, None))]
        if state.in_flight == "run":
            return [(_waits(state, number, "joiner", "run"), (0, None))]
        if state.status != "UPLOADED":
            return [(state, (409, "FSM_TRANSITION_INVALID"))]
        return [(_sends(state, number, "run"), (0, None))]

    def _retry(self, state: State, number: int, name: str) -> list[Any]:
        if name in state.accepted:
            return [(state, (200, None))]
        if state.in_flight == name:
            return [(_waits(state, number, "joiner", name), (0, None))]
        runs = state.status in ("AUDIO_EXTRACTING", "TRANSCRIBING")
        if runs or state.in_flight or (not state.resumed and state.refused is None):
            return [(state, (409, "JOB_ALREADY_RUNNING"))]
        if state.status != "FAILED":
            return [(state, (409, "RETRY_NOT_ALLOWED_STATE"))]
        return [(replace(_sends(state, number, name), resumed=False), (0, None))]

    def _report(self, state: State, number: int, step: str, event_id: str) -> list[Any]:
        seen = dict(state.events).get(event_id)
        if seen is not None:
            mismatch = (409, "EVENT_ID_PAYLOAD_MISMATCH")
            return [(state, (200, None) if seen == (step, state.current) else mismatch)]
        dispatch = state.in_flight or state.refused
        before = state.status
        if state.status == "FAILED" and not state.resumed:
            # These jobs have no checkpoint but the upload; a retry from there may report FAILED first.
            before = "AUDIO_EXTRACTING" if step == "FAILED" else "UPLOADED"
        elif state.status == "UPLOADED" and dispatch and step != "AUDIO_EXTRACTING":
            before = "AUDIO_EXTRACTING"
        found = self._reported_from(state, step, event_id, before)
        if state.status == "FAILED" and state.in_flight:  # the retry may not have been sent yet
            found += self._reported_from(state, step, event_id, state.status)
        return found

    def _reported_from(self, state: State, step: str, event_id: str, before: str) -> list[Any]:
        if step not in STEPS[before]:
            code = "FSM_TRANSITION_INVALID" if STEPS[before] else "FSM_TERMINAL_IMMUTABLE"
            return [(state, (409, code))]
        return [(after, (204, None)) for after in self._reported(state, step, event_id)]

    def _reported(self, state: State, step: str, event_id: str) -> list[State]:
        after = replace(
            state, status=step, events=state.events | {(event_id, (step, state.current))}
        )
        starts = state.status == "UPLOADED" or (state.status == "FAILED" and not state.resumed)
        if not starts:
            return [after]
        name = state.in_flight or state.refused or "run"
        proved = replace(
            after, accepted=state.accepted | {name}, in_flight=None, refused=None, resumed=True
        )
        # A callback may prove a dispatch in flight before or after it was posted.
        return [proved, replace(proved, posts=state.posts - 1)] if state.in_flight else [proved]


def _answered(state: State, number: int) -> State:
    answered = tuple(done or place == number for place, done in enumerate(state.answered))
    return replace(state, answered=answered)


def _waits(state: State, number: int, role: str, name: str) -> State:
    admitted = list(state.admitted)
    admitted[number] = f"{role} {name}"
    return replace(state, admitted=tuple(admitted))


def _sends(state: State, number: int, name: str) -> State:
    return replace(
        _waits(state, number, "first", name), in_flight=name, current=name, posts=state.posts + 1
    )


def check(
    handle: JobHandle, orchestrator: StubOrchestrator, begin: str, mode: str, commands: list[Any]
) -> None:
    """Make all calls concurrently, and assert that an order explains their answers."""
    reports = {
        command: status_report(
            command[1], event_id=command[2], occurred_at=MOMENT, correlation_id="c"
        )
        for command in commands
        if command[0] == "report"
    }
    posts = len(orchestrator.requests_for(handle.id))
    answers = at_once(len(commands), lambda number: make(handle, commands[number], reports))
    calls = [
        Call(command, answer.status_code, answer.json().get("code") if answer.content else None)
        for command, answer in zip(commands, answers, strict=True)
    ]
    none = (None,) * len(calls)
    run = frozenset({"run"}) if begin != "UPLOADED" else frozenset()
    first = State(begin, accepted=run, admitted=none, answered=(False,) * len(calls))
    made = len(orchestrator.requests_for(handle.id)) - posts
    status = DELETED if handle.client.job(handle.id).status_code == 404 else handle.status
    explanation = Explanation(calls, mode, status, made)
    assert explanation.exists(first), (begin, mode, calls, status, made)


@pytest.mark.parametrize("mode", ["accepts", "refuses"])
def test_some_order_explains_the_answers_of_concurrent_calls(
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
        commands=st.lists(CALLS, min_size=2, max_size=7),
    )
    def explain(begin: str, commands: list[Any]) -> None:
        handle = JobHandle.uploaded(alice, callback_secret)
        if begin != "UPLOADED":
            assert alice.run(handle.id).status_code == 202
        if begin == "FAILED":
            handle.reported("FAILED", occurred_at=MOMENT)
        orchestrator.behaviours[handle.id] = BEHAVIOURS[mode]
        check(handle, orchestrator, begin, mode, commands)

    explain()


def test_the_checker_rejects_answers_that_no_order_explains() -> None:
    both_first = [Call(("run",), 202, None), Call(("run",), 202, None)]
    none, answered = (None, None), (False, False)
    start = State("UPLOADED", admitted=none, answered=answered)
    assert not Explanation(both_first, "accepts", "AUDIO_EXTRACTING", 1).exists(start)
    one_of_two = [Call(("run",), 202, None), Call(("run",), 200, None)]
    assert Explanation(one_of_two, "accepts", "AUDIO_EXTRACTING", 1).exists(start)
    assert not Explanation(one_of_two, "accepts", "AUDIO_EXTRACTING", 2).exists(start)
    ran_after_cancel = [Call(("cancel",), 200, None), Call(("run",), 202, None)]
    assert not Explanation(ran_after_cancel, "accepts", "AUDIO_EXTRACTING", 1).exists(start)
