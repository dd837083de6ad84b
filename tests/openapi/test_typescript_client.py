"""clients/typescript against the real service and real faults: its retries do what it says of them."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest

from devstack.ports import HOST, free_port
from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.conftest import NewStack
from tests.openapi.test_openapi import CLIENT, client_tools, pytestmark
from tests.support.behaviours import accept, in_turn, refuse
from tests.support.client import ApiClient
from tests.support.job_handle import JobHandle
from tests.support.orchestrator import StubOrchestrator
from tests.support.tcp_proxy import TcpProxy

__all__ = ["client_tools", "pytestmark"]


class Refused(Exception):
    """The client's promise was rejected; `error` is what with."""

    def __init__(self, error: dict[str, Any]) -> None:
        self.error = error
        super().__init__(f"{error['name']} {error.get('code')}: {error['message']}")


class Node:
    """The client in a Node.js process: `node("run", job_id)` is its call's value, or raises Refused."""

    def __init__(self, api_url: str, **environment: str) -> None:
        token = {"API_URL": api_url, "TOKEN": "test:alice:editor"}
        self.process = subprocess.Popen(
            ["node", CLIENT / "test/build/drive.js"],
            env={**os.environ, **token, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, call: str, *args: Any, **options: int) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"call": call, "args": args, **options}) + "\n")
        self.process.stdin.flush()
        told = json.loads(self.process.stdout.readline())
        if "error" in told:
            raise Refused(told["error"])
        return told.get("value")


@pytest.fixture
def new_node(client_tools: object) -> Iterator[Callable[..., Node]]:
    """Starts the client for a URL."""
    started: list[Node] = []

    def start(api_url: str, **environment: str) -> Node:
        started.append(Node(api_url, **environment))
        return started[-1]

    yield start
    for node in started:
        node.process.kill()
        node.process.communicate()


@pytest.fixture
def node(new_node: Callable[..., Node], stack: Stack) -> Node:
    """The client of the shared stack, as Alice."""
    return new_node(stack.api_url)


def test_a_create_whose_answer_was_lost_makes_one_job(
    new_node: Callable[..., Node], stack: Stack, alice: ApiClient
) -> None:
    project = alice.create_project().json()["id"]

    def listed() -> list[str]:
        return [each["id"] for each in alice.get(f"/projects/{project}/jobs").json()["items"]]

    with TcpProxy(urlsplit(stack.api_url).port or 0) as proxy, ThreadPoolExecutor(1) as caller:
        node = new_node(f"http://{HOST}:{proxy.port}")
        proxy.stall_answers()
        creating = caller.submit(node, "createJob", project, {"name": "Interview 7"})
        wait_until(listed, 10, "it is made")
        proxy.cut()
        proxy.restore()
        job = creating.result(20)
    assert listed() == [job["id"]]
    assert job["name"] == "Interview 7"


def test_a_cancel_whose_answer_was_lost_is_a_cancel(
    new_node: Callable[..., Node], stack: Stack, alice: ApiClient, job_id: str
) -> None:
    with TcpProxy(urlsplit(stack.api_url).port or 0) as proxy, ThreadPoolExecutor(1) as caller:
        node = new_node(f"http://{HOST}:{proxy.port}")
        proxy.stall_answers()
        cancelling = caller.submit(node, "cancel", job_id)
        wait_until(
            lambda: alice.get(f"/jobs/{job_id}").json()["status"] == "CANCELLED",
            10,
            "it is cancelled",
        )
        proxy.cut()
        proxy.restore()
        assert cancelling.result(20)["status"] == "CANCELLED"


def test_a_kept_key_finds_the_project_again(node: Node) -> None:
    made = [node("createProject", "Spring", {"key": "order-4711"}) for _ in range(2)]
    assert made[0] == made[1]
    with pytest.raises(Refused, match="TakeOneError IDEMPOTENCY_KEY_MISMATCH"):
        node("createProject", "Summer", {"key": "order-4711"})


