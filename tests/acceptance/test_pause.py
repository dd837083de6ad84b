"""`takeone pause` and `takeone resume` on a running service: what waits, what works, and who sees it."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import requests
from redis import Redis

from devstack.redis_server import RedisServer
from devstack.stack import Stack
from devstack.waiting import wait_until
from store.pauses import PauseStore
from tests.acceptance import stored
from tests.acceptance.programs import run_program, takeone
from tests.conftest import NewStack
from tests.support.client import ApiClient
from tests.support.job_handle import JobHandle, at_once
from tests.support.log_lines import lines_with, wait_for_line
from tests.support.orchestrator import StubOrchestrator
from tests.support.stores import client_of

SEEN_SECONDS = 30
WHY = "the orchestrator is upgraded"


@pytest.fixture(scope="module", params=["threads", "celery"])
def service(
    request: pytest.FixtureRequest,
    new_stack: NewStack,
    orchestrator: StubOrchestrator,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stack]:
    """A service whose worker threads fetch messages themselves, and one with Celery's own consumer."""
    settings = {
        "TAKEONE_RUN_WAIT_SECONDS": "1",
        "TAKEONE_ORCHESTRATOR_CANCEL_URL": orchestrator.url.replace("/dispatches", "/cancels"),
    }
    if request.param == "threads":
        with new_stack(workers=2, **settings) as running:
            yield running
        return
    with (
        RedisServer(tmp_path_factory.mktemp("broker")) as broker,
        new_stack(workers=2, TAKEONE_BROKER_URL=broker.url, **settings) as running,
    ):
        yield running


@pytest.fixture
def paused(service: Stack) -> Iterator[Stack]:
    """The service, paused as by the command and seen by its workers; it is resumed after the test."""
    store(service).begin("olga", WHY, datetime.now(UTC))
    try:
        wait_until_paused(service)
        yield service
    finally:
        store(service).end("omar", datetime.now(UTC))
        wait_until_resumed(service)


def store(service: Stack) -> PauseStore:
    """The store that the commands write to; it is faster than running them."""
    return PauseStore(client_of(service.redis.url))


def wait_until_paused(service: Stack) -> None:
    """Wait until each worker has logged the current pause."""
    pause = store(service).latest()
    assert pause is not None
    for worker in service.workers:
        wait_for_line(worker, '"dispatching.paused"', str(pause.paused_at))


def wait_until_resumed(service: Stack) -> None:
    """Wait until each worker sees no pause: one that misses the end would not log the next pause."""
    for worker in service.workers:
        worker.wait_until(
            lambda worker=worker: "paused" not in "".join(lines_with(worker, '"dispatching.')[-1:]),
            SEEN_SECONDS,
            "the worker sees that the pause is over",
        )


def resume(service: Stack) -> None:
    assert store(service).end("omar", datetime.now(UTC)) is not None


def messages_enqueued(service: Stack) -> int:
    """How many messages were ever enqueued; 0 if the broker is not Redis."""
    url = service.settings.get("TAKEONE_BROKER_URL", service.redis.url)
    if not url.startswith("redis"):
        return 0
    with Redis.from_url(url) as client:
        return int(client.info("commandstats")["cmdstat_lpush"]["calls"])


def wait_past_the_lease(service: Stack, handle: JobHandle) -> None:
    """Wait until the sweep has extended a claim that waits longer than its lease."""
    lease = float(service.settings["TAKEONE_CLAIM_LEASE_SECONDS"])

    def is_extended() -> bool:
        claim = stored.claim(service.redis, handle.id)
        claimed_at, until = map(datetime.fromisoformat, (claim["claimed_at"], claim["lease_until"]))
        return until - claimed_at > timedelta(seconds=lease)

    wait_until(is_extended, SEEN_SECONDS, "the sweep extends the claim")


def test_runs_wait_while_paused_and_are_posted_once_each_afterwards(
    paused: Stack, editor: ApiClient, callback_secret: str, orchestrator: StubOrchestrator
) -> None:
    jobs = [JobHandle.uploaded(editor, callback_secret) for _ in range(5)]
    runs = at_once(5, lambda number: [jobs[number].client.run(jobs[number].id) for _ in range(2)])
    for job, (first, joined) in zip(jobs, runs, strict=True):
        assert (first.status_code, first.json()["status"]) == (202, "UPLOADED")
        assert (joined.status_code, joined.json()["status"]) == (200, "UPLOADED")
        assert first.json()["dispatch_id"] == joined.json()["dispatch_id"] == job.run_id
    enqueued = messages_enqueued(paused)
    wait_past_the_lease(paused, jobs[-1])
    assert messages_enqueued(paused) == enqueued, "workers neither fetch nor put back"
    assert [orchestrator.requests_for(job.id) for job in jobs] == [[]] * 5
    resume(paused)
    for job in jobs:
        orchestrator.wait_for_requests(job.id)
        wait_until(lambda job=job: job.status == "AUDIO_EXTRACTING", 10, "it is started")
        assert job.client.run(job.id).status_code == 200
        assert len(orchestrator.requests_for(job.id)) == 1
        assert stored.claim(paused.redis, job.id).get("messages", 1) == 1


