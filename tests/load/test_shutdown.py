"""SIGTERM under load: work in progress is finished or handed over, and every caller gets its answer."""

import itertools
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import requests

from devstack.ports import is_free
from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.conftest import NewStack
from tests.load.seeds import uploaded_jobs
from tests.support.behaviours import accept
from tests.support.client import ApiClient
from tests.support.log_lines import lines_with
from tests.support.orchestrator import StubOrchestrator

CALLERS, CONCURRENCY = 24, 8
# Long enough that both workers reach their full concurrency on a busy machine.
ANSWER_SECONDS = 1.0
# Longer than any of the process's timed waits.
PAUSED_SECONDS = 2.5
RUN_ROUTE = '"route":"/api/v1/jobs/<job_id>/run"'


@pytest.fixture(scope="module")
def slow() -> Iterator[StubOrchestrator]:
    with StubOrchestrator(accept(after=ANSWER_SECONDS)) as stub:
        yield stub


@pytest.fixture(scope="module")
def pair(new_stack: NewStack, slow: StubOrchestrator) -> Iterator[Stack]:
    with new_stack(
        web=2,
        workers=2,
        TAKEONE_ORCHESTRATOR_URL=slow.url,
        TAKEONE_RUN_WAIT_SECONDS="10",
        # A busy machine must not cause unknown outcomes.
        TAKEONE_ORCHESTRATOR_TIMEOUT_SECONDS="10",
        TAKEONE_WORKER_CONCURRENCY=str(CONCURRENCY),
    ) as running:
        yield running


@pytest.fixture(scope="module")
def editor(pair: Stack) -> ApiClient:
    """A client of the web process that is not stopped."""
    return ApiClient(pair.webs[1].url, "alice")


def assert_each_sent_once(editor: ApiClient, slow: StubOrchestrator, jobs: list[str]) -> None:
    phases = Counter(editor.job(job_id).json()["dispatch"]["phase"] for job_id in jobs)
    assert phases == {"SENT": len(jobs)}
    assert all(len(slow.requests_for(job_id)) == 1 for job_id in jobs)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stopping_worker_finishes_its_posts_and_leaves_the_rest_to_the_other(
    number: signal.Signals, pair: Stack, slow: StubOrchestrator, editor: ApiClient
) -> None:
    jobs = uploaded_jobs(pair, "alice", 60)
    leaving = pair.workers[0]
    with ThreadPoolExecutor(len(jobs)) as pool:
        answers = [pool.submit(editor.run, job_id) for job_id in jobs]
        wait_until(
            lambda: slow.in_flight == 2 * CONCURRENCY, 10, "full concurrency of both workers"
        )
        os.kill(leaving.pid, number)
        assert Counter(answer.result(15).status_code for answer in answers) == {202: len(jobs)}
    wait_until(lambda: not leaving.is_running, 5, "the worker has ended")
    assert leaving.exit_code == 0
    assert "Traceback" not in leaving.log()
    pair.restart(leaving)
    assert_each_sent_once(editor, slow, jobs)


class Caller(threading.Thread):
    """Runs jobs one after the other at the process that will stop, until a request fails."""

    def __init__(self, url: str, jobs: Iterator[str], *, keeps_alive: bool, waits: bool) -> None:
        super().__init__(daemon=True)
        self._client = ApiClient(url, "alice")
        self._jobs, self._waits = jobs, waits
        if not keeps_alive:
            self._client.session.headers["Connection"] = "close"
        self.codes: Counter[int] = Counter()
        self.called: set[str] = set()
        self.ended: Exception | None = None
        self.last_job: str | None = None

    def run(self) -> None:
        headers = {} if self._waits else {"Prefer": "respond-async"}
        for job_id in self._jobs:
            self.last_job = job_id
            try:
                self.codes[self._client.run(job_id, headers=headers).status_code] += 1
            except requests.RequestException as error:
                self.ended = error
                return
            self.called.add(job_id)


