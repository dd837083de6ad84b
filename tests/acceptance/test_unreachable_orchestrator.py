"""Orchestrators that cannot be reached, and one that deduplicates: a stack with settings of its own."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from devstack.ports import HOST
from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.acceptance import stored
from tests.acceptance.outcomes import assert_accepted, assert_failed, shown
from tests.conftest import NewStack
from tests.support import behaviours as told
from tests.support.client import ApiClient
from tests.support.orchestrator import StubOrchestrator


@pytest.fixture(scope="module")
def own_stack(new_stack: NewStack) -> Iterator[Stack]:
    """A stack whose worker may be pointed elsewhere, and whose orchestrator deduplicates."""
    with new_stack(
        TAKEONE_ORCHESTRATOR_TIMEOUT_SECONDS="1",
        TAKEONE_ORCHESTRATOR_CONNECT_TIMEOUT_SECONDS="0.2",
        TAKEONE_ORCHESTRATOR_IDEMPOTENCY_SECONDS="3600",
    ) as running:
        yield running


@pytest.fixture(scope="module")
def carol(own_stack: Stack) -> ApiClient:
    """An editor of that stack."""
    return ApiClient(own_stack.api_url, "carol")


def point_worker_at(stack: Stack, url: str) -> None:
    """Start the worker anew with another orchestrator."""
    (worker,) = stack.workers
    worker.kill()  # it has nothing in hand
    worker.environment["TAKEONE_ORCHESTRATOR_URL"] = url
    worker.start()
    stack.wait_for_worker(worker)


@contextmanager
def port_that_takes_no_connection() -> Iterator[int]:
    """A listener whose queue is full: the kernel drops every further attempt to connect."""
    with ExitStack() as open_sockets:
        listener = open_sockets.enter_context(socket.socket())
        listener.bind((HOST, 0))
        listener.listen(0)
        for _ in range(4):
            waiting = open_sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_a_failure_before_sending_is_not_started_and_can_be_run_again(
    own_stack: Stack, carol: ApiClient, orchestrator: StubOrchestrator
) -> None:
    jobs = {}
    with port_that_takes_no_connection() as full:
        for what, url in {
            "DNS knows no such host": "http://orchestrator.invalid/dispatches",
            "connect timeout": f"http://{HOST}:{full}/dispatches",
            "no TLS there": orchestrator.url.replace("http:", "https:"),
        }.items():
            point_worker_at(own_stack, url)
            jobs[what] = carol.uploaded_job()["id"]
            answer = carol.run(jobs[what])
            assert_failed(answer, "not_started")
            assert shown(carol, jobs[what]) == ("UPLOADED", "RELEASED", "not_started"), what
            assert stored.claim(own_stack.redis, jobs[what]) is None
            assert answer.elapsed.total_seconds() < 3, what
    point_worker_at(own_stack, orchestrator.url)
    for job_id in jobs.values():
        assert_accepted(carol.run(job_id))
        (request,) = orchestrator.requests_for(job_id)
        assert request.dispatch_id == f"run-{job_id}"


def test_within_the_idempotency_window_the_sweep_sends_an_unknown_outcome_again(
    own_stack: Stack, carol: ApiClient, orchestrator: StubOrchestrator
) -> None:
    job_id = carol.uploaded_job()["id"]
    orchestrator.behaviours[job_id] = told.in_turn(told.refuse(504), told.accept())
    assert_failed(carol.run(job_id), "outcome_unknown", most_retry_after=3)
    sent = ("AUDIO_EXTRACTING", "SENT", None)
    wait_until(lambda: shown(carol, job_id) == sent, 30, "it is sent again and accepted")
    ids = [request.dispatch_id for request in orchestrator.requests_for(job_id)]
    assert ids == [f"run-{job_id}"] * 2
    assert_accepted(carol.run(job_id), code=200)
    claim = stored.claim(own_stack.redis, job_id)
    assert claim is not None
    assert claim["epoch"] == 2


def test_within_the_idempotency_window_a_run_sends_an_unknown_outcome_again_at_once(
    carol: ApiClient, orchestrator: StubOrchestrator
) -> None:
    job_id = carol.uploaded_job()["id"]
    orchestrator.behaviours[job_id] = told.in_turn(told.refuse(504), told.accept())
    assert_failed(carol.run(job_id), "outcome_unknown", most_retry_after=3)
    assert_accepted(carol.run(job_id))
    ids = [request.dispatch_id for request in orchestrator.requests_for(job_id)]
    assert ids == [f"run-{job_id}"] * 2


def test_a_worker_killed_while_sending_leaves_an_unknown_outcome(
    own_stack: Stack, carol: ApiClient, orchestrator: StubOrchestrator
) -> None:
    job_id = carol.uploaded_job()["id"]
    orchestrator.behaviours[job_id] = told.in_turn(told.hang(), told.accept())
    begun = carol.run(job_id, headers={"Prefer": "respond-async"})
    assert begun.status_code == 202
    orchestrator.wait_for_requests(job_id)
    (worker,) = own_stack.workers
    worker.kill()
    assert shown(carol, job_id) == ("UPLOADED", "SENDING", None)
    worker.start()
    own_stack.wait_for_worker(worker)
    # The lease of a sending worker outlasts the whole exchange: 1 s and what it takes besides.
    sent = ("AUDIO_EXTRACTING", "SENT", None)
    wait_until(lambda: shown(carol, job_id) == sent, 20, "it is sent again and accepted")
    trail = [event["event_type"] for event in carol.events(job_id).json()["items"]]
    assert trail.count("dispatch.unknown") == 1
    ids = [request.dispatch_id for request in orchestrator.requests_for(job_id)]
    assert ids == [f"run-{job_id}"] * 2
