"""An operator's ask, release and fail where the engine can be asked: its answer decides."""

import pytest
import requests

from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.acceptance.outcomes import not_dispatched
from tests.acceptance.test_asking import (
    SOON,
    Restate,
    asking,
    engine,
    handle,
    is_sent,
    lose_answer,
    of,
    stub,
)
from tests.support.client import ApiClient
from tests.support.job_handle import JobHandle, at_once, refusal

__all__ = ["asking", "engine", "handle", "stub"]

REASON = {"reason": "its owner asks"}


@pytest.fixture
def olga(asking: Stack) -> ApiClient:
    """An operator of the service with an engine."""
    return ApiClient(asking.api_url, "olga", "operator")


def ask(olga: ApiClient, handle: JobHandle) -> requests.Response:
    return olga.post(f"/operations/jobs/{handle.id}/ask", REASON)


def test_an_ask_settles_a_dispatch_that_the_engine_has(
    olga: ApiClient, handle: JobHandle, engine: Restate
) -> None:
    lose_answer(handle, engine)
    engine.is_deaf = False
    answer = ask(olga, handle)
    assert answer.status_code == 200, answer.text
    assert answer.json()["state"] == "running"
    assert answer.json()["job"]["dispatch"]["phase"] == "SENT"
    assert is_sent(handle)
    shown = olga.get(f"/operations/jobs/{handle.id}").json()
    (event,) = [event for event in shown["events"] if event["actor_type"] == "operator"]
    assert (event["event_type"], event["operator"]) == ("dispatch.asked", "olga")
    assert event["reason"] == REASON["reason"]
    assert "olga" not in str(handle.trail())


def test_an_ask_about_an_accepted_run_returns_its_state(
    olga: ApiClient, handle: JobHandle, engine: Restate
) -> None:
    assert handle.client.run(handle.id).status_code == 202
    for state in ("running", "succeeded"):
        engine.runs[handle.run_id] = state
        answer = ask(olga, handle)
        assert (answer.status_code, answer.json()["state"]) == (200, state)
        assert answer.json()["job"]["dispatch"]["run_state"] == state
    assert handle.status == "AUDIO_EXTRACTING"


def test_an_ask_sends_a_missing_dispatch_again_under_its_id(
    olga: ApiClient, handle: JobHandle, engine: Restate
) -> None:
    engine.on_start[handle.run_id] = "lost"
    engine.is_deaf = True
    assert handle.client.run(handle.id).status_code == 502
    del engine.on_start[handle.run_id]
    engine.is_deaf = False
    answer = ask(olga, handle)
    assert answer.status_code == 200, answer.text
    assert answer.json()["state"] in ("not_found", "running"), (
        "running if the sweep asked just before"
    )
    wait_until(lambda: is_sent(handle), SOON, "it is sent again")
    assert of(handle, engine.executions) == [handle.run_id]
    assert set(of(handle, engine.starts)) == {handle.run_id}


@pytest.mark.parametrize("is_accepted", [False, True])
def test_an_unanswered_ask_is_a_502_and_changes_nothing(
    olga: ApiClient, handle: JobHandle, engine: Restate, is_accepted: bool
) -> None:
    if is_accepted:
        assert handle.client.run(handle.id).status_code == 202
        assert ask(olga, handle).status_code == 200
        engine.is_deaf = True
    else:
        lose_answer(handle, engine)
    phase = handle.dispatch["phase"]
    answer = ask(olga, handle)
    assert refusal(answer) == not_dispatched("no_answer")
    assert handle.dispatch["phase"] == phase
    engine.is_deaf = False


def test_concurrent_asks_share_a_request(
    olga: ApiClient, handle: JobHandle, engine: Restate
) -> None:
    assert handle.client.run(handle.id).status_code == 202
    before = len(of(handle, engine.asks))
    answers = at_once(6, lambda _: ask(olga, handle))
    assert [answer.status_code for answer in answers] == [200] * 6
    asks = len(of(handle, engine.asks)) - before
    events = [event for event in handle.trail() if event["event_type"] == "dispatch.asked"]
    assert 1 <= asks <= len(events) + 1


def test_a_dispatch_that_runs_at_the_engine_is_not_released(
    olga: ApiClient, handle: JobHandle, engine: Restate
) -> None:
    lose_answer(handle, engine)
    engine.is_deaf = False
    path = f"/operations/jobs/{handle.id}/settle"
    answer = olga.post(path, {"as": "release", **REASON})
    assert refusal(answer)[:2] == (409, "JOB_ALREADY_RUNNING")
    assert is_sent(handle)
    assert of(handle, engine.starts) == [handle.run_id]


def test_an_engine_that_does_not_answer_bars_no_release(
    olga: ApiClient, handle: JobHandle, engine: Restate
) -> None:
    lose_answer(handle, engine)
    answer = olga.post(f"/operations/jobs/{handle.id}/settle", {"as": "release", **REASON})
    assert (answer.status_code, handle.dispatch["phase"]) == (200, "RELEASED")
    engine.is_deaf = False


def test_a_forbidden_fail_does_not_ask_the_engine(
    olga: ApiClient, handle: JobHandle, engine: Restate
) -> None:
    lose_answer(handle, engine)
    answer = olga.post(f"/operations/jobs/{handle.id}/fail", REASON)
    assert refusal(answer)[:2] == (409, "FSM_TRANSITION_INVALID")
    assert "dispatch.asked" not in handle.event_types()
    engine.is_deaf = False


def test_failing_a_running_job_stops_its_run_before_it_can_be_retried(
    olga: ApiClient, handle: JobHandle, engine: Restate
) -> None:
    assert handle.client.run(handle.id).status_code == 202
    answer = olga.post(f"/operations/jobs/{handle.id}/fail", REASON)
    assert (answer.status_code, answer.json()["status"]) == (200, "FAILED")
    assert answer.json()["dispatch"]["run_state"] == "running", "it was asked first"
    wait_until(lambda: of(handle, engine.cancels) == [handle.run_id], SOON, "it is stopped there")
    active = not_dispatched("previous_run_active")
    wait_until(lambda: refusal(handle.retry("one")) == active, SOON, "the cancel is answered")
    assert len(of(handle, engine.executions)) == 1, "the engine accepted the cancel, but still runs"
    engine.runs[handle.run_id] = "cancelled"
    assert handle.retry("one").status_code == 202
    assert len(of(handle, engine.executions)) == 2
