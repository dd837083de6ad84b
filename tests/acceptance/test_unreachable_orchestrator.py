"""Orchestrators that cannot be reached, and one that recognises an Idempotency-Key."""

from collections.abc import Iterator

import pytest

from devstack.ports import HOST, free_port
from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.acceptance import stored
from tests.acceptance.outcomes import assert_accepted, assert_dispatched, assert_failed, shown
from tests.conftest import NewStack
from tests.support.behaviours import accept, hang, in_turn, refuse
from tests.support.client import ApiClient
from tests.support.full_listener import port_that_takes_no_connection
from tests.support.orchestrator import StubOrchestrator


@pytest.fixture(scope="module")
def service(new_stack: NewStack) -> Iterator[Stack]:
    """A stack with short timeouts, whose orchestrator remembers an Idempotency-Key for an hour."""
    with new_stack(
        TAKEONE_ORCHESTRATOR_TIMEOUT_SECONDS="1",
        TAKEONE_ORCHESTRATOR_CONNECT_TIMEOUT_SECONDS="0.2",
        TAKEONE_ORCHESTRATOR_IDEMPOTENCY_SECONDS="3600",
    ) as running:
        yield running


def point_worker_at(stack: Stack, url: str) -> None:
    """Restart the worker with another orchestrator."""
    (worker,) = stack.workers
    worker.kill()  # it is idle
    worker.environment["TAKEONE_ORCHESTRATOR_URL"] = url
    worker.start()
    stack.wait_for_worker(worker)


def test_a_failure_before_sending_is_not_started_and_can_be_run_again(
    service: Stack, editor: ApiClient, orchestrator: StubOrchestrator
) -> None:
    jobs = {}
    with port_that_takes_no_connection() as full:
        for what, url in {
            "nothing listens": f"http://{HOST}:{free_port()}/dispatches",
            "unknown host": "http://orchestrator.invalid/dispatches",
            "connect timeout": f"http://{HOST}:{full}/dispatches",
            "no TLS at the server": orchestrator.url.replace("http:", "https:"),
        }.items():
            point_worker_at(service, url)
            jobs[what] = editor.uploaded_job()["id"]
            answer = editor.run(jobs[what])
            assert_failed(answer, "not_started")
            assert shown(editor, jobs[what]) == ("UPLOADED", "RELEASED", "not_started"), what
            assert stored.claim(service.redis, jobs[what]) is None
            assert answer.elapsed.total_seconds() < 3, what
    point_worker_at(service, orchestrator.url)
    for job_id in jobs.values():
        assert_accepted(editor.run(job_id))
        (request,) = orchestrator.requests_for(job_id)
        assert request.dispatch_id == f"run-{job_id}"


def test_within_the_idempotency_window_the_sweep_sends_an_unknown_outcome_again(
    service: Stack, editor: ApiClient, orchestrator: StubOrchestrator
) -> None:
    job_id = editor.uploaded_job()["id"]
    orchestrator.behaviours[job_id] = in_turn(refuse(504), accept())
    assert_failed(editor.run(job_id), "outcome_unknown", most_retry_after=3)
    sent = ("AUDIO_EXTRACTING", "SENT", None)
    wait_until(lambda: shown(editor, job_id) == sent, 30, "it is sent again and accepted")
    assert_dispatched(orchestrator, job_id, times=2)
    assert_accepted(editor.run(job_id), code=200)
    claim = stored.claim(service.redis, job_id)
    assert claim["epoch"] == 2


def test_within_the_idempotency_window_a_run_sends_an_unknown_outcome_again_at_once(
    editor: ApiClient, orchestrator: StubOrchestrator
) -> None:
    job_id = editor.uploaded_job()["id"]
    orchestrator.behaviours[job_id] = in_turn(refuse(504), accept())
    assert_failed(editor.run(job_id), "outcome_unknown", most_retry_after=3)
    assert_accepted(editor.run(job_id))
    assert_dispatched(orchestrator, job_id, times=2)


def test_a_worker_killed_while_sending_leaves_an_unknown_outcome(
    service: Stack, editor: ApiClient, orchestrator: StubOrchestrator
) -> None:
    job_id = editor.uploaded_job()["id"]
    orchestrator.behaviours[job_id] = in_turn(hang(), accept())
    begun = editor.run(job_id, headers={"Prefer": "respond-async"})
    assert begun.status_code == 202
    orchestrator.wait_for_requests(job_id)
    (worker,) = service.workers
    worker.kill()
    assert shown(editor, job_id) == ("UPLOADED", "SENDING", None)
    worker.start()
    service.wait_for_worker(worker)
    # The lease of a sending worker ends only some time after the exchange's limit of 1 s.
    sent = ("AUDIO_EXTRACTING", "SENT", None)
    wait_until(lambda: shown(editor, job_id) == sent, 20, "it is sent again and accepted")
    trail = [event["event_type"] for event in editor.events(job_id).json()["items"]]
    assert trail.count("dispatch.unknown") == 1
    assert_dispatched(orchestrator, job_id, times=2)
