"""A slow orchestrator delays only the callers that wait for it, and their number is limited."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.conftest import NewStack
from tests.load.measuring import connections, quantile, threads, timed
from tests.load.seeds import uploaded_jobs
from tests.support.behaviours import accept
from tests.support.client import ApiClient
from tests.support.orchestrator import StubOrchestrator

CALLERS, WAIT_SLOTS, CONCURRENCY = 200, 120, 32
WEB_THREADS, WEB_CONNECTIONS = 160, 16
ANSWER_SECONDS = 0.8
TRIES = 3


@pytest.fixture(scope="module")
def slow() -> Iterator[StubOrchestrator]:
    with StubOrchestrator(accept(after=ANSWER_SECONDS)) as stub:
        yield stub


@pytest.fixture(scope="module")
def busy(new_stack: NewStack, slow: StubOrchestrator) -> Iterator[Stack]:
    with new_stack(
        TAKEONE_ORCHESTRATOR_URL=slow.url,
        TAKEONE_ORCHESTRATOR_TIMEOUT_SECONDS="10",
        TAKEONE_RUN_WAIT_SECONDS="10",
        TAKEONE_CLAIM_LEASE_SECONDS="15",
        TAKEONE_WORKER_CONCURRENCY=str(CONCURRENCY),
        TAKEONE_WEB_THREADS=str(WEB_THREADS),
        TAKEONE_WEB_WAIT_SLOTS=str(WAIT_SLOTS),
        TAKEONE_REDIS_CONNECTIONS=str(WEB_CONNECTIONS),
    ) as running:
        yield running


class Callers:
    """Concurrent callers that run one job each, and their future answers."""

    def __init__(self, stack: Stack, pool: ThreadPoolExecutor) -> None:
        # Two users, since one may have only half of the wait slots.
        self.owners: dict[str, ApiClient] = {}
        for user in ("alice", "carol"):
            jobs = uploaded_jobs(stack, user, CALLERS // 2)
            self.owners |= dict.fromkeys(jobs, ApiClient(stack.api_url, user))
        self._answers = [pool.submit(owner.run, job_id) for job_id, owner in self.owners.items()]

    @property
    def answered(self) -> int:
        """The number of callers that have their answer."""
        return sum(answer.done() for answer in self._answers)

    def by_code(self) -> dict[int, list[tuple[str, requests.Response]]]:
        """Wait for all answers; return job ids and answers by status."""
        found: dict[int, list[tuple[str, requests.Response]]] = {}
        for job_id, future in zip(self.owners, self._answers, strict=True):
            answer = future.result(20)
            found.setdefault(answer.status_code, []).append((job_id, answer))
        return found


Load = Callable[[], Callers]


@pytest.fixture(scope="module")
def load(busy: Stack) -> Iterator[Load]:
    """A function that starts the callers."""
    with ThreadPoolExecutor(CALLERS) as pool:
        yield lambda: Callers(busy, pool)


def test_callers_past_the_limit_get_503_at_once_and_make_no_claim(
    load: Load, slow: StubOrchestrator
) -> None:
    callers = load()
    answers = callers.by_code()
    assert answers.keys() == {202, 503}
    # A slot may become free before the last caller arrives.
    assert WAIT_SLOTS <= len(answers[202]) < CALLERS - 20
    waited = [answer.elapsed.total_seconds() for _, answer in answers[202]]
    refused = [answer.elapsed.total_seconds() for _, answer in answers[503]]
    assert quantile(refused, 0.5) < min(waited)
    for job_id, answer in answers[503]:
        assert answer.json()["code"] == "SERVICE_UNAVAILABLE"
        assert int(answer.headers["Retry-After"]) >= 1
        assert slow.requests_for(job_id) == []
    for job_id, _ in answers[503][:20]:
        job = callers.owners[job_id].job(job_id).json()
        assert (job["status"], job["dispatch"]) == ("UPLOADED", None)
    # The worker uses its full concurrency, and not more.
    assert slow.most_in_flight == CONCURRENCY


def test_reads_and_replays_stay_fast_and_threads_and_connections_bounded_beside_waiting_callers(
    load: Load, busy: Stack
) -> None:
    bob = ApiClient(busy.api_url, "bob")
    (job_id,) = uploaded_jobs(busy, "bob", 1)
    assert bob.run(job_id).status_code == 202

    def measure() -> float:
        return max(timed(lambda: bob.job(job_id)), timed(lambda: bob.run(job_id)))

    ratios = []
    for _ in range(TRIES):  # other load on this machine may disturb one try
        idle = quantile([measure() for _ in range(200)], 0.99)
        ratios.append(quantile(measure_beside(load(), measure), 0.99) / idle)
        if ratios[-1] < 5:
            break
    assert min(ratios) < 5, ratios
    # Bounded by the pool sizes and a few of Celery's own, not by the number of callers.
    assert threads(busy) <= WEB_THREADS + CONCURRENCY + 24
    assert connections(busy.redis) <= WEB_CONNECTIONS + CONCURRENCY + 20


def measure_beside(callers: Callers, measure: Callable[[], float]) -> list[float]:
    """Measure while all wait slots are taken, until the last caller has its answer."""
    wait_until(lambda: callers.answered >= CALLERS - WAIT_SLOTS - 20, 10, "all slots are taken")
    seconds = []
    while callers.answered < CALLERS:
        seconds.append(measure())
    callers.by_code()
    assert len(seconds) > 50
    return seconds
