"""Store or broker stopped or killed: quick answers, no lasting claims, and recovery without help."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from devstack.ports import HOST
from devstack.redis_server import RedisServer
from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.acceptance import stored
from tests.acceptance.conftest import InThread
from tests.conftest import NewStack
from tests.support.behaviours import accept
from tests.support.client import ApiClient, now
from tests.support.full_disk import FullDisk
from tests.support.job_handle import JobHandle, at_once
from tests.support.log_lines import lines_with, wait_for_line
from tests.support.orchestrator import StubOrchestrator
from tests.support.paused import paused
from tests.support.tcp_proxy import TcpProxy

MOST_SECONDS = 3.0
RECOVERY_SECONDS = 15.0
CALLERS, FAILED = 24, 6
KEY = {"Idempotency-Key": "key"}
EVERY_OTHER_ROUTE: dict[str, Callable[[JobHandle], requests.Response]] = {
    "create project": lambda job: job.client.create_project(),
    "list projects": lambda job: job.client.get("/projects"),
    "show project": lambda job: job.client.get(f"/projects/{job.id}"),
    "create job": lambda job: job.client.create_job(job.id),
    "list jobs": lambda job: job.client.get(f"/projects/{job.id}/jobs"),
    "show job": lambda job: job.client.job(job.id),
    "long poll": lambda job: job.client.job(f"{job.id}?wait=5&status_not=UPLOADED"),
    "list own jobs": lambda job: job.client.get("/jobs"),
    "create with a key": lambda job: job.client.create_project(headers=KEY),
    "edit": lambda job: job.client.edit_job(job.id, name="Other"),
    "delete": lambda job: job.client.delete_job(job.id),
    "confirm": lambda job: job.client.confirm_upload(job.id, "s3://studio/other.mp4"),
    "cancel": lambda job: job.client.cancel(job.id),
    "retry": lambda job: job.retry("again"),
    "events": lambda job: job.client.events(job.id),
    "callback": lambda job: job.report("AUDIO_EXTRACTING"),
}
FAULTS = {
    "stopped": (RedisServer.pause, RedisServer.resume),
    "killed": (RedisServer.kill, RedisServer.start),
}


@dataclass(frozen=True)
class Setup:
    """A stack, the Redis that a test stops or kills, and an editor."""

    stack: Stack
    redis: RedisServer
    dave: ApiClient

    @contextmanager
    def without_redis(self, fault: str = "stopped") -> Iterator[None]:
        """While this lasts, the Redis is stopped or killed."""
        begin, end = FAULTS[fault]
        begin(self.redis)
        try:
            yield
        finally:
            end(self.redis)

    def uploaded_jobs(self) -> list[str]:
        """Make a job for each caller; return the ids."""
        return [self.dave.uploaded_job()["id"] for _ in range(CALLERS)]


@pytest.fixture(scope="module")
def own_store(new_stack: NewStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    """Its Redis is store and broker, and keeps its data when it is killed."""
    directory = tmp_path_factory.mktemp("redis")
    redis = RedisServer(directory, append_only=True, appendfsync="always")
    with redis, new_stack(redis=redis) as stack:
        yield Setup(stack, redis, ApiClient(stack.api_url, "dave"))


@pytest.fixture(scope="module")
def own_broker(new_stack: NewStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    """Its Redis is the broker only; the store is another one."""
    broker = RedisServer(tmp_path_factory.mktemp("broker"))
    with broker, new_stack(TAKEONE_BROKER_URL=broker.url) as stack:
        yield Setup(stack, broker, ApiClient(stack.api_url, "dave"))


def assert_unavailable(answer: requests.Response, *codes: int) -> None:
    """A 503 (or one of `codes`) with the contract's error body, within three seconds."""
    assert answer.status_code in (503, *codes), answer.text
    assert answer.elapsed.total_seconds() < MOST_SECONDS
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.json().keys() - {"details"} == {"code", "message"}


