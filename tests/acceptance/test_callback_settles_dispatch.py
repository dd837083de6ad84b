"""A callback proves that a dispatch arrived: it settles open dispatches and those that seemed refused."""

import pytest

from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.acceptance import stored
from tests.acceptance.conftest import InThread
from tests.acceptance.outcomes import not_dispatched
from tests.support.behaviours import Behaviour, accept, hang, refuse
from tests.support.job_handle import JobHandle, forbidden_step, refusal
from tests.support.log_lines import wait_for_line
from tests.support.orchestrator import StubOrchestrator
from tests.support.paused import paused

WOKEN_SECONDS = 0.7  # a caller that misses the notification reads the job again after 1 s


def wait_for_phase(handle: JobHandle, phase: str) -> None:
    wait_until(lambda: handle.dispatch.get("phase") == phase, 30, f"the dispatch is {phase}")


def test_a_callback_while_claimed_answers_the_waiting_run_and_nothing_is_posted(
    handle: JobHandle, stack: Stack, orchestrator: StubOrchestrator, in_thread: InThread
) -> None:
    with paused(stack.workers[0]):
        run = in_thread(handle.client.run, handle.id)
        wait_for_phase(handle, "CLAIMED")
        handle.reported("AUDIO_EXTRACTING")
        answer = run.result(WOKEN_SECONDS)
        assert (answer.status_code, answer.json()["status"]) == (202, "AUDIO_EXTRACTING")
        assert handle.dispatch["phase"] == "SENT"
    wait_for_line(stack.workers[0], "dispatch.nothing_to_do", handle.id)
    assert orchestrator.requests_for(handle.id) == []
    assert handle.client.run(handle.id).json()["replayed"] is True


@pytest.mark.parametrize(
    ("later", "outcome"),
    [(accept(after=0.4), "accepted"), (refuse(500, after=0.4), "refused"), (hang(0.4), "lost")],
)
def test_a_callback_while_sending_answers_the_waiting_run_whatever_the_later_answer_is(
    handle: JobHandle,
    stack: Stack,
    orchestrator: StubOrchestrator,
    in_thread: InThread,
    later: Behaviour,
    outcome: str,
) -> None:
    orchestrator.behaviours[handle.id] = later
    run = in_thread(handle.client.run, handle.id)
    orchestrator.wait_for_requests(handle.id)
    handle.reported("AUDIO_EXTRACTING")
    answer = run.result(WOKEN_SECONDS)
    assert answer.status_code == 202
    assert answer.json()["status"] == "AUDIO_EXTRACTING"
    settled = handle.everything()
    assert handle.dispatch["phase"] == "SENT"
    wait_for_line(stack.workers[0], f"dispatch.{outcome}", handle.id)
    assert handle.client.run(handle.id).status_code == 200
    assert handle.everything() == settled
    assert len(orchestrator.requests_for(handle.id)) == 1
    assert handle.event_types()[-2:] == ["dispatch.proved", "job.status_changed"]


def test_a_first_callback_of_a_later_state_takes_both_steps(
    handle: JobHandle, orchestrator: StubOrchestrator, in_thread: InThread
) -> None:
    orchestrator.behaviours[handle.id] = hang(0.5)
    run = in_thread(handle.client.run, handle.id)
    orchestrator.wait_for_requests(handle.id)
    handle.reported("AUDIO_READY")
    assert run.result(WOKEN_SECONDS).json()["status"] == "AUDIO_READY"
    steps = [(event["prev_status"], event["new_status"]) for event in handle.trail()[-2:]]
    assert steps == [("UPLOADED", "AUDIO_EXTRACTING"), ("AUDIO_EXTRACTING", "AUDIO_READY")]


def test_a_callback_that_the_states_forbid_proves_nothing(
    handle: JobHandle, orchestrator: StubOrchestrator, in_thread: InThread
) -> None:
    orchestrator.behaviours[handle.id] = hang(0.5)
    run = in_thread(handle.client.run, handle.id)
    orchestrator.wait_for_requests(handle.id)
    assert refusal(handle.report("GENERATING"))[:2] == (409, "FSM_TRANSITION_INVALID")
    assert handle.dispatch["phase"] == "SENDING"
    assert run.result(30).status_code == 502
    assert handle.dispatch["phase"] == "UNKNOWN"


@pytest.mark.parametrize("status", ["AUDIO_EXTRACTING", "FAILED"])
def test_a_callback_settles_an_unknown_outcome(
    unknown: JobHandle, orchestrator: StubOrchestrator, status: str
) -> None:
    handle = unknown
    assert handle.dispatch["phase"] == "UNKNOWN"
    handle.reported(status)
    assert (handle.status, handle.dispatch["phase"]) == (status, "SENT")
    events = handle.event_types()
    assert set(events[events.index("dispatch.proved") + 1 :]) == {"job.status_changed"}
    again = handle.client.run(handle.id)
    if status == "FAILED":
        assert refusal(again) == forbidden_step("FAILED", "AUDIO_EXTRACTING")
    else:
        assert (again.status_code, again.json()["dispatch_id"]) == (200, handle.run_id)
    assert len(orchestrator.requests_for(handle.id)) == 1


def test_a_cancelled_callback_settles_the_dispatch_and_answers_the_waiting_run(
    handle: JobHandle, orchestrator: StubOrchestrator, in_thread: InThread
) -> None:
    orchestrator.behaviours[handle.id] = hang(0.5)
    run = in_thread(handle.client.run, handle.id)
    orchestrator.wait_for_requests(handle.id)
    handle.reported("CANCELLED")
    assert handle.dispatch["phase"] == "SENT"
    assert refusal(run.result(WOKEN_SECONDS)) == forbidden_step("CANCELLED", "AUDIO_EXTRACTING")


def test_a_callback_after_a_refusal_restores_the_claim(
    handle: JobHandle, stack: Stack, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[handle.id] = refuse(500)
    answer = handle.client.run(handle.id)
    assert refusal(answer) == not_dispatched("refused")
    assert stored.claim(stack.redis, handle.id) is None
    handle.reported("AUDIO_EXTRACTING", "AUDIO_READY", execution_id="e1")
    claim = stored.claim(stack.redis, handle.id)
    assert (claim["dispatch_id"], claim["phase"]) == (handle.run_id, "SENT")
    assert handle.dispatch["execution_id"] == "e1"
    assert handle.event_types()[-3:-1] == ["dispatch.proved", "job.status_changed"]
    other = handle.report("AUDIO_READY", execution_id="e2")
    assert refusal(other) == (409, "EXECUTION_SUPERSEDED", {"execution_id": "e1"})
    again = handle.client.run(handle.id)
    assert (again.status_code, again.json()) == (
        200,
        {
            "job_id": handle.id,
            "status": "AUDIO_READY",
            "dispatch_id": handle.run_id,
            "replayed": True,
        },
    )
    assert len(orchestrator.requests_for(handle.id)) == 1


def test_a_workflow_started_outside_the_service_is_not_started_again(
    handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    handle.reported("AUDIO_EXTRACTING")
    answer = handle.client.run(handle.id)
    assert (answer.status_code, answer.json()["dispatch_id"]) == (200, handle.run_id)
    assert orchestrator.requests_for(handle.id) == []
