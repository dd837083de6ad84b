"""Store or broker stopped or killed: quick answers, no lasting claims, and recovery without help."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import requests

from devstack.redis_server import RedisServer
from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.acceptance import stored
from tests.conftest import NewStack
from tests.support.behaviours import accept
from tests.support.client import ApiClient, now, status_report
from tests.support.job_handle import JobHandle
from tests.support.orchestrator import StubOrchestrator

MOST_SECONDS = 3.0
RECOVERY_SECONDS = 15.0
CALLERS, FAILED = 24, 6
EVERY_OTHER_ROUTE: dict[str, Callable[[ApiClient, str, str], requests.Response]] = {
    "create project": lambda dave, job_id, secret: dave.create_project(),
    "list projects": lambda dave, job_id, secret: dave.get("/projects"),
    "show project": lambda dave, job_id, secret: dave.get(f"/projects/{job_id}"),
    "create job": lambda dave, job_id, secret: dave.create_job(job_id),
    "list jobs": lambda dave, job_id, secret: dave.get(f"/projects/{job_id}/jobs"),
    "show job": lambda dave, job_id, secret: dave.job(job_id),
    "long poll": lambda dave, job_id, secret: dave.job(job_id + "?wait=5&status_not=UPLOADED"),
    "list own jobs": lambda dave, job_id, secret: dave.get("/jobs"),
    "create with a key": lambda dave, job_id, secret: dave.create_project(
        headers={"Idempotency-Key": "key"}
    ),
    "edit": lambda dave, job_id, secret: dave.edit_job(job_id, name="Other"),
    "delete": lambda dave, job_id, secret: dave.delete_job(job_id),
    "confirm": lambda dave, job_id, secret: dave.confirm_upload(job_id, "s3://studio/other.mp4"),
    "cancel": lambda dave, job_id, secret: dave.cancel(job_id),
    "retry": lambda dave, job_id, secret: dave.retry(job_id, "again"),
    "events": lambda dave, job_id, secret: dave.events(job_id),
    "callback": lambda dave, job_id, secret: dave.callback(
        job_id, secret, status_report("AUDIO_EXTRACTING")
    ),
}


@dataclass(frozen=True)
class Setup:
    """A stack, the Redis that a test stops, and an editor."""

    stack: Stack
    faulty: RedisServer
    dave: ApiClient


@pytest.fixture(scope="module")
def own_store(new_stack: NewStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    """A test stops the store, which is the broker too; it keeps its data when it is killed."""
    directory = tmp_path_factory.mktemp("redis")
    redis = RedisServer(directory, append_only=True, appendfsync="always")
    with redis, new_stack(redis=redis) as stack:
        yield Setup(stack, redis, ApiClient(stack.api_url, "dave"))


@pytest.fixture(scope="module")
def own_broker(new_stack: NewStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    """A test stops the broker, which is a separate Redis."""
    broker = RedisServer(tmp_path_factory.mktemp("broker"))
    with broker, new_stack(TAKEONE_BROKER_URL=broker.url) as stack:
        yield Setup(stack, broker, ApiClient(stack.api_url, "dave"))


STOP_AND_GO = {
    "stopped": (RedisServer.pause, RedisServer.resume),
    "killed": (RedisServer.kill, RedisServer.start),
}


def assert_unavailable(answer: requests.Response, *codes: int) -> None:
    """A 503 (or one of `codes`) in the contract's shape, within three seconds."""
    assert answer.status_code in (503, *codes), answer.text
    assert answer.elapsed.total_seconds() < MOST_SECONDS
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.json().keys() - {"details"} == {"code", "message"}


def assert_recovers(setup: Setup, job_id: str, orchestrator: StubOrchestrator) -> None:
    """A run works again without help, and was posted once in total."""
    wait_until(
        lambda: setup.dave.run(job_id).status_code in (200, 202),
        RECOVERY_SECONDS,
        "a run works again",
    )
    assert setup.dave.job(job_id).json()["status"] == "AUDIO_EXTRACTING"
    assert len(orchestrator.requests_for(job_id)) == 1
    ready = setup.dave.call("GET", "/readyz")
    assert ready.status_code == 200, ready.text


@pytest.mark.parametrize("fault", STOP_AND_GO)
def test_without_the_store_every_route_is_503_until_it_returns(
    fault: str, own_store: Setup, orchestrator: StubOrchestrator, callback_secret: str
) -> None:
    setup, (stop, go) = own_store, STOP_AND_GO[fault]
    jobs = [setup.dave.uploaded_job()["id"] for _ in range(CALLERS)]
    stop(setup.faulty)
    try:
        with ThreadPoolExecutor(CALLERS + len(EVERY_OTHER_ROUTE)) as callers:
            runs = list(callers.map(setup.dave.run, jobs))
            others = {
                name: callers.submit(call, setup.dave, jobs[0], callback_secret)
                for name, call in EVERY_OTHER_ROUTE.items()
            }
        health = setup.dave.call("GET", "/healthz")
        readiness = setup.dave.call("GET", "/readyz")
    finally:
        go(setup.faulty)
    for answer in runs:
        assert_unavailable(answer, 502)
    for future in others.values():
        assert_unavailable(future.result())
    assert health.status_code == 200
    assert health.elapsed.total_seconds() < 1
    assert_unavailable(readiness)
    assert "store" in readiness.json()["message"]
    for job_id in jobs[1:]:  # the first one may be cancelled
        assert_recovers(setup, job_id, orchestrator)