def assert_recovers(setup: Setup, job_id: str, orchestrator: StubOrchestrator) -> None:
    """A run works again without help, and was posted once in total."""
    works = lambda: setup.dave.run(job_id).status_code in (200, 202)  # noqa: E731
    wait_until(works, RECOVERY_SECONDS, "a run works again")
    assert setup.dave.job(job_id).json()["status"] == "AUDIO_EXTRACTING"
    assert len(orchestrator.requests_for(job_id)) == 1
    ready = setup.dave.call("GET", "/readyz")
    assert ready.status_code == 200, ready.text


@pytest.mark.parametrize("fault", FAULTS)
def test_without_the_store_every_route_is_503_until_it_returns(
    fault: str, own_store: Setup, orchestrator: StubOrchestrator, callback_secret: str
) -> None:
    dave, jobs = own_store.dave, own_store.uploaded_jobs()
    first = JobHandle(dave, jobs[0], callback_secret)
    routes = list(EVERY_OTHER_ROUTE.values())
    with own_store.without_redis(fault):
        answers = at_once(
            CALLERS + len(routes),
            lambda n: dave.run(jobs[n]) if n < CALLERS else routes[n - CALLERS](first),
        )
        health, readiness = dave.call("GET", "/healthz"), dave.call("GET", "/readyz")
    for answer in answers[:CALLERS]:
        assert_unavailable(answer, 502)
    for answer in answers[CALLERS:]:
        assert_unavailable(answer)
    assert health.status_code == 200
    assert health.elapsed.total_seconds() < 1
    assert_unavailable(readiness)
    assert "store" in readiness.json()["message"]
    for job_id in jobs[1:]:  # the first one may be cancelled
        assert_recovers(own_store, job_id, orchestrator)


@pytest.mark.parametrize("fault", FAULTS)
def test_losing_the_store_while_a_run_waits_is_a_503_and_keeps_the_dispatch(
    fault: str, own_store: Setup, orchestrator: StubOrchestrator, in_thread: InThread
) -> None:
    dave = own_store.dave
    job_id = dave.uploaded_job()["id"]
    orchestrator.behaviours[job_id] = accept(after=0.3)
    run = in_thread(dave.run, job_id)
    orchestrator.wait_for_requests(job_id)
    with own_store.without_redis(fault):
        assert_unavailable(run.result())
    sent = lambda: dave.job(job_id).json().get("status") == "AUDIO_EXTRACTING"  # noqa: E731
    wait_until(sent, RECOVERY_SECONDS, "the worker settles the dispatch")
    replay = dave.run(job_id)
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


@pytest.mark.parametrize("fault", FAULTS)
def test_without_the_broker_a_run_fails_at_once_and_claims_nothing(
    fault: str, own_broker: Setup, orchestrator: StubOrchestrator
) -> None:
    dave, jobs = own_broker.dave, own_broker.uploaded_jobs()
    with own_broker.without_redis(fault):
        runs = at_once(CALLERS, lambda number: dave.run(jobs[number]))
        claims = [stored.claim(own_broker.stack.redis, job_id) for job_id in jobs]
        readiness = dave.call("GET", "/readyz")
        others = [dave.job(jobs[0]), dave.create_project(), dave.get("/projects")]
    for answer in runs:
        assert_unavailable(answer, 502)
    assert claims == [None] * CALLERS
    assert_unavailable(readiness)
    assert "broker" in readiness.json()["message"]
    assert [answer.status_code for answer in others] == [200, 201, 200]
    for job_id in jobs:
        assert_recovers(own_broker, job_id, orchestrator)


def test_concurrent_callers_of_one_job_all_fail_without_the_broker(
    own_broker: Setup, orchestrator: StubOrchestrator
) -> None:
    job_id = own_broker.dave.uploaded_job()["id"]
    with own_broker.without_redis():
        runs = at_once(4, lambda _: own_broker.dave.run(job_id))
    for answer in runs:
        assert_unavailable(answer, 502)
        assert answer.json().get("details", {}).get("reason", "not_started") == "not_started"
    assert_recovers(own_broker, job_id, orchestrator)


