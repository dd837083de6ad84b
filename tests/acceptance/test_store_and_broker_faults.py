"""Store or broker stopped or gone: quick answers, nothing claimed for good, and it heals by itself."""

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
from tests.support import behaviours as told
from tests.support.client import ApiClient, now, status_report
from tests.support.job_handle import JobHandle
from tests.support.orchestrator import StubOrchestrator

MOST_SECONDS = 3.0
HEAL_SECONDS = 15.0
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
class House:
    """A stack with a Redis that may be harmed, and an editor of it."""

    stack: Stack
    harmed: RedisServer
    dave: ApiClient


@pytest.fixture(scope="module")
def store_house(new_stack: NewStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The store, which is the broker too, may be harmed; it keeps its data when it is killed."""
    directory = tmp_path_factory.mktemp("redis")
    redis = RedisServer(directory, append_only=True, appendfsync="always")
    with redis, new_stack(redis=redis) as stack:
        yield House(stack, redis, ApiClient(stack.api_url, "dave"))


@pytest.fixture(scope="module")
def broker_house(new_stack: NewStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The broker is a Redis of its own, and may be harmed."""
    broker = RedisServer(tmp_path_factory.mktemp("broker"))
    with broker, new_stack(TAKEONE_BROKER_URL=broker.url) as stack:
        yield House(stack, broker, ApiClient(stack.api_url, "dave"))


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


def assert_heals(house: House, job_id: str, orchestrator: StubOrchestrator) -> None:
    """The same run works again, without help, and was posted once in all."""
    wait_until(
        lambda: house.dave.run(job_id).status_code in (200, 202), HEAL_SECONDS, "a run works again"
    )
    assert house.dave.job(job_id).json()["status"] == "AUDIO_EXTRACTING"
    assert len(orchestrator.requests_for(job_id)) == 1
    ready = house.dave.call("GET", "/readyz")
    assert ready.status_code == 200, ready.text


@pytest.mark.parametrize("fault", STOP_AND_GO)
def test_without_the_store_every_route_is_503_until_it_returns(
    fault: str, store_house: House, orchestrator: StubOrchestrator, callback_secret: str
) -> None:
    house, (stop, go) = store_house, STOP_AND_GO[fault]
    jobs = [house.dave.uploaded_job()["id"] for _ in range(CALLERS)]
    stop(house.harmed)
    try:
        with ThreadPoolExecutor(CALLERS + len(EVERY_OTHER_ROUTE)) as callers:
            runs = list(callers.map(house.dave.run, jobs))
            others = {
                name: callers.submit(call, house.dave, jobs[0], callback_secret)
                for name, call in EVERY_OTHER_ROUTE.items()
            }
        health = house.dave.call("GET", "/healthz")
        readiness = house.dave.call("GET", "/readyz")
    finally:
        go(house.harmed)
    for answer in runs:
        assert_unavailable(answer, 502)
    for future in others.values():
        assert_unavailable(future.result())
    assert health.status_code == 200
    assert health.elapsed.total_seconds() < 1
    assert_unavailable(readiness)
    assert "store" in readiness.json()["message"]
    for job_id in jobs[1:]:  # the first one was cancelled, or was to be
        assert_heals(house, job_id, orchestrator)


@pytest.mark.parametrize("fault", STOP_AND_GO)
def test_losing_the_store_while_a_run_waits_is_a_503_and_keeps_the_dispatch(
    fault: str, store_house: House, orchestrator: StubOrchestrator
) -> None:
    house, (stop, go) = store_house, STOP_AND_GO[fault]
    job_id = house.dave.uploaded_job()["id"]
    orchestrator.behaviours[job_id] = told.accept(after=0.3)
    with ThreadPoolExecutor(1) as callers:
        run = callers.submit(house.dave.run, job_id)
        orchestrator.wait_for_requests(job_id)
        stop(house.harmed)
        try:
            assert_unavailable(run.result())
        finally:
            go(house.harmed)
    sent = lambda: house.dave.job(job_id).json().get("status") == "AUDIO_EXTRACTING"  # noqa: E731
    wait_until(sent, HEAL_SECONDS, "the worker settles what it posted")
    replay = house.dave.run(job_id)
    assert (replay.status_code, replay.json()["replayed"]) == (200, True)
    assert len(orchestrator.requests_for(job_id)) == 1


def test_with_a_separate_broker_a_second_run_is_a_replay(
    broker_house: House, orchestrator: StubOrchestrator
) -> None:
    job_id = broker_house.dave.uploaded_job()["id"]
    first, second = broker_house.dave.run(job_id), broker_house.dave.run(job_id)
    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json()["status"] == second.json()["status"] == "AUDIO_EXTRACTING"
    (request,) = orchestrator.requests_for(job_id)
    assert request.dispatch_id == first.json()["dispatch_id"] == second.json()["dispatch_id"]


@pytest.mark.parametrize("fault", STOP_AND_GO)
def test_without_the_broker_a_run_fails_at_once_and_claims_nothing(
    fault: str, broker_house: House, orchestrator: StubOrchestrator
) -> None:
    house, (stop, go) = broker_house, STOP_AND_GO[fault]
    jobs = [house.dave.uploaded_job()["id"] for _ in range(CALLERS)]
    stop(house.harmed)
    try:
        with ThreadPoolExecutor(CALLERS) as callers:
            runs = list(callers.map(house.dave.run, jobs))
        claims = [stored.claim(house.stack.redis, job_id) for job_id in jobs]
        readiness = house.dave.call("GET", "/readyz")
        others = [house.dave.job(jobs[0]), house.dave.create_project(), house.dave.get("/projects")]
    finally:
        go(house.harmed)
    for answer in runs:
        assert_unavailable(answer, 502)
    assert claims == [None] * CALLERS
    assert_unavailable(readiness)
    assert "broker" in readiness.json()["message"]
    assert [answer.status_code for answer in others] == [200, 201, 200]
    for job_id in jobs:
        assert_heals(house, job_id, orchestrator)


def test_concurrent_callers_of_one_job_all_fail_without_the_broker(
    broker_house: House, orchestrator: StubOrchestrator
) -> None:
    job_id = broker_house.dave.uploaded_job()["id"]
    broker_house.harmed.pause()
    try:
        with ThreadPoolExecutor(4) as callers:
            runs = list(callers.map(broker_house.dave.run, [job_id] * 4))
    finally:
        broker_house.harmed.resume()
    for answer in runs:
        assert_unavailable(answer, 502)
        reason = answer.json().get("details", {}).get("reason", "not_started")
        assert reason == "not_started"
    assert_heals(broker_house, job_id, orchestrator)


def test_without_the_broker_a_bulk_retry_is_refused_at_once(
    broker_house: House, callback_secret: str
) -> None:
    house, since = broker_house, now()
    jobs = [JobHandle.uploaded(house.dave, callback_secret) for _ in range(FAILED)]
    for job in jobs:
        job.lead_to("AUDIO_EXTRACTING").reported("FAILED")
    olga = ApiClient(house.stack.api_url, "olga", "operator", timeout_seconds=60)
    body = {"failed_since": since, "model_profile": "standard", "reason": "the broker was away"}
    house.harmed.pause()
    try:
        refused = olga.post("/operations/retries", body)
    finally:
        house.harmed.resume()
    assert refused.elapsed.total_seconds() < MOST_SECONDS
    started = olga.post("/operations/retries", body)
    for answer, outcome in (
        (refused, ("refused", "SERVICE_UNAVAILABLE")),
        (started, ("started", None)),
    ):
        found = {item["job_id"]: (item["outcome"], item["code"]) for item in answer.json()["items"]}
        assert found == {job.id: outcome for job in jobs}