@pytest.mark.parametrize("fault", STOP_AND_GO)
def test_losing_the_store_while_a_run_waits_is_a_503_and_keeps_the_dispatch(
    fault: str, own_store: Setup, orchestrator: StubOrchestrator
) -> None:
    setup, (stop, go) = own_store, STOP_AND_GO[fault]
    job_id = setup.dave.uploaded_job()["id"]
    orchestrator.behaviours[job_id] = accept(after=0.3)
    with ThreadPoolExecutor(1) as callers:
        run = callers.submit(setup.dave.run, job_id)
        orchestrator.wait_for_requests(job_id)
        stop(setup.faulty)
        try:
            assert_unavailable(run.result())
        finally:
            go(setup.faulty)
    sent = lambda: setup.dave.job(job_id).json().get("status") == "AUDIO_EXTRACTING"  # noqa: E731
    wait_until(sent, RECOVERY_SECONDS, "the worker settles the dispatch")
    replay = setup.dave.run(job_id)
    assert (replay.status_code, replay.json()["replayed"]) == (200, True)
    assert len(orchestrator.requests_for(job_id)) == 1


def test_with_a_separate_broker_a_second_run_is_a_replay(
    own_broker: Setup, orchestrator: StubOrchestrator
) -> None:
    job_id = own_broker.dave.uploaded_job()["id"]
    first, second = own_broker.dave.run(job_id), own_broker.dave.run(job_id)
    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json()["status"] == second.json()["status"] == "AUDIO_EXTRACTING"
    (request,) = orchestrator.requests_for(job_id)
    assert request.dispatch_id == first.json()["dispatch_id"] == second.json()["dispatch_id"]


@pytest.mark.parametrize("fault", STOP_AND_GO)
def test_without_the_broker_a_run_fails_at_once_and_claims_nothing(
    fault: str, own_broker: Setup, orchestrator: StubOrchestrator
) -> None:
    setup, (stop, go) = own_broker, STOP_AND_GO[fault]
    jobs = [setup.dave.uploaded_job()["id"] for _ in range(CALLERS)]
    stop(setup.faulty)
    try:
        with ThreadPoolExecutor(CALLERS) as callers:
            runs = list(callers.map(setup.dave.run, jobs))
        claims = [stored.claim(setup.stack.redis, job_id) for job_id in jobs]
        readiness = setup.dave.call("GET", "/readyz")
        others = [setup.dave.job(jobs[0]), setup.dave.create_project(), setup.dave.get("/projects")]
    finally:
        go(setup.faulty)
    for answer in runs:
        assert_unavailable(answer, 502)
    assert claims == [None] * CALLERS
    assert_unavailable(readiness)
    assert "broker" in readiness.json()["message"]
    assert [answer.status_code for answer in others] == [200, 201, 200]
    for job_id in jobs:
        assert_recovers(setup, job_id, orchestrator)


def test_concurrent_callers_of_one_job_all_fail_without_the_broker(
    own_broker: Setup, orchestrator: StubOrchestrator
) -> None:
    job_id = own_broker.dave.uploaded_job()["id"]
    own_broker.faulty.pause()
    try:
        with ThreadPoolExecutor(4) as callers:
            runs = list(callers.map(own_broker.dave.run, [job_id] * 4))
    finally:
        own_broker.faulty.resume()
    for answer in runs:
        assert_unavailable(answer, 502)
        reason = answer.json().get("details", {}).get("reason", "not_started")
        assert reason == "not_started"
    assert_recovers(own_broker, job_id, orchestrator)


def test_without_the_broker_a_bulk_retry_is_refused_at_once(
    own_broker: Setup, callback_secret: str
) -> None:
    setup, since = own_broker, now()
    jobs = [JobHandle.uploaded(setup.dave, callback_secret) for _ in range(FAILED)]
    for job in jobs:
        job.lead_to("AUDIO_EXTRACTING").reported("FAILED")
    olga = ApiClient(setup.stack.api_url, "olga", "operator", timeout_seconds=60)
    body = {"failed_since": since, "model_profile": "standard", "reason": "the broker was away"}
    setup.faulty.pause()
    try:
        refused = olga.post("/operations/retries", body)
    finally:
        setup.faulty.resume()
    assert refused.elapsed.total_seconds() < MOST_SECONDS
    started = olga.post("/operations/retries", body)
    for answer, outcome in (
        (refused, ("refused", "SERVICE_UNAVAILABLE")),
        (started, ("started", None)),
    ):
        found = {item["job_id"]: (item["outcome"], item["code"]) for item in answer.json()["items"]}
        assert found == {job.id: outcome for job in jobs}