@pytest.fixture(scope="module")
def five_webs(new_stack: NewStack) -> Iterator[Stack]:
    with new_stack(web=5, workers=0) as running:
        yield running


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("send", [os.kill, os.killpg])
@pytest.mark.parametrize("round_number", range(2))
def test_a_web_process_stops_after_two_signals_in_quick_succession(
    round_number: int, send: Callable[[int, int], None], first: signal.Signals, five_webs: Stack
) -> None:
    """The kernel may deliver both signals to any one thread; hence ten tries of each combination."""
    webs = five_webs.webs
    for web in webs:
        if not web.is_running:
            web.start()
    for web in webs:
        five_webs.wait_for(web)
    for web in webs:
        send(web.pid, first)
        send(web.pid, signal.SIGTERM)
    # Less than the time after which the main process would kill its children.
    wait_until(lambda: not any(web.is_running for web in webs), 15, "all have ended")
    for web in webs:
        assert "Traceback" not in web.log()


def test_the_children_of_a_killed_web_process_stop(five_webs: Stack) -> None:
    web = five_webs.webs[0]
    five_webs.restart(web)
    os.kill(web.pid, signal.SIGKILL)
    wait_until(lambda: is_free(int(web.port or 0)), 15, "the port is free again")


def test_a_paused_and_resumed_web_process_keeps_serving(five_webs: Stack) -> None:
    """After SIGCONT, `sigtimedwait` may return early with a signal that was never sent."""
    web = five_webs.webs[0]
    five_webs.restart(web)
    children = {child.pid for child in psutil.Process(web.pid).children()}
    client = ApiClient(web.url, "alice")
    web.pause()
    time.sleep(PAUSED_SECONDS)
    web.resume()
    # A stopping process closes each connection.
    for _ in range(20):
        assert client.get("/projects").headers.get("Connection") != "close"
    assert {child.pid for child in psutil.Process(web.pid).children()} == children
    assert "Stopping worker" not in web.log()


@pytest.mark.parametrize("try_number", range(3))
def test_a_web_process_stops_while_it_starts(try_number: int, new_stack: NewStack) -> None:
    (web,) = new_stack().webs
    web.start()
    try:
        wait_until(lambda: "Spawning worker" in web.log(), 20, "it loads the application")
        web.ask_to_stop()
        wait_until(lambda: not web.is_running, 8, f"it has ended, in try {try_number}")
        assert "Traceback" not in web.log()
    finally:
        web.kill()


@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_a_stopping_web_process_answers_every_request_that_it_has_read(
    send: Callable[[int, int], None], pair: Stack, slow: StubOrchestrator, editor: ApiClient
) -> None:
    """Some supervisors signal the main process, others the whole process group."""
    leaving = pair.webs[0]
    if not leaving.is_running:
        pair.restart(leaving)
    # Waiting callers have their own jobs; the others run the same few jobs repeatedly.
    own = [uploaded_jobs(pair, "alice", 40) for _ in range(CALLERS // 2)]
    shared = uploaded_jobs(pair, "alice", 20)
    waiting = [
        Caller(leaving.url, iter(jobs), keeps_alive=number % 2 == 0, waits=True)
        for number, jobs in enumerate(own)
    ]
    asynchronous = [
        Caller(leaving.url, itertools.cycle(shared), keeps_alive=number % 2 == 0, waits=False)
        for number in range(CALLERS // 2)
    ]
    callers = [*waiting, *asynchronous]
    for caller in callers:
        caller.start()
    wait_until(lambda: all(caller.codes for caller in callers), 10, "each caller has an answer")
    send(leaving.pid, signal.SIGTERM)
    wait_until(lambda: not leaving.is_running, 20, "the process has ended")
    for caller in callers:
        caller.join(15)
    # Every request that the process read was answered, and its caller has the answer.
    answered = Counter(line["status"] for line in map(json.loads, lines_with(leaving, RUN_ROUTE)))
    assert answered == sum((caller.codes for caller in callers), Counter())
    assert set(answered) == {200, 202}
    # All other connections were refused, on which a router tries elsewhere, or closed before a byte was read:
    # the kernel had accepted them, and the process had not, or had not read from them yet.
    assert {type(caller.ended) for caller in callers} == {requests.ConnectionError}
    closed = [caller for caller in callers if "Connection refused" not in str(caller.ended)]
    for caller in set(closed) & set(waiting):
        assert editor.job(caller.last_job or "").json()["dispatch"] is None, caller.ended
    called = sorted(set().union(*(caller.called for caller in callers)))
    wait_until(lambda: slow.in_flight == 0, 10, "the worker has finished")
    assert_each_sent_once(editor, slow, called)
