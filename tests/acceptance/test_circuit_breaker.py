"""The circuit breaker opens for an orchestrator that does not answer, and closes once it answers again."""

import time
from collections.abc import Iterator

import pytest
import requests

from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.acceptance import stored
from tests.acceptance.outcomes import assert_accepted, assert_failed, shown
from tests.conftest import NewStack
from tests.support import behaviours
from tests.support.client import ApiClient
from tests.support.orchestrator import StubOrchestrator

FAILURES, OPEN_SECONDS = 3, 1.0


@pytest.fixture(scope="module")
def stub() -> StubOrchestrator:
    """An orchestrator that is not started yet."""
    return StubOrchestrator()


@pytest.fixture(scope="module")
def breaker_stack(new_stack: NewStack, stub: StubOrchestrator) -> Iterator[Stack]:
    with new_stack(
        TAKEONE_ORCHESTRATOR_URL=stub.url,
        TAKEONE_ORCHESTRATOR_CONNECT_TRIES="1",
        TAKEONE_BREAKER_FAILURES=str(FAILURES),
        TAKEONE_BREAKER_SECONDS=str(OPEN_SECONDS),
    ) as running:
        yield running


@pytest.fixture(scope="module")
def editor(breaker_stack: Stack) -> ApiClient:
    return ApiClient(breaker_stack.api_url, "alice")


def test_an_orchestrator_that_is_down_opens_the_circuit_and_closes_it_when_it_is_back(
    editor: ApiClient, breaker_stack: Stack, stub: StubOrchestrator
) -> None:
    job_id = editor.uploaded_job()["id"]
    for _ in range(FAILURES):
        assert_failed(editor.run(job_id), "not_started")
    opened = time.monotonic()
    assert_failed(editor.run(job_id), "circuit_open")

    assert shown(editor, job_id) == ("UPLOADED", "RELEASED", "circuit_open")
    assert stored.claim(breaker_stack.redis, job_id) is None
    last = editor.events(job_id, params={"limit": 200}).json()["items"][-1]
    assert (last["event_type"], last["reason"]) == ("dispatch.not_started", "circuit_open")

    with stub:
        # It is up again, but there is no probe before the time is over.
        answer = wait_until(lambda: _unless_open(editor, job_id), 10, "the circuit closes")
        assert time.monotonic() - opened >= OPEN_SECONDS * 0.9
        assert_accepted(answer)
        assert len(stub.requests_for(job_id)) == 1
        assert_accepted(editor.run(editor.uploaded_job()["id"]))


def _unless_open(editor: ApiClient, job_id: str) -> requests.Response | None:
    answer = editor.run(job_id)
    if answer.status_code != 502:
        return answer
    assert_failed(answer, "circuit_open")
    return None


def test_refusals_do_not_open_the_circuit(editor: ApiClient, stub: StubOrchestrator) -> None:
    job_id = editor.uploaded_job()["id"]
    refusals = [behaviours.refuse(500)] * 2 * FAILURES
    stub.behaviours[job_id] = behaviours.in_turn(*refusals, behaviours.accept())
    with stub:
        for _ in range(2 * FAILURES):
            assert_failed(editor.run(job_id), "refused")
        assert_accepted(editor.run(job_id))


def test_lost_posts_open_the_circuit(editor: ApiClient, stub: StubOrchestrator) -> None:
    jobs = [editor.uploaded_job()["id"] for _ in range(FAILURES + 1)]
    with stub:
        for job_id in jobs[:-1]:
            stub.behaviours[job_id] = behaviours.reset_after_read()
            assert editor.run(job_id).json()["details"]["reason"] == "outcome_unknown"
        assert_failed(editor.run(jobs[-1]), "circuit_open")
        assert stub.requests_for(jobs[-1]) == []
