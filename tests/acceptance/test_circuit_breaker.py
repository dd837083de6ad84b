"""The circuit breaker: opens for an unreachable orchestrator, and closes when it is back."""

import time
from collections.abc import Iterator

import pytest
import requests

from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.acceptance import stored
from tests.acceptance.outcomes import assert_accepted, assert_failed, shown
from tests.conftest import NewStack
from tests.support.behaviours import accept, in_turn, refuse, reset_after_read
from tests.support.client import ApiClient
from tests.support.orchestrator import StubOrchestrator

FAILURES, OPEN_SECONDS = 3, 1.0


@pytest.fixture(scope="module")
def target() -> StubOrchestrator:
    """An orchestrator that is not running yet."""
    return StubOrchestrator()


@pytest.fixture(scope="module")
def service(new_stack: NewStack, target: StubOrchestrator) -> Iterator[Stack]:
    with new_stack(
        TAKEONE_ORCHESTRATOR_URL=target.url,
        TAKEONE_ORCHESTRATOR_CONNECT_TRIES="1",
        TAKEONE_BREAKER_FAILURES=str(FAILURES),
        TAKEONE_BREAKER_SECONDS=str(OPEN_SECONDS),
    ) as running:
        yield running


def test_an_unreachable_orchestrator_opens_the_circuit_and_its_return_closes_it(
    editor: ApiClient, service: Stack, target: StubOrchestrator
) -> None:
    job_id = editor.uploaded_job()["id"]
    for _ in range(FAILURES):
        assert_failed(editor.run(job_id), "not_started")
    opened = time.monotonic()
    assert_failed(editor.run(job_id), "circuit_open")

    assert shown(editor, job_id) == ("UPLOADED", "RELEASED", "circuit_open")
    assert stored.claim(service.redis, job_id) is None
    last = editor.events(job_id, params={"limit": 200}).json()["items"][-1]
    assert (last["event_type"], last["reason"]) == ("dispatch.not_started", "circuit_open")

    with target:
        # It is back, and gets no request before the circuit closes.
        answer = wait_until(lambda: _unless_open(editor, job_id), 10, "the circuit closes")
        assert time.monotonic() - opened >= OPEN_SECONDS * 0.9
        assert_accepted(answer)
        assert len(target.requests_for(job_id)) == 1
        assert_accepted(editor.run(editor.uploaded_job()["id"]))


def _unless_open(editor: ApiClient, job_id: str) -> requests.Response | None:
    answer = editor.run(job_id)
    if answer.status_code != 502:
        return answer
    assert_failed(answer, "circuit_open")
    return None


def test_answers_of_500_do_not_open_the_circuit(
    editor: ApiClient, target: StubOrchestrator
) -> None:
    job_id = editor.uploaded_job()["id"]
    target.behaviours[job_id] = in_turn(*[refuse(500)] * 2 * FAILURES, accept())
    with target:
        for _ in range(2 * FAILURES):
            assert_failed(editor.run(job_id), "refused")
        assert_accepted(editor.run(job_id))


def test_lost_answers_open_the_circuit(editor: ApiClient, target: StubOrchestrator) -> None:
    jobs = [editor.uploaded_job()["id"] for _ in range(FAILURES + 1)]
    with target:
        for job_id in jobs[:-1]:
            target.behaviours[job_id] = reset_after_read()
            assert editor.run(job_id).json()["details"]["reason"] == "outcome_unknown"
        assert_failed(editor.run(jobs[-1]), "circuit_open")
        assert target.requests_for(jobs[-1]) == []
