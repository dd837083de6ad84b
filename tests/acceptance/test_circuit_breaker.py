"""An orchestrator that is dead is noticed, spared for a moment, and found again by itself."""

import time
from collections.abc import Iterator

import pytest
import requests

from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.acceptance import stored
from tests.acceptance.outcomes import assert_accepted, assert_failed, shown
from tests.conftest import NewStack
from tests.support import behaviours as told
from tests.support.client import ApiClient
from tests.support.orchestrator import StubOrchestrator

FAILURES, OPEN_SECONDS = 3, 1.0


@pytest.fixture(scope="module")
def mortal() -> StubOrchestrator:
    """An orchestrator that is not up yet."""
    return StubOrchestrator()


@pytest.fixture(scope="module")
def frail_stack(new_stack: NewStack, mortal: StubOrchestrator) -> Iterator[Stack]:
    with new_stack(
        TAKEONE_ORCHESTRATOR_URL=mortal.url,
        TAKEONE_ORCHESTRATOR_CONNECT_TRIES="1",
        TAKEONE_BREAKER_FAILURES=str(FAILURES),
        TAKEONE_BREAKER_SECONDS=str(OPEN_SECONDS),
    ) as running:
        yield running


@pytest.fixture(scope="module")
def editor(frail_stack: Stack) -> ApiClient:
    return ApiClient(frail_stack.api_url, "alice")


def test_a_dead_orchestrator_opens_the_circuit_and_one_that_is_back_closes_it(
    editor: ApiClient, frail_stack: Stack, mortal: StubOrchestrator
) -> None:
    job_id = editor.uploaded_job()["id"]
    for _ in range(FAILURES):
        assert_failed(editor.run(job_id), "not_started")
    opened = time.monotonic()
    assert_failed(editor.run(job_id), "circuit_open")

    assert shown(editor, job_id) == ("UPLOADED", "RELEASED", "circuit_open")
    assert stored.claim(frail_stack.redis, job_id) is None
    last = editor.events(job_id, params={"limit": 200}).json()["items"][-1]
    assert (last["event_type"], last["reason"]) == ("dispatch.not_started", "circuit_open")

    with mortal:
        # It is up, and is not asked before the time is over.
        answer = wait_until(lambda: _unless_open(editor, job_id), 10, "the circuit closes")
        assert time.monotonic() - opened >= OPEN_SECONDS * 0.9
        assert_accepted(answer)
        assert len(mortal.requests_for(job_id)) == 1
        assert_accepted(editor.run(editor.uploaded_job()["id"]))


def _unless_open(editor: ApiClient, job_id: str) -> requests.Response | None:
    answer = editor.run(job_id)
    if answer.status_code != 502:
        return answer
    assert_failed(answer, "circuit_open")
    return None


def test_an_orchestrator_that_answers_500_is_alive_and_a_later_run_tries_at_once(
    editor: ApiClient, mortal: StubOrchestrator
) -> None:
    job_id = editor.uploaded_job()["id"]
    mortal.behaviours[job_id] = told.in_turn(*[told.refuse(500)] * 2 * FAILURES, told.accept())
    with mortal:
        for _ in range(2 * FAILURES):
            assert_failed(editor.run(job_id), "refused")
        assert_accepted(editor.run(job_id))


def test_posts_that_are_lost_open_the_circuit_too(
    editor: ApiClient, mortal: StubOrchestrator
) -> None:
    jobs = [editor.uploaded_job()["id"] for _ in range(FAILURES + 1)]
    with mortal:
        for job_id in jobs[:-1]:
            mortal.behaviours[job_id] = told.reset_after_read()
            assert editor.run(job_id).json()["details"]["reason"] == "outcome_unknown"
        assert_failed(editor.run(jobs[-1]), "circuit_open")
        assert mortal.requests_for(jobs[-1]) == []
