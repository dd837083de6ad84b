"""Wait slots: long polls leave slots for runs, and each user leaves slots for the others."""

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from urllib.parse import urlsplit

import pytest
import requests

from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.conftest import NewStack
from tests.support.behaviours import accept
from tests.support.client import ApiClient
from tests.support.orchestrator import StubOrchestrator

SLOTS = 8
LONG_POLLS = SLOTS // 2
SECONDS = 20
ANSWER_SECONDS = 3.0


@pytest.fixture(scope="module")
def slow() -> Iterator[StubOrchestrator]:
    """An orchestrator that answers slowly."""
    with StubOrchestrator(accept(after=ANSWER_SECONDS)) as stub:
        yield stub


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4 * SLOTS) as threads:
        yield threads


@pytest.fixture(scope="module")
def small_stack(
    new_stack: NewStack,
    slow: StubOrchestrator,
    pool: ThreadPoolExecutor,  # it ends after the stack, whose end answers all waiting calls
) -> Iterator[Stack]:
    with new_stack(
        TAKEONE_ORCHESTRATOR_URL=slow.url,
        TAKEONE_ORCHESTRATOR_TIMEOUT_SECONDS="10",
        TAKEONE_RUN_WAIT_SECONDS="10",
        TAKEONE_CLAIM_LEASE_SECONDS="15",
        TAKEONE_WEB_WAIT_SLOTS=str(SLOTS),
    ) as running:
        yield running


@pytest.fixture
def small(small_stack: Stack) -> Iterator[Stack]:
    """The stack with a web process in which no call is waiting."""
    (web,) = small_stack.webs
    if not web.is_running:
        small_stack.restart(web)
    yield small_stack
    web.terminate()  # ends all waiting calls, unlike the SIGINT of the stack's stop


Calls = list[Future[requests.Response]]


class User:
    """An editor, whose calls are made in threads of the pool."""

    def __init__(self, stack: Stack, pool: ThreadPoolExecutor, name: str) -> None:
        self.client = ApiClient(stack.api_url, name, timeout_seconds=2 * SECONDS)
        self._pool = pool

    def _all(self, number: int, call: Callable[[str], requests.Response]) -> Calls:
        jobs = [self.client.uploaded_job()["id"] for _ in range(number)]
        return [self._pool.submit(call, job_id) for job_id in jobs]

    def polls(self, number: int) -> Calls:
        """Start long polls of new jobs that do not change."""
        query = {"wait": SECONDS, "status_not": "UPLOADED"}
        return self._all(number, lambda job_id: self.client.job(job_id, params=query))

    def runs(self, number: int) -> Calls:
        """Start runs of new jobs."""
        return self._all(number, self.client.run)


@pytest.fixture
def alice(small: Stack, pool: ThreadPoolExecutor) -> User:
    """An editor of the small stack."""
    return User(small, pool, "alice")


@pytest.fixture
def bob(small: Stack, pool: ThreadPoolExecutor) -> User:
    """Another editor of the small stack."""
    return User(small, pool, "bob")


def waiting(stack: Stack) -> float:
    """The number of waiting callers, from the metrics of the web process."""
    metrics = ApiClient(stack.api_url).call("GET", "/metrics").text.splitlines()
    (line,) = (line for line in metrics if line.startswith("takeone_callers_waiting "))
    return float(line.split()[1])


def wait_for(stack: Stack, number: int) -> None:
    wait_until(lambda: waiting(stack) == number, 10, f"{number} callers wait")


def answered(calls: Calls, number: int) -> Calls:
    """The first `number` calls that are answered, long before a wait times out; the others still wait."""
    ended = time.monotonic() + SECONDS / 4
    while (missing := number - sum(call.done() for call in calls)) > 0:
        left = ended - time.monotonic()
        assert left > 0, f"{missing} calls too few are answered"
        wait([call for call in calls if not call.done()], left, FIRST_COMPLETED)
    done = [call for call in calls if call.done()]
    assert len(done) == number
    return done


def codes(calls: Calls) -> list[int]:
    return sorted(call.result(2 * SECONDS).status_code for call in calls)


def test_long_polls_leave_half_of_the_slots_to_runs(
    small: Stack, pool: ThreadPoolExecutor, alice: User, bob: User
) -> None:
    carol = User(small, pool, "carol")
    polls = alice.polls(SLOTS) + bob.polls(SLOTS)
    wait_for(small, LONG_POLLS)
    # Calls without a slot are answered at once with the current job.
    early = answered(polls, 2 * SLOTS - LONG_POLLS)
    assert {call.result().json()["status"] for call in early} == {"UPLOADED"}
    assert codes(early) == [200] * len(early)
    # Polling does not prevent anyone from running jobs.
    runs = alice.runs(SLOTS // 2)
    assert codes(runs) == [202] * (SLOTS // 2)
    assert codes(carol.runs(1)) == [202]
    assert {call.result().json()["status"] for call in runs} == {"AUDIO_EXTRACTING"}


def test_one_users_long_polls_leave_slots_for_another_users(
    small: Stack, alice: User, bob: User
) -> None:
    alices = alice.polls(SLOTS)
    wait_for(small, LONG_POLLS // 2)
    answered(alices, SLOTS - LONG_POLLS // 2)
    bobs = bob.polls(1)
    wait_for(small, LONG_POLLS // 2 + 1)
    assert not bobs[0].done()


def test_one_users_runs_leave_slots_for_another_users(
    small: Stack, pool: ThreadPoolExecutor, slow: StubOrchestrator, alice: User, bob: User
) -> None:
    jobs = [alice.client.uploaded_job()["id"] for _ in range(SLOTS)]
    of_bob = bob.client.uploaded_job()["id"]
    runs = {job_id: pool.submit(alice.client.run, job_id) for job_id in jobs}
    wait_for(small, SLOTS // 2)
    refused = answered(list(runs.values()), SLOTS // 2)
    assert codes(refused) == [503] * (SLOTS // 2)
    for job_id, call in runs.items():
        if call in refused:
            assert call.result().json()["code"] == "SERVICE_UNAVAILABLE"
            assert int(call.result().headers["Retry-After"]) >= 1
            assert alice.client.job(job_id).json()["dispatch"] is None
            assert slow.requests_for(job_id) == []
    assert bob.client.run(of_bob).status_code == 202
    assert codes(list(runs.values())) == [202] * (SLOTS // 2) + [503] * (SLOTS // 2)
    # An answer frees its slot.
    assert waiting(small) == 0
    assert codes(alice.runs(SLOTS // 2)) == [202] * (SLOTS // 2)


def test_abandoned_long_polls_count_against_their_own_user_only(
    small: Stack, alice: User, bob: User
) -> None:
    job_id = alice.client.uploaded_job()["id"]
    head = (
        f"GET /api/v1/jobs/{job_id}?wait={SECONDS}&status_not=UPLOADED HTTP/1.1\r\nHost: x\r\n"
        "Authorization: Bearer test:alice:editor\r\n\r\n"
    ).encode()
    for _ in range(2 * SLOTS):
        where = urlsplit(small.api_url)
        with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
            connection.sendall(head)
    wait_for(small, LONG_POLLS // 2)
    bobs = bob.polls(1)
    wait_for(small, LONG_POLLS // 2 + 1)
    assert codes(alice.runs(1) + bob.runs(1)) == [202] * 2
    # Alice's next poll is answered at once, not refused.
    assert codes(answered(alice.polls(1), 1)) == [200]
    assert not bobs[0].done()