def test_a_worker_that_starts_while_paused_posts_nothing(
    paused: Stack, handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    assert handle.client.run(handle.id).status_code == 202
    for worker in paused.workers:
        worker.kill()
        paused.restart(worker)
    wait_until_paused(paused)  # each began a new log
    assert orchestrator.requests_for(handle.id) == []
    resume(paused)
    orchestrator.wait_for_requests(handle.id)


def test_callbacks_replays_and_cancels_work_while_paused(
    service: Stack,
    editor: ApiClient,
    callback_secret: str,
    orchestrator: StubOrchestrator,
    request: pytest.FixtureRequest,
) -> None:
    running, waiting = (JobHandle.uploaded(editor, callback_secret) for _ in range(2))
    running.lead_to("AUDIO_EXTRACTING")
    request.getfixturevalue("paused")
    assert waiting.client.run(waiting.id).status_code == 202
    assert running.client.run(running.id).status_code == 200
    running.reported("AUDIO_READY")
    assert running.client.cancel(running.id).status_code == 200
    orchestrator.wait_for_requests(running.id, 2)
    paths = [request.path for request in orchestrator.requests_for(running.id)]
    assert paths == ["/dispatches", "/cancels"]
    assert waiting.client.cancel(waiting.id).status_code == 200
    resume(service)
    after = JobHandle.uploaded(editor, callback_secret)
    assert after.client.run(after.id).status_code == 202
    orchestrator.wait_for_requests(after.id)
    assert orchestrator.requests_for(waiting.id) == []


def test_the_commands_pause_and_resume(
    service: Stack, handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    ended = takeone(f"pause --reason '{WHY}' --by olga", service.settings)
    try:
        assert ended.returncode == 0, ended.stderr
        assert re.fullmatch(rf"paused since \S+Z by olga: {WHY}\n", ended.stdout)
        wait_until_paused(service)
        assert handle.client.run(handle.id).status_code == 202
        assert orchestrator.requests_for(handle.id) == []
    finally:
        ended = takeone("resume --by omar", service.settings)
        wait_until_resumed(service)
    assert ended.returncode == 0, ended.stderr
    assert f"by olga: {WHY}" in ended.stdout
    orchestrator.wait_for_requests(handle.id)


def test_a_pause_is_visible_to_operators_and_monitoring(paused: Stack, handle: JobHandle) -> None:
    again = takeone("pause --reason 'another one' --by pia", paused.settings)
    assert again.returncode == 0
    assert re.fullmatch(rf"paused since \S+Z by olga: {WHY}\n", again.stdout)
    assert handle.client.run(handle.id).status_code == 202
    listed = takeone("dispatches list", paused.settings)
    assert listed.stderr.startswith("dispatching is paused since ")
    assert f"by olga: {WHY}" in listed.stderr
    assert handle.id in listed.stdout
    assert "CLAIMED" in listed.stdout
    looked = takeone("doctor", paused.settings)
    assert looked.returncode == 0
    assert re.search(rf"dispatching +warning +paused since \S+ by olga: {WHY}", looked.stdout)
    assert gauge(paused) == 1
    assert requests.get(f"{paused.api_url}/readyz", timeout=5).status_code == 200
    before = [worker.log() for worker in paused.workers]
    resume(paused)
    assert gauge(paused) == 0
    assert takeone("resume", paused.settings).stdout == "dispatching is not paused\n"
    assert "dispatching" not in takeone("dispatches list", paused.settings).stderr
    wait_until_resumed(paused)
    for worker, log in zip(paused.workers, before, strict=True):
        new_lines = worker.log()[len(log) :]
        assert new_lines.count('"dispatching.resumed"') == 1
        assert '"dispatching.paused"' not in new_lines, "a pause is logged once"
        assert WHY not in worker.log()
        assert "olga" not in worker.log()


def gauge(service: Stack) -> float:
    """The value of takeone_paused."""
    shown = requests.get(f"{service.api_url}/metrics", timeout=5).text
    found = re.search(r"^takeone_paused (\S+)$", shown, re.MULTILINE)
    assert found is not None
    return float(found[1])


def test_the_operator_defaults_to_the_system_user(service: Stack) -> None:
    ended = takeone("pause --reason why", service.settings)
    try:
        user = run_program("id -un", {}).stdout.strip()
        assert re.fullmatch(rf"paused since \S+ by {user}: why\n", ended.stdout)
    finally:
        assert takeone("resume", service.settings).returncode == 0
        wait_until_resumed(service)


@pytest.mark.parametrize(
    "arguments",
    ["pause", "pause --reason ''", f"pause --reason {'x' * 501}", "pause --reason why --by ' '"],
)
def test_a_pause_needs_a_reason_and_a_name(arguments: str, stack: Stack) -> None:
    ended = takeone(arguments, stack.settings)
    assert ended.returncode == 2
    assert "--reason" in ended.stderr or "--by" in ended.stderr
    assert gauge(stack) == 0