def test_a_dispatch_that_was_refused_is_tried_until_it_is_taken(
    node: Node, job_id: str, orchestrator: StubOrchestrator, alice: ApiClient, callback_secret: str
) -> None:
    orchestrator.behaviours[job_id] = in_turn(refuse(500), accept(), refuse(500), accept())
    assert node("run", job_id)["status"] == "AUDIO_EXTRACTING"
    JobHandle(alice, job_id, callback_secret).reported("FAILED")
    assert node("retry", job_id, "fast")["replayed"] is False
    sent = [request.dispatch_id for request in orchestrator.requests_for(job_id)]
    assert sent[:2] == [f"run-{job_id}"] * 2
    assert len(sent) == 4
    assert sent[2] == sent[3], "one retry has one id"


def test_a_limit_is_waited_for(new_node: Callable[..., Node], new_stack: NewStack) -> None:
    with new_stack(TAKEONE_WRITE_LIMIT="1/3second") as limited:
        node = new_node(limited.api_url)
        first, second = (node("createProject", f"Number {number}") for number in (1, 2))
        assert [each["id"] for each in node("listProjects")] == [first["id"], second["id"]]
        hasty = new_node(limited.api_url, TIMEOUT="100")
        with pytest.raises(Refused) as refusal:
            hasty("createProject", "Number 3")
    assert (refusal.value.error["code"], refusal.value.error["attempts"]) == ("RATE_LIMITED", 1)
    assert refusal.value.error["retryAfter"] >= 1000


def test_lists_and_trails_go_over_all_pages(node: Node, alice: ApiClient, job_id: str) -> None:
    project = alice.create_project().json()["id"]
    made = [node("createJob", project)["id"] for _ in range(5)]
    listed = node("listJobs", {"project_id": project, "limit": 2, "order": "asc"})
    assert [each["id"] for each in listed] == made
    kinds = [event["event_type"] for event in node("events", job_id)]
    assert kinds == ["job.created", "job.upload_confirmed"]


def test_a_wait_ends_with_the_state_or_with_the_job(
    node: Node, job_id: str, alice: ApiClient, callback_secret: str
) -> None:
    node("run", job_id)
    handle = JobHandle(alice, job_id, callback_secret)
    with ThreadPoolExecutor(1) as caller:
        waiting = caller.submit(node, "waitFor", job_id, ["AUDIO_READY"])
        handle.reported("AUDIO_READY")
        assert waiting.result(20)["status"] == "AUDIO_READY"
    assert node("waitForPhase", job_id, "SENT")["id"] == job_id
    with pytest.raises(Refused, match="NotReached") as late:
        node("waitFor", job_id, ["DRAFT_READY"], {"timeout": 1500})
    assert late.value.error["job"]["status"] == "AUDIO_READY"
    handle.reported("FAILED")
    with pytest.raises(Refused, match="The job has ended"):
        node("waitFor", job_id, ["DRAFT_READY"])
    node("retry", job_id, "standard")
    with pytest.raises(Refused, match="Waited for 1500 ms; the job is FAILED"):
        node("waitFor", job_id, ["DRAFT_READY"], {"timeout": 1500})


def test_the_caller_can_end_a_wait(node: Node, job_id: str) -> None:
    with pytest.raises(Refused, match="TimeoutError") as ended:
        node("waitFor", job_id, ["DONE"], abortAfter=300)
    assert "attempts" not in ended.value.error


def test_a_job_that_is_deleted_is_gone(node: Node, job_id: str) -> None:
    assert node("editJob", job_id, {"name": "B"})["name"] == "B"
    with pytest.raises(Refused, match="NOT_TERMINAL"):
        node("deleteJob", job_id)
    node("cancel", job_id)
    assert node("cancel", job_id)["status"] == "CANCELLED"
    node("deleteJob", job_id)
    with pytest.raises(Refused, match="RESOURCE_NOT_FOUND"):
        node("deleteJob", job_id)


def test_no_call_hangs(new_node: Callable[..., Node], stack: Stack, job_id: str) -> None:
    unheard = new_node(f"http://{HOST}:{free_port()}", TIMEOUT="1500")
    with pytest.raises(Refused, match="No answer"):
        unheard("getJob", job_id)
    with TcpProxy(urlsplit(stack.api_url).port or 0) as proxy:
        proxy.stall()
        stalled = new_node(f"http://{HOST}:{proxy.port}", TIMEOUT="2500", TRY_TIMEOUT="300")
        begun = time.monotonic()
        with pytest.raises(Refused, match="No answer") as late:
            stalled("getJob", job_id)
        assert time.monotonic() - begun < 20, "far more than its limit of 2.5 s"
    assert late.value.error["attempts"] > 1
