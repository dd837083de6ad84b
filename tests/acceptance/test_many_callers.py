"""Concurrent runs of one job: one of them starts the workflow, and all get the same answer."""

import requests

from devstack.stack import Stack
from tests.acceptance import stored
from tests.support.behaviours import refuse
from tests.support.client import ApiClient
from tests.support.job_handle import at_once
from tests.support.orchestrator import StubOrchestrator

CALLERS = 32
ROUNDS = 50


def run_at_once(client: ApiClient, job_id: str) -> list[requests.Response]:
    """Run the job in all callers at the same moment; return their answers."""
    return at_once(CALLERS, lambda _: client.run(job_id))


def test_32_concurrent_runs_make_one_dispatch_in_each_of_50_rounds(
    alice: ApiClient, orchestrator: StubOrchestrator
) -> None:
    project = alice.create_project().json()
    slowest = []
    for _ in range(ROUNDS):
        job_id = alice.uploaded_job(project=project)["id"]
        answers = run_at_once(alice, job_id)
        slowest.append(max(answer.elapsed.total_seconds() for answer in answers))
        assert sorted(answer.status_code for answer in answers) == [200] * 31 + [202]
        for answer in answers:
            body = answer.json()
            assert body["dispatch_id"] == f"run-{job_id}"
            assert body["status"] == "AUDIO_EXTRACTING"
            assert body["replayed"] is (answer.status_code == 200)
        (request,) = orchestrator.requests_for(job_id)
        assert request.dispatch_id == f"run-{job_id}"
    # A caller that misses the notification reads the job again after 1 s, which must be rare.
    assert sum(seconds >= 1 for seconds in slowest) <= ROUNDS // 10


def test_32_concurrent_runs_share_one_refusal_and_the_next_run_works(
    alice: ApiClient, stack: Stack, job_id: str, orchestrator: StubOrchestrator
) -> None:
    # It fails slowly, so that the last caller comes while the dispatch of the first is in flight.
    orchestrator.behaviours[job_id] = refuse(500, after=1.0)
    answers = run_at_once(alice, job_id)
    assert {answer.status_code for answer in answers} == {502}
    assert {answer.json()["details"]["reason"] for answer in answers} == {"refused"}
    assert len(orchestrator.requests_for(job_id)) == 1
    assert alice.job(job_id).json()["status"] == "UPLOADED"
    assert stored.claim(stack.redis, job_id) is None
    del orchestrator.behaviours[job_id]
    assert alice.run(job_id).status_code == 202
    assert alice.job(job_id).json()["status"] == "AUDIO_EXTRACTING"


def test_32_concurrent_runs_all_get_502_when_the_refusal_is_immediate(
    alice: ApiClient, orchestrator: StubOrchestrator
) -> None:
    for _ in range(5):
        job_id = alice.uploaded_job()["id"]
        orchestrator.behaviours[job_id] = refuse(500)
        answers = run_at_once(alice, job_id)
        assert {answer.status_code for answer in answers} == {502}
        # A caller that comes after the failure may claim again; each claim is posted once.
        events = alice.events(job_id, params={"limit": 200}).json()["items"]
        claims = [event for event in events if event["event_type"] == "dispatch.claimed"]
        assert len(orchestrator.requests_for(job_id)) == len(claims) <= CALLERS
        assert alice.job(job_id).json()["status"] == "UPLOADED"
        del orchestrator.behaviours[job_id]
        assert alice.run(job_id).status_code == 202
