"""SIGTERM under load: what was begun is finished or handed back, and nobody is cut off."""

import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from demo.stack import Stack
from tests.conftest import QUICK_SETTINGS
from tests.load.seeds import uploaded_jobs
from tests.support.behaviours import accept
from tests.support.client import ApiClient
from tests.support.orchestrator import StubOrchestrator
from tests.support.waiting import wait_until

CALLERS, CONCURRENCY = 24, 8
ANSWER_SECONDS = 0.3


@pytest.fixture(scope="module")
def slow() -> Iterator[StubOrchestrator]:
    with StubOrchestrator(accept(after=ANSWER_SECONDS)) as stub:
        yield stub


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, slow: StubOrchestrator) -> Iterator[Stack]:
    settings = {
        **QUICK_SETTINGS,
        "TAKEONE_ORCHESTRATOR_URL": slow.url,
        "TAKEONE_RUN_WAIT_SECONDS": "10",
        "TAKEONE_WORKER_CONCURRENCY": str(CONCURRENCY),
    }
    with Stack(tmp_path_factory.mktemp("pair"), settings=settings, web=2, workers=2) as running:
        yield running


@pytest.fixture(scope="module")
def editor(pair: Stack) -> ApiClient:
    """Calls the web process that stays."""
    return ApiClient(pair.webs[1].url, "alice")


def assert_each_sent_once(editor: ApiClient, slow: StubOrchestrator, jobs: list[str]) -> None:
    phases = Counter(editor.job(job_id).json()["dispatch"]["phase"] for job_id in jobs)
    assert phases == {"SENT": len(jobs)}
    assert all(len(slow.requests_for(job_id)) == 1 for job_id in jobs)


def test_a_worker_that_is_told_to_stop_finishes_its_posts_and_leaves_the_rest_to_the_other(
    pair: Stack, slow: StubOrchestrator, editor: ApiClient
) -> None:
    jobs = uploaded_jobs(pair, "alice", 100)
    leaving = pair.workers[0]
    with ThreadPoolExecutor(len(jobs)) as pool:
        answers = [pool.submit(editor.run, job_id) for job_id in jobs]
        wait_until(lambda: slow.in_flight == 2 * CONCURRENCY, 5, "both workers are busy")
        leaving.ask_to_stop()
        assert Counter(answer.result(15).status_code for answer in answers) == {202: len(jobs)}
    wait_until(lambda: not leaving.is_running, 5, "the worker has ended")
    assert_each_sent_once(editor, slow, jobs)


class Caller(threading.Thread):
    """Runs jobs at the process that is to leave, one after the other, for as long as it lets him in."""

    def __init__(self, url: str, jobs: Iterator[str], *, keeps_alive: bool, waits: bool) -> None:
        super().__init__(daemon=True)
        self._client = ApiClient(url, "alice")
        self._jobs, self._waits = jobs, waits
        if not keeps_alive:
            self._client.session.headers["Connection"] = "close"
        self.codes: Counter[int] = Counter()
        self.called: set[str] = set()
        self.ended: str | None = None

    def run(self) -> None:
        headers = {} if self._waits else {"Prefer": "respond-async"}
        for job_id in self._jobs:
            try:
                self.codes[self._client.run(job_id, headers=headers).status_code] += 1
            except requests.RequestException as error:
                self.ended = str(error)
                return
            self.called.add(job_id)


@pytest.mark.parametrize("try_number", range(3))
def test_a_web_process_that_is_told_to_stop_while_it_starts_does_so(
    try_number: int, tmp_path: Path
) -> None:
    (web,) = Stack(tmp_path, settings=QUICK_SETTINGS).webs
    web.start()
    try:
        wait_until(lambda: "Booting worker" in web.log(), 20, "it loads the application")
        web.ask_to_stop()
        wait_until(lambda: not web.is_running, 8, f"it ends, at try {try_number}")
        assert "Traceback" not in web.log()
    finally:
        web.kill()


def test_a_web_process_that_is_told_to_stop_cuts_nobody_off(
    pair: Stack, slow: StubOrchestrator, editor: ApiClient
) -> None:
    leaving = pair.webs[0]
    # Those who wait run jobs that nobody else does; the others the same few again and again.
    fresh = [uploaded_jobs(pair, "alice", 40) for _ in range(CALLERS // 2)]
    again = uploaded_jobs(pair, "alice", 20)
    waiting = [
        Caller(leaving.url, iter(jobs), keeps_alive=number % 2 == 0, waits=True)
        for number, jobs in enumerate(fresh)
    ]
    hasty = [
        Caller(leaving.url, itertools.cycle(again), keeps_alive=number % 2 == 0, waits=False)
        for number in range(CALLERS // 2)
    ]
    callers = [*waiting, *hasty]
    for caller in callers:
        caller.start()
    wait_until(lambda: all(caller.codes for caller in callers), 10, "they are at it")
    leaving.ask_to_stop()
    wait_until(lambda: not leaving.is_running, 20, "the process has ended")
    for caller in callers:
        caller.join(15)
    # Each was answered whole until the door was shut, which is what sends a router elsewhere.
    assert [each.ended for each in callers if "Connection refused" not in str(each.ended)] == []
    assert {code for caller in callers for code in caller.codes} == {200, 202}
    called = sorted(set().union(*(caller.called for caller in callers)))
    wait_until(lambda: slow.in_flight == 0, 10, "the worker has finished")
    assert_each_sent_once(editor, slow, called)
