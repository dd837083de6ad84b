"""A callback is the best witness of a dispatch: it settles what is open, and what was called failed."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.acceptance import stored
from tests.support.behaviours import (
    Behaviour,
    accept,
    call_back_first,
    hang,
    refuse,
    reset_after_read,
)
from tests.support.client import ApiClient, status_report
from tests.support.job_handle import JobHandle, forbidden_step, refusal
from tests.support.log_lines import wait_for_line
from tests.support.orchestrator import StubOrchestrator
from tests.support.paused import paused

IN_TIME = 0.7  # seconds; a caller that is not woken looks after one


@pytest.fixture
def handle(alice: ApiClient, callback_secret: str) -> JobHandle:
    """A job in UPLOADED."""
    return JobHandle.uploaded(alice, callback_secret)


@contextmanager
def running(handle: JobHandle) -> Iterator[Future[Any]]:
    """A caller who has called run and waits for its outcome."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(handle.client.run, handle.id)


def wait_for_phase(handle: JobHandle, phase: str) -> None:
    wait_until(lambda: handle.dispatch.get("phase") == phase, 30, f"the dispatch is {phase}")


def while_claimed(stack: Stack) -> AbstractContextManager[None]:
    """No worker takes the message."""
    return paused(stack.workers[0])


def test_a_callback_while_claimed_answers_the_waiting_run_and_nothing_is_ever_posted(
    handle: JobHandle, stack: Stack, orchestrator: StubOrchestrator
) -> None:
    with while_claimed(stack), running(handle) as run:
        wait_for_phase(handle, "CLAIMED")
        handle.reported("AUDIO_EXTRACTING")
        answer = run.result(IN_TIME)
        assert (answer.status_code, answer.json()["status"]) == (202, "AUDIO_EXTRACTING")
        assert handle.dispatch["phase"] == "SENT"
    wait_for_line(stack.workers[0], "dispatch.nothing_to_do", handle.id)
    assert orchestrator.requests_for(handle.id) == []
    assert handle.client.run(handle.id).json()["replayed"] is True


@pytest.mark.parametrize(
    ("later", "outcome"),
    [(accept(after=0.4), "accepted"), (refuse(500, after=0.4), "refused"), (hang(0.4), "lost")],
)
def test_a_callback_while_sending_answers_the_waiting_run_at_once_whatever_the_answer_is_later(
    handle: JobHandle, stack: Stack, orchestrator: StubOrchestrator, later: Behaviour, outcome: str
) -> None:
    orchestrator.behaviours[handle.id] = later
    with running(handle) as run:
        orchestrator.wait_for_requests(handle.id)
        handle.reported("AUDIO_EXTRACTING")
        answer = run.result(IN_TIME)
        assert answer.status_code == 202
        assert answer.json()["status"] == "AUDIO_EXTRACTING"
    settled = handle.everything()
    assert handle.dispatch["phase"] == "SENT"
    wait_for_line(stack.workers[0], f"dispatch.{outcome}", handle.id)
    assert handle.client.run(handle.id).status_code == 200
    assert handle.everything() == settled
    assert len(orchestrator.requests_for(handle.id)) == 1
    assert handle.event_types()[-2:] == ["dispatch.proved", "job.status_changed"]


def test_the_orchestrator_may_report_before_it_answers(
    handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    report = status_report("AUDIO_EXTRACTING", execution_id="e1")
    orchestrator.behaviours[handle.id] = call_back_first(report, handle.secret, accept())
    answer = handle.client.run(handle.id)
    assert (answer.status_code, answer.json()["status"]) == (202, "AUDIO_EXTRACTING")
    (request,) = orchestrator.requests_for(handle.id)
    # The callback answers the run; its own answer may still be on the way.
    wait_until(lambda: request.callbacks, 30, "the callback is answered")
    assert [each.status_code for each in request.callbacks] == [204]


def test_a_callback_that_is_already_further_takes_both_steps(
    handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[handle.id] = hang(0.5)
    with running(handle) as run:
        orchestrator.wait_for_requests(handle.id)
        handle.reported("AUDIO_READY")
        assert run.result(IN_TIME).json()["status"] == "AUDIO_READY"
    steps = [(line["prev_status"], line["new_status"]) for line in handle.trail()[-2:]]
    assert steps == [("UPLOADED", "AUDIO_EXTRACTING"), ("AUDIO_EXTRACTING", "AUDIO_READY")]


def test_a_callback_that_no_step_allows_proves_nothing(
    handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[handle.id] = hang(0.5)
    with running(handle) as run:
        orchestrator.wait_for_requests(handle.id)
        assert refusal(handle.report("GENERATING"))[:2] == (409, "FSM_TRANSITION_INVALID")
        assert handle.dispatch["phase"] == "SENDING"
        assert run.result(30).status_code == 502
    assert handle.dispatch["phase"] == "UNKNOWN"


@pytest.mark.parametrize("status", ["AUDIO_EXTRACTING", "FAILED"])
def test_a_callback_settles_an_unknown_outcome(
    handle: JobHandle, orchestrator: StubOrchestrator, status: str
) -> None:
    orchestrator.behaviours[handle.id] = reset_after_read()
    answer = handle.client.run(handle.id)
    assert refusal(answer) == (502, "ORCHESTRATOR_DISPATCH_FAILED", {"reason": "outcome_unknown"})
    assert handle.dispatch["phase"] == "UNKNOWN"
    handle.reported(status)
    assert (handle.status, handle.dispatch["phase"]) == (status, "SENT")
    again = handle.client.run(handle.id)
    if status == "FAILED":
        assert refusal(again) == forbidden_step("FAILED", "AUDIO_EXTRACTING")
    else:
        assert (again.status_code, again.json()["dispatch_id"]) == (200, handle.run_id)
    assert len(orchestrator.requests_for(handle.id)) == 1


def test_a_callback_that_cancels_settles_the_dispatch_and_tells_who_waits(
    handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[handle.id] = hang(0.5)
    with running(handle) as run:
        orchestrator.wait_for_requests(handle.id)
        handle.reported("CANCELLED")
        assert handle.dispatch["phase"] == "SENT"
        assert refusal(run.result(IN_TIME)) == forbidden_step("CANCELLED", "AUDIO_EXTRACTING")


def test_after_a_refusal_that_ran_all_the_same_a_callback_sets_the_claim_again(
    handle: JobHandle, stack: Stack, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[handle.id] = refuse(500)
    answer = handle.client.run(handle.id)
    assert refusal(answer) == (502, "ORCHESTRATOR_DISPATCH_FAILED", {"reason": "refused"})
    assert stored.claim(stack.redis, handle.id) is None
    handle.reported("AUDIO_EXTRACTING", "AUDIO_READY", execution_id="e1")
    claim = stored.claim(stack.redis, handle.id)
    assert claim is not None
    assert (claim["dispatch_id"], claim["phase"]) == (handle.run_id, "SENT")
    assert handle.dispatch["execution_id"] == "e1"
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
    assert handle.event_types()[-3:-1] == ["dispatch.proved", "job.status_changed"]


def test_a_workflow_that_was_started_around_the_service_is_not_started_again(
    handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    handle.reported("AUDIO_EXTRACTING")
    answer = handle.client.run(handle.id)
    assert (answer.status_code, answer.json()["dispatch_id"]) == (200, handle.run_id)
    assert orchestrator.requests_for(handle.id) == []
