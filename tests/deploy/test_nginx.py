"""Behind nginx with the configuration of ops/: rolling restarts and slow request bodies."""

import select
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from devstack.processes import Process
from devstack.stack import Stack, answers
from devstack.waiting import wait_until
from tests.conftest import NewStack
from tests.load.seeds import uploaded_jobs
from tests.support.behaviours import accept
from tests.support.client import ApiClient
from tests.support.connections import connections, sending_slowly
from tests.support.nginx import INSTALL_HINT, PROGRAM, Nginx
from tests.support.orchestrator import StubOrchestrator

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=INSTALL_HINT)

CALLERS, SLOW_CALLERS, THREADS = 16, 400, 32
ROUNDS = 2
LIMIT_SECONDS = 60  # only ends a hang


@pytest.fixture(scope="module")
def prompt() -> Iterator[StubOrchestrator]:
    with StubOrchestrator(accept(after=0.1)) as stub:
        yield stub


@pytest.fixture(scope="module")
def stack(new_stack: NewStack, prompt: StubOrchestrator) -> Iterator[Stack]:
    with new_stack(
        web=2,
        workers=1,
        TAKEONE_ORCHESTRATOR_URL=prompt.url,
        # A busy machine must not cause unknown outcomes, or answers before the outcome.
        TAKEONE_ORCHESTRATOR_TIMEOUT_SECONDS="20",
        TAKEONE_RUN_WAIT_SECONDS="30",
        TAKEONE_CLAIM_LEASE_SECONDS="60",
        TAKEONE_WEB_THREADS=str(THREADS),
        # While one process restarts, the other has slots for all callers.
        TAKEONE_WEB_WAIT_SLOTS="20",
    ) as running:
        yield running


@pytest.fixture(scope="module")
def nginx(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with Nginx(tmp_path_factory.mktemp("nginx"), stack) as running:
        yield running


class Callers:
    """Run jobs through nginx, each twice, and follow one by long polls, until `stop` is set."""

    def __init__(self, nginx: Nginx, stack: Stack, pool: ThreadPoolExecutor) -> None:
        self._url, self._stack = nginx.url, stack
        self.stop = threading.Event()
        self._called = [0] * CALLERS
        self._runs = [pool.submit(self._run_jobs, number) for number in range(CALLERS)]
        self._poll = pool.submit(self._follow)

    def _run_jobs(self, number: int) -> list[tuple[ApiClient, str]]:
        user = f"editor-{number}"  # each user has a share of the wait slots
        client, jobs = self._client(user), []
        while not self.stop.is_set():
            (job_id,) = uploaded_jobs(self._stack, user, 1)
            jobs.append((client, job_id))
            first, second = client.run(job_id), client.run(job_id)
            assert (first.status_code, second.status_code) == (202, 200), (first.text, second.text)
            self._called[number] += 1
        return jobs

    def _follow(self) -> None:
        """Poll for a change that does not come; a poll ends early when its web process stops."""
        client = self._client("alice")
        (job_id,) = uploaded_jobs(self._stack, "alice", 1)
        while not self.stop.is_set():
            query = {"wait": 5, "status_not": "UPLOADED"}
            assert client.job(job_id, params=query).status_code == 200

    def _client(self, user: str) -> ApiClient:
        return ApiClient(self._url, user, timeout_seconds=LIMIT_SECONDS)

    def wait_until_all_called(self) -> None:
        """Wait until each caller has run one more job; raise the exception of a caller that failed."""
        before = list(self._called)

        def all_called() -> bool:
            for run in self._runs:
                if run.done():
                    run.result()
            if self._poll.done():
                self._poll.result()
            return all(now > then for now, then in zip(self._called, before, strict=True))

        wait_until(all_called, LIMIT_SECONDS, "each caller is served")

    def jobs(self) -> list[tuple[ApiClient, str]]:
        """Wait for the callers; return the jobs that they ran, each with its owner's client."""
        self._poll.result(LIMIT_SECONDS)
        return [job for run in self._runs for job in run.result(LIMIT_SECONDS)]


def test_a_rolling_restart_under_load_loses_no_run(
    nginx: Nginx, stack: Stack, prompt: StubOrchestrator
) -> None:
    with ThreadPoolExecutor(CALLERS + 1) as pool:
        callers = Callers(nginx, stack, pool)
        try:
            for web in ROUNDS * stack.webs:
                callers.wait_until_all_called()
                restart(web)
            callers.wait_until_all_called()
        finally:
            callers.stop.set()
        jobs = callers.jobs()
    phases = Counter(user.job(job_id).json()["dispatch"]["phase"] for user, job_id in jobs)
    assert phases == {"SENT": len(jobs)}
    assert Counter(request.job_id for request in prompt.requests) == Counter(
        job_id for _, job_id in jobs
    )


def restart(web: Process) -> None:
    """Restart as in docs/runbooks/rolling-restart.md: SIGTERM, wait for the end, start, wait for /readyz."""
    web.ask_to_stop()
    wait_until(lambda: not web.is_running, LIMIT_SECONDS, "it has ended")
    web.start()
    web.wait_until(lambda: answers(f"{web.url}/readyz"), LIMIT_SECONDS, "it is ready")


def test_400_slow_request_bodies_keep_no_other_caller_waiting(nginx: Nginx, stack: Stack) -> None:
    """The callers have valid tokens: without nginx, each body would hold a thread of the service."""
    body = b" " * 20_000
    head = (
        "POST /api/v1/projects HTTP/1.1\r\nHost: takeone\r\nAuthorization: Bearer test:slow:editor\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with connections(nginx.url, SLOW_CALLERS, head.encode()) as slow, sending_slowly(slow, body):
        caller = ApiClient(nginx.url, "alice", timeout_seconds=5)
        for _ in range(20):
            assert caller.create_project().status_code == 201
        (job_id,) = uploaded_jobs(stack, "alice", 1)
        assert caller.run(job_id).status_code == 202
        answered, _, _ = select.select(slow, [], [], 0)
        assert answered == [], "the slow callers are still sending"
