"""Thousands of runs: one user's crowd does not hold up another's single run, and memory stays flat."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from demo.processes import Process
from demo.stack import Stack
from settings import Settings
from tasks.broker import KEY_PREFIX, lanes
from tasks.outbox import user_lanes
from tests.conftest import QUICK_SETTINGS
from tests.load.measuring import quantile, resident_bytes, timed
from tests.load.seeds import uploaded_jobs
from tests.support.behaviours import accept
from tests.support.client import ApiClient
from tests.support.orchestrator import StubOrchestrator
from tests.support.paused import paused, paused_worker
from tests.support.waiting import wait_until

RUNS, MORE_RUNS = 2_000, 1_000
CONCURRENCY = 16
DRAIN_SECONDS = 60  # a limit, not a mark
LANES = lanes(Settings(env="development"))
KEPT_BYTES_A_RUN = 2_048


@pytest.fixture(scope="module")
def prompt() -> Iterator[StubOrchestrator]:
    with StubOrchestrator(accept(after=0.02)) as stub:
        yield stub


@pytest.fixture(scope="module")
def stack_of_one(
    tmp_path_factory: pytest.TempPathFactory, prompt: StubOrchestrator
) -> Iterator[Stack]:
    settings = {
        **QUICK_SETTINGS,
        "TAKEONE_ORCHESTRATOR_URL": prompt.url,
        "TAKEONE_ORCHESTRATOR_TIMEOUT_SECONDS": "20",
        "TAKEONE_RUN_WAIT_SECONDS": "30",
        "TAKEONE_CLAIM_LEASE_SECONDS": "60",
        "TAKEONE_WORKER_CONCURRENCY": str(CONCURRENCY),
    }
    with Stack(tmp_path_factory.mktemp("one"), settings=settings) as running:
        yield running


def enqueue(stack: Stack, user: str, number: int) -> None:
    """Let one user run this many jobs, without waiting for what comes of them."""
    editor = ApiClient(stack.api_url, user)
    jobs = uploaded_jobs(stack, user, number)
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda each: editor.run(each, headers={"Prefer": "respond-async"}), jobs)
        assert {answer.status_code for answer in answers} <= {202}


def queued(stack: Stack) -> int:
    with stack.redis.client() as client:
        return sum(client.llen(KEY_PREFIX + lane) for lane in LANES)


def wait_until_drained(stack: Stack, prompt: StubOrchestrator) -> None:
    wait_until(lambda: not queued(stack) and not prompt.in_flight, DRAIN_SECONDS, "all are posted")


def others(user: str, number: int) -> list[str]:
    """Users who share at most one of their two lanes with this one, as nearly all do."""
    taken = set(user_lanes(user, LANES))
    names = (f"user{each}" for each in range(1_000))
    return [name for name in names if set(user_lanes(name, LANES)) != taken][:number]


def run_alone(stack: Stack, user: str, job_id: str) -> float:
    """Seconds that one run of a user takes, from the call to the outcome."""
    client = ApiClient(stack.api_url, user)
    return timed(lambda: client.run(job_id), expected=202)


def test_one_users_2000_queued_runs_hardly_hold_up_the_single_runs_of_others(
    stack_of_one: Stack, prompt: StubOrchestrator
) -> None:
    single = {name: uploaded_jobs(stack_of_one, name, 1)[0] for name in others("alice", 12)}
    with paused_worker(stack_of_one.workers[0], stack_of_one.redis):
        enqueue(stack_of_one, "alice", RUNS)
        assert queued(stack_of_one) >= RUNS - 1  # one of them is handed to it
    began = time.monotonic()
    beside = [run_alone(stack_of_one, name, job_id) for name, job_id in single.items()]
    assert queued(stack_of_one) > 0, "the crowd was gone before the last of the others came"
    wait_until_drained(stack_of_one, prompt)
    drain = time.monotonic() - began
    assert quantile(beside, 0.5) < drain / 10
    assert max(beside) < drain / 4


def test_a_worker_with_more_to_do_than_it_may_keeps_all_its_places_busy(
    stack_of_one: Stack, prompt: StubOrchestrator
) -> None:
    quick, prompt.default = prompt.default, accept(after=0.3)
    try:
        with paused(stack_of_one.workers[0]):
            enqueue(stack_of_one, "dora", 12 * CONCURRENCY)
        wait_until(lambda: prompt.in_flight == CONCURRENCY, 10, "all places are taken")
        in_flight = []
        while queued(stack_of_one):
            in_flight.append(prompt.in_flight)
            time.sleep(0.02)  # the interval of a measurement
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
    before = [resident_bytes(each) for each in processes(stack_of_one)]
    enqueue(stack_of_one, "carol", MORE_RUNS)
    wait_until_drained(stack_of_one, prompt)
    after = [resident_bytes(each) for each in processes(stack_of_one)]
    for now, then in zip(after, before, strict=True):
        assert now - then < MORE_RUNS * KEPT_BYTES_A_RUN


def processes(stack: Stack) -> list[Process]:
    """Those whose memory must not grow: all but Redis, which keeps the jobs."""
    return [*stack.webs, *stack.workers]
