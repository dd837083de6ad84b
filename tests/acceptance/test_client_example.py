"""docs/client_example.py against the real service: its retries do what it says of them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from devstack.ports import HOST, free_port
from devstack.stack import Stack
from devstack.waiting import wait_until
from docs.client_example import Refused, TakeOne
from tests.support.behaviours import accept, in_turn, refuse, reset_after_read
from tests.support.client import ApiClient
from tests.support.job_handle import JobHandle
from tests.support.orchestrator import StubOrchestrator
from tests.support.tcp_proxy import TcpProxy


@pytest.fixture
def client(stack: Stack) -> Iterator[TakeOne]:
    """The example's client, as Alice."""
    example = TakeOne(stack.api_url, "test:alice:editor", patience=20)
    yield example
    example.session.close()


def test_it_leads_a_video_from_upload_to_a_running_workflow(
    client: TakeOne, alice: ApiClient, callback_secret: str
) -> None:
    job = client.create_job(alice.create_project().json()["id"])
    assert client.confirm_upload(job["id"], "s3://studio/a.mp4")["job"]["status"] == "UPLOADED"
    assert client.run(job["id"])["replayed"] is False
    assert client.run(job["id"])["replayed"] is True
    JobHandle(alice, job["id"], callback_secret).reported("AUDIO_READY")
    assert client.wait_while(job["id"], "AUDIO_EXTRACTING")["status"] == "AUDIO_READY"


def test_a_create_whose_answer_was_lost_is_repeated_and_makes_one_job(
    stack: Stack, alice: ApiClient
) -> None:
    project = alice.create_project().json()["id"]

    def listed() -> list[str]:
        return [each["id"] for each in alice.get(f"/projects/{project}/jobs").json()["items"]]

    with TcpProxy(urlsplit(stack.api_url).port or 0) as proxy, ThreadPoolExecutor(1) as caller:
        example = TakeOne(f"http://{HOST}:{proxy.port}", "test:alice:editor", patience=20)
        proxy.stall_answers()
        creating = caller.submit(example.create_job, project, name="Interview 7")
        wait_until(listed, 30, "it is made")
        proxy.cut()
        proxy.restore()
        job = creating.result(20)
        example.session.close()
    assert listed() == [job["id"]]
    assert job["name"] == "Interview 7"


def test_a_key_that_was_kept_finds_the_job_again(client: TakeOne, alice: ApiClient) -> None:
    project = alice.create_project().json()["id"]
    made = [client.create_job(project, "order-4711", metadata={"a": "b"}) for _ in range(2)]
    assert made[0] == made[1]
    with pytest.raises(Refused, match="409 IDEMPOTENCY_KEY_MISMATCH"):
        client.create_job(project, "order-4711")


def test_a_run_that_the_orchestrator_refused_is_tried_again_until_it_is_taken(
    client: TakeOne, job_id: str, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[job_id] = in_turn(refuse(503), refuse(500), accept())
    assert client.run(job_id)["status"] == "AUDIO_EXTRACTING"
    sent = orchestrator.requests_for(job_id)
    assert [request.dispatch_id for request in sent] == [f"run-{job_id}"] * 3


def test_a_run_whose_outcome_is_unknown_is_asked_for_until_it_is_known(
    client: TakeOne, job_id: str, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[job_id] = in_turn(reset_after_read(), accept())
    assert client.run(job_id)["dispatch_id"] == f"run-{job_id}"
    assert len(orchestrator.requests_for(job_id)) == 2


def test_a_refusal_that_would_come_again_is_told_at_once(client: TakeOne, job_id: str) -> None:
    client.run(job_id)
    with pytest.raises(Refused) as refusal:
        client.confirm_upload(job_id, "s3://studio/another.mp4")
    assert refusal.value.code == "VIDEO_URI_CONFLICT"
    assert refusal.value.details is not None


def test_patience_ends(job_id: str, stack: Stack, orchestrator: StubOrchestrator) -> None:
    orchestrator.behaviours[job_id] = refuse(500)
    with pytest.raises(Refused, match="502 ORCHESTRATOR_DISPATCH_FAILED"):
        TakeOne(stack.api_url, "test:alice:editor", patience=1).run(job_id)
    unanswered = TakeOne(f"http://{HOST}:{free_port()}", "test:alice:editor", patience=1)
    with pytest.raises(TimeoutError):
        unanswered.run(job_id)