def test_without_the_broker_a_bulk_retry_is_refused_at_once(
    own_broker: Setup, callback_secret: str
) -> None:
    since = now()
    jobs = [JobHandle.uploaded(own_broker.dave, callback_secret) for _ in range(FAILED)]
    for job in jobs:
        job.lead_to("AUDIO_EXTRACTING").reported("FAILED")
    olga = ApiClient(own_broker.stack.api_url, "olga", "operator", timeout_seconds=60)
    body = {"failed_since": since, "model_profile": "standard", "reason": "the broker was away"}
    with own_broker.without_redis():
        refused = olga.post("/operations/retries", body)
    assert refused.elapsed.total_seconds() < MOST_SECONDS
    started = olga.post("/operations/retries", body)
    for answer, outcome in (
        (refused, ("refused", "SERVICE_UNAVAILABLE")),
        (started, ("started", None)),
    ):
        found = {item["job_id"]: (item["outcome"], item["code"]) for item in answer.json()["items"]}
        assert found == {job.id: outcome for job in jobs}


def test_a_run_is_sent_soon_after_the_connections_to_the_broker_fell_silent(
    new_stack: NewStack, tmp_path: Path, orchestrator: StubOrchestrator
) -> None:
    with (
        RedisServer(tmp_path) as broker,
        TcpProxy(int(broker.port or 0)) as proxy,
        new_stack(TAKEONE_BROKER_URL=f"redis://{HOST}:{proxy.port}/0") as stack,
    ):
        dave = ApiClient(stack.api_url, "dave")
        assert dave.run(dave.uploaded_job()["id"]).status_code == 202
        proxy.forget()
        job_id = dave.uploaded_job()["id"]
        wait_until(
            lambda: dave.run(job_id).json().get("status") == "AUDIO_EXTRACTING",
            RECOVERY_SECONDS,
            "the run is sent",
        )
        assert len(orchestrator.requests_for(job_id)) == 1


def test_a_full_disk_of_redis_ends_no_process(
    new_stack: NewStack, tmp_path: Path, orchestrator: StubOrchestrator
) -> None:
    """Redis then answers every write, and even a PING, with MISCONF."""
    disk = FullDisk(tmp_path, size=4 * 2**20)
    try:
        redis = RedisServer(disk.mount / "redis", append_only=True)
        with redis, new_stack(redis=redis) as stack:
            own, (web, worker) = (
                Setup(stack, redis, ApiClient(stack.api_url, "dave")),
                stack.processes,
            )
            job_id = own.dave.uploaded_job()["id"]
            disk.fail()
            refused = lambda: own.dave.create_project().status_code == 503  # noqa: E731
            wait_until(refused, 20, "Redis has failed to write")
            assert_unavailable(own.dave.run(job_id))
            wait_for_line(web, "store.failed", "MISCONF")
            worker.wait_until(lambda: lines_with(worker, "Cannot connect"), 30, "it connects again")
            disk.mend()
            assert_recovers(own, job_id, orchestrator)
    finally:
        disk.close()


def test_a_worker_stops_while_redis_hangs(new_stack: NewStack, tmp_path: Path) -> None:
    with RedisServer(tmp_path) as redis, new_stack(redis=redis) as stack:
        (worker,) = stack.workers
        with paused(redis):
            # Each takes a second. Meanwhile a heartbeat, every two seconds, has met the fault.
            failed = lambda: len(lines_with(worker, "sweep.failed")) > 4  # noqa: E731
            worker.wait_until(failed, 30, "sweeps fail")
            worker.ask_to_stop()
            wait_until(lambda: not worker.is_running, 20, "it stops")
        assert worker.exit_code == 0
