"""Thousands of runs: fairness between users, full use of a worker, flat memory, and pauses."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from devstack.stack import Stack
from devstack.waiting import wait_until
from settings import Settings
from store import keys
from store.pauses import PauseStore
from tasks.outbox import user_queues
from tasks.queues import KEY_PREFIX, dispatch_queue_names
from tests.conftest import NewStack
from tests.load.measuring import quantile, resident_bytes, timed
from tests.load.seeds import uploaded_jobs
from tests.support.behaviours import accept
from tests.support.client import ApiClient
from tests.support.orchestrator import StubOrchestrator
from tests.support.paused import paused, paused_worker
from tests.support.stores import client_of

RUNS, MORE_RUNS = 2_000, 1_000
CONCURRENCY = 16
LEASE_SECONDS = 20
DRAIN_SECONDS = 60  # only ends a hang
QUEUES = dispatch_queue_names(Settings(env="development"))
KEPT_BYTES_A_RUN = 2_048


@pytest.fixture(scope="module")
def prompt() -> Iterator[StubOrchestrator]:
    with StubOrchestrator(accept(after=0.02)) as stub:
        yield stub


@pytest.fixture(scope="module")
def stack_of_one(new_stack: NewStack, prompt: StubOrchestrator) -> Iterator[Stack]:
    with new_stack(
        TAKEONE_ORCHESTRATOR_URL=prompt.url,
        TAKEONE_ORCHESTRATOR_TIMEOUT_SECONDS="20",
        TAKEONE_RUN_WAIT_SECONDS="30",
        TAKEONE_CLAIM_LEASE_SECONDS="60",
        TAKEONE_WORKER_CONCURRENCY=str(CONCURRENCY),
    ) as running:
        yield running


def enqueue(stack: Stack, user: str, number: int) -> None:
    """Run this many jobs of one user, without waiting for the outcomes."""
    editor = ApiClient(stack.api_url, user)
    jobs = uploaded_jobs(stack, user, number)
    with ThreadPoolExecutor(8) as pool:
        run = lambda job_id: editor.run(job_id, headers={"Prefer": "respond-async"})  # noqa: E731
        assert {answer.status_code for answer in pool.map(run, jobs)} <= {202}


def queued(stack: Stack) -> int:
    with stack.redis.client() as client:
        return sum(client.llen(KEY_PREFIX + queue) for queue in QUEUES)


def wait_until_drained(stack: Stack, prompt: StubOrchestrator) -> None:
    wait_until(lambda: not queued(stack) and not prompt.in_flight, DRAIN_SECONDS, "all are posted")


def others(user: str, number: int) -> list[str]:
    """Return users that share at most one of their two queues with this one, as nearly all do."""
    taken = set(user_queues(user, QUEUES))
    names = (f"user{nth}" for nth in range(1_000))
    return [name for name in names if set(user_queues(name, QUEUES)) != taken][:number]


def run_alone(stack: Stack, user: str, job_id: str) -> float:
    """Return how many seconds one run takes, from the call to the outcome."""
    client = ApiClient(stack.api_url, user)
    return timed(lambda: client.run(job_id), expected=202)


def test_2000_queued_runs_of_one_user_hardly_delay_single_runs_of_others(
    stack_of_one: Stack, prompt: StubOrchestrator
) -> None:
    single = {name: uploaded_jobs(stack_of_one, name, 1)[0] for name in others("alice", 12)}
    with paused_worker(stack_of_one.workers[0], stack_of_one.redis):
        enqueue(stack_of_one, "alice", RUNS)
        assert queued(stack_of_one) >= RUNS - 1  # Redis may have delivered one of them
    began = time.monotonic()
    seconds = [run_alone(stack_of_one, name, job_id) for name, job_id in single.items()]
    assert queued(stack_of_one) > 0, "the queue was empty before the last single run"
    wait_until_drained(stack_of_one, prompt)
    drain = time.monotonic() - began
    assert quantile(seconds, 0.5) < drain / 10
    assert max(seconds) < drain / 4


def test_a_worker_with_a_backlog_uses_its_full_concurrency(
    stack_of_one: Stack, prompt: StubOrchestrator
) -> None:
    quick, prompt.default = prompt.default, accept(after=0.3)
    try:
        with paused(stack_of_one.workers[0]):
            enqueue(stack_of_one, "dora", 12 * CONCURRENCY)
        wait_until(lambda: prompt.in_flight == CONCURRENCY, 10, "full concurrency")
        in_flight = []
        while queued(stack_of_one):
            in_flight.append(prompt.in_flight)
            time.sleep(0.02)  # the sampling interval
        assert max(in_flight) == CONCURRENCY
        assert sum(in_flight) / len(in_flight) > 0.75 * CONCURRENCY
        wait_until_drained(stack_of_one, prompt)
    finally:
        prompt.default = quick


def test_memory_stays_flat_from_2000_runs_to_3000(
    stack_of_one: Stack, prompt: StubOrchestrator
) -> None:
    enqueue(stack_of_one, "carol", max(0, RUNS - len(prompt.requests)))
    wait_until_drained(stack_of_one, prompt)
    before = [resident_bytes(process) for process in stack_of_one.processes]
    enqueue(stack_of_one, "carol", MORE_RUNS)
    wait_until_drained(stack_of_one, prompt)
    after = [resident_bytes(process) for process in stack_of_one.processes]
    for now, then in zip(after, before, strict=True):
        assert now - then < MORE_RUNS * KEPT_BYTES_A_RUN


def test_a_pause_longer_than_the_lease_duplicates_no_message_and_ends_at_full_concurrency(
    new_stack: NewStack, prompt: StubOrchestrator
) -> None:
    with new_stack(
        workers=2,
        TAKEONE_ORCHESTRATOR_URL=prompt.url,
        TAKEONE_CLAIM_LEASE_SECONDS=str(LEASE_SECONDS),
        TAKEONE_WORKER_CONCURRENCY=str(CONCURRENCY // 2),
    ) as stack:
        prompt.reset_behaviour()
        prompt.default = accept(after=0.02)
        enqueue(stack, "erin", RUNS // 10)
        pauses = PauseStore(client_of(stack.redis.url))
        before = datetime.now(UTC)
        pauses.begin("olga", "a test", before)
        posted = len(prompt.requests) + prompt.in_flight
        enqueue(stack, "erin", RUNS)
        wait_until(lambda: _postponed(stack) >= RUNS, 4 * LEASE_SECONDS, "all leases have ended")
        waiting = RUNS // 10 + RUNS - len(prompt.requests)
        assert queued(stack) == waiting
        # Only those that had begun before the pause.
        assert len(prompt.requests) <= posted + CONCURRENCY
        prompt.most_in_flight = 0
        pauses.end("olga", datetime.now(UTC))
        wait_until_drained(stack, prompt)
        assert prompt.most_in_flight == CONCURRENCY
        assert len({request.job_id for request in prompt.requests}) == len(prompt.requests)
        assert len(prompt.requests) == RUNS // 10 + RUNS
        assert all(claim.get("messages", 1) == 1 for claim in _claims(stack))


def _claims(stack: Stack) -> list[dict[str, Any]]:
    with stack.redis.client() as client:
        names = list(client.scan_iter(f"{keys.PREFIX}*:claim", count=1_000))
        return [orjson.loads(raw) for raw in client.mget(names)]


def _postponed(stack: Stack) -> int:
    """Return the number of waiting claims whose lease the sweep has extended."""
    with stack.redis.client() as client:
        return int(client.zcount(keys.DUE, time.time() + LEASE_SECONDS + 1, "+inf"))
