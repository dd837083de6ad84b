"""Many callers at the same moment: one of them starts the workflow, all are told the same."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import requests

from devstack.stack import Stack
from tests.acceptance import stored
from tests.support.behaviours import refuse
from tests.support.client import ApiClient
from tests.support.orchestrator import StubOrchestrator

CALLERS = 32
ROUNDS = 50


class Crowd:
    """Callers who all press run at once, each on its own connection."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._pool = ThreadPoolExecutor(CALLERS)
        self._barrier = Barrier(CALLERS)

    def run(self, job_id: str) -> list[requests.Response]:
        """Let all of them run the job; return their answers."""

        def call(_: int) -> requests.Response:
            self._barrier.wait(10)
            return self._client.run(job_id)

        return list(self._pool.map(call, range(CALLERS)))

    def leave(self) -> None:
        """End the callers."""
        self._pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def crowd(alice: ApiClient) -> Iterator[Crowd]:
    callers = Crowd(alice)
    yield callers
    callers.leave()


def test_32_concurrent_runs_make_one_dispatch_in_each_of_50_rounds(
    alice: ApiClient, crowd: Crowd, orchestrator: StubOrchestrator
) -> None:
    project = alice.create_project().json()
    slowest = []
    for _ in range(ROUNDS):
        job_id = alice.uploaded_job(project=project)["id"]
        answers = crowd.run(job_id)
        slowest.append(max(answer.elapsed.total_seconds() for answer in answers))
        assert sorted(answer.status_code for answer in answers) == [200] * 31 + [202]
        for answer in answers:
            body = answer.json()
            assert body["dispatch_id"] == f"run-{job_id}"
            assert body["status"] == "AUDIO_EXTRACTING"
            assert body["replayed"] is (answer.status_code == 200)
        (request,) = orchestrator.requests_for(job_id)
        assert request.dispatch_id == f"run-{job_id}"
    # Who misses the wake-up looks for himself only after a second: that must stay the rare exception.
    assert sum(seconds >= 1 for seconds in slowest) <= ROUNDS // 10


def test_32_concurrent_runs_share_one_refusal_and_the_next_run_works(
    alice: ApiClient, stack: Stack, crowd: Crowd, job_id: str, orchestrator: StubOrchestrator
) -> None:
    # It takes its time to fail, so that the last caller comes while the first one's dispatch stands.
    orchestrator.behaviours[job_id] = refuse(500, after=1.0)
    answers = crowd.run(job_id)
    assert {answer.status_code for answer in answers} == {502}
    assert {answer.json()["details"]["reason"] for answer in answers} == {"refused"}
    assert len(orchestrator.requests_for(job_id)) == 1
    assert alice.job(job_id).json()["status"] == "UPLOADED"
    assert stored.claim(stack.redis, job_id) is None
    del orchestrator.behaviours[job_id]
    assert alice.run(job_id).status_code == 202
    assert alice.job(job_id).json()["status"] == "AUDIO_EXTRACTING"


def test_32_concurrent_runs_all_get_502_when_the_refusal_is_immediate(
    alice: ApiClient, crowd: Crowd, orchestrator: StubOrchestrator
) -> None:
    for _ in range(5):
        job_id = alice.uploaded_job()["id"]
        orchestrator.behaviours[job_id] = refuse(500)
        answers = crowd.run(job_id)
        assert {answer.status_code for answer in answers} == {502}
        # Who comes after a failure may claim again; each claim is posted once.
        lines = alice.events(job_id, params={"limit": 200}).json()["items"]
        claims = [line for line in lines if line["event_type"] == "dispatch.claimed"]
        assert len(orchestrator.requests_for(job_id)) == len(claims) <= CALLERS
        assert alice.job(job_id).json()["status"] == "UPLOADED"
        del orchestrator.behaviours[job_id]
        assert alice.run(job_id).status_code == 202
