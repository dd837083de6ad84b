"""clients/typescript against the real service and real faults: its retries do what it says of them."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import requests
from pydantic import SecretStr

from devstack.ports import HOST, free_port
from devstack.stack import Stack
from devstack.waiting import wait_until
from domain.lifecycle import create_job
from observability.logs import hash_of
from settings import Settings
from store.jobs import JobStore
from tasks.outbox import TransactionalOutbox
from tests.conftest import NewStack
from tests.openapi.test_openapi import CLIENT, client_tools, pytestmark
from tests.support.behaviours import (
    accept,
    answer,
    answer_after_wait,
    in_turn,
    redirect,
    refuse,
)
from tests.support.certificates import Authority
from tests.support.client import ApiClient
from tests.support.job_handle import JobHandle
from tests.support.orchestrator import StubOrchestrator
from tests.support.stores import client_of
from tests.support.tcp_proxy import TcpProxy, unavailable

__all__ = ["client_tools", "pytestmark"]

JOBS, EVENTS = "/api/v1/jobs", "/api/v1/jobs/<job_id>/events"


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

    def __call__(self, call: str, *args: Any, **options: int | str) -> Any:
        """Options: `take`, after how many items an iterator is left, `abortAfter`, in milliseconds, and
        `absent`, the name of an option that is undefined."""
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


def test_a_create_has_one_key_also_where_the_callers_is_undefined(
    new_node: Callable[..., Node],
) -> None:
    with StubOrchestrator(in_turn(refuse(503), answer(201, b'{"id": "one"}'))) as service:
        node = new_node(f"http://{HOST}:{service.port}")
        node("createProject", "Spring", absent="key")
        node("createJob", "one", {}, absent="key")
    keys = [request.dispatch_id for request in service.requests]
    assert None not in keys
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("call", [("followEvents", "any"), ("followJobs",)], ids=lambda it: it[0])
def test_following_has_no_limit_where_the_callers_is_undefined(
    new_node: Callable[..., Node], call: tuple[str, ...]
) -> None:
    page = answer(200, b'{"items": [{"id": "one", "updated_at": "2026"}], "next_cursor": null}')
    with StubOrchestrator(in_turn(refuse(503), refuse(503), page)) as service:
        node = new_node(f"http://{HOST}:{service.port}", TIMEOUT="100")
        assert node(*call, take=1, absent="timeout")[0]["id"] == "one"


def test_an_empty_key_is_refused(node: Node) -> None:
    with pytest.raises(Refused, match="VALIDATION_ERROR"):
        node("createProject", "Spring", {"key": ""})


@pytest.mark.parametrize("identifier", ["", ".", ".."])
def test_an_id_that_would_make_another_path_is_refused(
    new_node: Callable[..., Node], identifier: str
) -> None:
    with StubOrchestrator(answer(204, b"")) as service:
        node = new_node(f"http://{HOST}:{service.port}")
        for call in ("deleteJob", "createJob", "run", "followEvents"):
            with pytest.raises(Refused, match=r"TypeError.*An id"):
                node(call, identifier)
    assert service.requests == []


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host"])
def test_a_url_that_is_not_of_http_is_refused(new_node: Callable[..., Node], url: str) -> None:
    with pytest.raises(Refused, match=r"TypeError.*baseUrl"):
        new_node(url, TIMEOUT="1000")("getJob", "any")


def test_a_certificate_that_is_not_trusted_ends_the_call(
    new_node: Callable[..., Node], tmp_path: Path
) -> None:
    context = Authority(tmp_path).server_context()
    with StubOrchestrator() as service, TcpProxy(service.port, context) as proxy:
        node = new_node(f"https://{HOST}:{proxy.port}", TIMEOUT="5000")
        with pytest.raises(Refused, match="No answer") as refusal:
            node("getJob", "any")
    assert (refusal.value.error["status"], refusal.value.error["attempts"]) == (None, 1)


@pytest.mark.parametrize("details", [b"null", b'["a"]', b'"a"'])
def test_details_of_another_form_are_none(new_node: Callable[..., Node], details: bytes) -> None:
    body = b'{"message": "No entry", "details": ' + details + b"}"
    with StubOrchestrator(answer(409, body)) as gateway, pytest.raises(Refused) as refusal:
        new_node(f"http://{HOST}:{gateway.port}")("cancel", "any")
    assert refusal.value.error["details"] == {}


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirect_is_followed(new_node: Callable[..., Node], status: int) -> None:
    with StubOrchestrator(answer(200, b"{}")) as other:
        location = f"http://{HOST}:{other.port}/"
        with StubOrchestrator(redirect(location, status)) as gateway:
            node = new_node(f"http://{HOST}:{gateway.port}")
            with pytest.raises(Refused) as refusal:
                node("createProject", "Spring")
    assert (refusal.value.error["status"], refusal.value.error["attempts"]) == (status, 1)
    assert other.requests == []


@pytest.mark.parametrize("body", [b"null", b'"OK"', b"[]", b"1", b"", b"<html>"])
def test_another_servers_answer_is_an_error(new_node: Callable[..., Node], body: bytes) -> None:
    with StubOrchestrator(answer(200, body)) as gateway:
        node = new_node(f"http://{HOST}:{gateway.port}")
        with pytest.raises(Refused) as refusal:
            node("createProject", "Spring")
    assert (refusal.value.error["status"], refusal.value.error["attempts"]) == (200, 1)


@pytest.mark.parametrize("token", ["sec\nret", "sec\u2026ret"])
def test_an_invalid_token_is_in_no_error(new_node: Callable[..., Node], token: str) -> None:
    with pytest.raises(Refused, match="token") as refusal:
        new_node(f"http://{HOST}:{free_port()}", TOKEN=token)("getJob", "any")
    assert "sec" not in str(refusal.value.error)


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
        node, hasty = new_node(limited.api_url), new_node(limited.api_url, TIMEOUT="1000")
        first, second = (node("createProject", f"Number {number}") for number in (1, 2))
        assert [each["id"] for each in node("listProjects")] == [first["id"], second["id"]]
        with pytest.raises(Refused) as refusal:
            hasty("createProject", "Number 3")
    assert (refusal.value.error["code"], refusal.value.error["attempts"]) == ("RATE_LIMITED", 1)
    assert refusal.value.error["retryAfter"] >= 1000
    assert refusal.value.error["requestId"]


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_gateways_retry_after_is_waited_for(
    new_node: Callable[..., Node], stack: Stack, form: str
) -> None:
    due = int(time.time()) + 4
    told = formatdate(due, usegmt=True) if form == "date" else "4"
    with TcpProxy(urlsplit(stack.api_url).port or 0) as proxy, ThreadPoolExecutor(1) as caller:
        node = new_node(f"http://{HOST}:{proxy.port}")
        proxy.respond_with(unavailable(f"Retry-After: {told}"))
        creating = caller.submit(node, "createProject", "Interviews")
        wait_until(lambda: proxy.connections_made, 20, "it has tried")
        proxy.restore()
        creating.result(30)
        assert time.time() >= due
        assert proxy.connections_made == 2


def test_a_date_in_retry_after_is_by_the_gateways_clock(new_node: Callable[..., Node]) -> None:
    ahead = time.time() + 3600
    told = {
        "Date": formatdate(ahead, usegmt=True),
        "Retry-After": formatdate(ahead + 2, usegmt=True),
    }
    with StubOrchestrator(in_turn(answer(503, b"", told), answer(200, b"{}"))) as gateway:
        new_node(f"http://{HOST}:{gateway.port}")("getJob", "any")
    first, second = gateway.requests
    assert second.received_at - first.received_at >= 2


@pytest.mark.parametrize(
    "told", ["soon", "-5", "Infinity", "9" * 400, "Sun, 06 Nov 1994 08:49:37 GMT"]
)
def test_a_retry_after_that_says_nothing_is_no_wait(
    new_node: Callable[..., Node], told: str
) -> None:
    with StubOrchestrator(answer(403, b"", {"Retry-After": told})) as gateway:
        node = new_node(f"http://{HOST}:{gateway.port}")
        with pytest.raises(Refused) as refusal:
            node("getJob", "any")
    assert (refusal.value.error["status"], refusal.value.error["retryAfter"]) == (403, 0)


def test_a_store_that_is_away_is_waited_for(
    new_node: Callable[..., Node], new_stack: NewStack
) -> None:
    with new_stack(workers=0) as stack, ThreadPoolExecutor(1) as caller:
        node = new_node(stack.api_url, TIMEOUT="60000")
        stack.redis.kill()
        creating = caller.submit(node, "createProject", "Interviews")
        wait_until(lambda: '"status":503' in stack.webs[0].log(), 30, "it was answered 503")
        stack.redis.start()
        made = creating.result(60)
        assert node("listProjects") == [made]


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


def test_a_wait_for_a_service_that_is_not_there_ends_as_a_call_does(
    new_node: Callable[..., Node],
) -> None:
    with StubOrchestrator(refuse(503)) as gateway, pytest.raises(Refused, match="TakeOneError"):
        new_node(f"http://{HOST}:{gateway.port}", TIMEOUT="100")(
            "waitFor", "any", ["DONE"], {"timeout": 3_000}
        )
    assert len(gateway.requests) == 1


def test_following_a_quiet_service_outlasts_its_timeout(new_node: Callable[..., Node]) -> None:
    quiet = answer_after_wait(b'{"items": [], "next_cursor": "1"}')
    event = answer(200, b'{"items": [{"id": 1}], "next_cursor": "2"}')
    with StubOrchestrator(in_turn(quiet, quiet, event)) as service:
        node = new_node(f"http://{HOST}:{service.port}")
        assert node("followEvents", "any", {"timeout": 3_000}, take=1) == [{"id": 1}]
    assert len(service.requests) == 3


def test_a_long_poll_ends_before_a_proxy_that_waits_30_seconds(
    new_node: Callable[..., Node],
) -> None:
    created, done = answer(200, b'{"status": "CREATED"}'), answer(200, b'{"status": "DONE"}')
    page = answer(200, b'{"items": [{}], "next_cursor": "1"}')
    with StubOrchestrator(in_turn(created, done, page)) as service:
        node = new_node(f"http://{HOST}:{service.port}")
        node("waitFor", "any", ["DONE"])
        node("followEvents", "any", take=1)
    assert ["wait=25" in request.path for request in service.requests] == [False, True, True]


def test_the_caller_can_end_a_wait(node: Node, job_id: str) -> None:
    with pytest.raises(Refused, match="TimeoutError") as ended:
        node("waitFor", job_id, ["DONE"], abortAfter=300)
    assert "attempts" not in ended.value.error


@pytest.fixture
def dora() -> str:
    """An editor whom no other test knows."""
    return f"dora-{uuid4()}"


@pytest.fixture
def follow(new_node: Callable[..., Node], dora: str) -> Iterator[Callable[..., Future[Any]]]:
    """Makes a call as Dora from a process of its own, whose other calls give up after 300 ms."""
    pool = ThreadPoolExecutor()

    def begin(url: str, *call: Any, **options: int) -> Future[Any]:
        node = new_node(url, TOKEN=f"test:{dora}:editor", TIMEOUT="300")
        return pool.submit(node, *call, **options)

    yield begin
    pool.shutdown(wait=False)  # a call that has not ended does with its process


def asked(stack: Stack, user: str, route: str) -> int:
    """How many requests of a user for a route were answered."""
    secret = SecretStr(stack.settings["TAKEONE_CALLBACK_SECRET"])
    key = Settings(env="development", callback_secret=secret).log_key
    wanted = {"event": "request", "method": "GET", "user": hash_of(user, key), "route": route}
    lines = [json.loads(line) for line in stack.webs[0].log().splitlines() if line[:1] == "{"]
    return sum(wanted.items() <= line.items() for line in lines)


def wait_until_asked(stack: Stack, user: str, *routes: str) -> None:
    wait_until(lambda: all(asked(stack, user, each) for each in routes), 20, "it has asked")


def waiting(stack: Stack) -> float:
    """How many callers wait."""
    text = requests.get(f"{stack.api_url}/metrics", timeout=10).text
    found = re.search(r"^takeone_callers_waiting(?:{.*})? (.+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0


def test_one_request_waits_for_the_next_event_and_one_for_all_jobs(
    follow: Callable[..., Future[Any]], new_stack: NewStack, dora: str
) -> None:
    with new_stack(workers=0) as stack:
        client = ApiClient(stack.api_url, dora)
        project = client.create_project().json()["id"]
        jobs = [client.create_job(project).json()["id"] for _ in range(50)]
        events = follow(stack.api_url, "followEvents", jobs[7], take=2)
        changes = follow(stack.api_url, "followJobs", take=51)
        wait_until(lambda: waiting(stack) == 2, 20, "both wait")
        wait_until(lambda: asked(stack, dora, JOBS) == 3, 20, "what landed late was looked for")
        wait_until(lambda: waiting(stack) == 2, 20, "both wait")
        cancelled = client.cancel(jobs[7]).json()
        assert [each["id"] for each in changes.result(20)] == [*jobs, jobs[7]]
        assert changes.result()[-1] == cancelled
        told = events.result(20)
        # Events: those that there were, and the new one. Jobs: all, a poll, and both again twice.
        wait_until(
            lambda: (asked(stack, dora, EVENTS), asked(stack, dora, JOBS)) == (2, 5),
            5,
            "no more was asked than that",
        )
        assert told == client.get(f"/jobs/{jobs[7]}/events").json()["items"]


def test_following_goes_on_where_it_was_once_the_service_answers_again(
    follow: Callable[..., Future[Any]], stack: Stack, dora: str
) -> None:
    client = ApiClient(stack.api_url, dora)
    job = client.uploaded_job()["id"]
    with TcpProxy(urlsplit(stack.api_url).port or 0) as proxy:
        url = f"http://{HOST}:{proxy.port}"
        events = follow(url, "followEvents", job, take=3)
        changes = follow(url, "followJobs", take=3)
        wait_until_asked(stack, dora, JOBS, EVENTS)
        proxy.respond_with(unavailable())
        begun = proxy.connections_made
        client.cancel(job)
        other = client.uploaded_job()["id"]
        wait_until(lambda: proxy.connections_made >= begun + 6, 30, "they have tried often")
        proxy.restore()
        proxy.cut()
        assert events.result(30) == client.get(f"/jobs/{job}/events").json()["items"]
        told = [(each["id"], each["status"]) for each in changes.result(30)]
        assert told[0] == (job, "UPLOADED")
        assert sorted(told[1:]) == sorted([(job, "CANCELLED"), (other, "UPLOADED")])


def test_a_change_that_lands_late_is_told_and_old_ones_are_not(
    follow: Callable[..., Future[Any]], stack: Stack, dora: str
) -> None:
    now = datetime.now(UTC)
    project = ApiClient(stack.api_url, dora).create_project().json()["id"]
    with client_of(stack.redis.url) as redis:

        def create(name: str, age_seconds: float) -> str:
            made_at, job_id = now - timedelta(seconds=age_seconds), str(uuid4())
            decision = create_job(job_id, project, dora, made_at, None, {"name": name})
            assert JobStore(redis, TransactionalOutbox(["unused"])).create(decision)
            return made_at.isoformat()

        create("old", 60)
        known = create("known", 10)
        changes = follow(stack.api_url, "followJobs", {"updatedAfter": known}, take=3)
        wait_until_asked(stack, dora, JOBS)
        create("new", 0)
        wait_until(lambda: asked(stack, dora, JOBS) >= 3, 20, "it is told")
        create("late", 3)
        assert [each["name"] for each in changes.result(20)] == ["known", "new", "late"]


@pytest.mark.parametrize(
    "call", [("followEvents", "{job_id}"), ("followJobs",)], ids=lambda it: it[0]
)
def test_the_caller_can_end_following(node: Node, job_id: str, call: tuple[str, ...]) -> None:
    with pytest.raises(Refused, match="TimeoutError"):
        node(*(each.format(job_id=job_id) for each in call), abortAfter=700)


def test_a_trail_that_is_deleted_is_not_followed_any_more(
    follow: Callable[..., Future[Any]], stack: Stack, dora: str
) -> None:
    client = ApiClient(stack.api_url, dora)
    job = client.uploaded_job()["id"]
    client.cancel(job)
    events = follow(stack.api_url, "followEvents", job)
    wait_until_asked(stack, dora, EVENTS)
    client.delete_job(job)
    with pytest.raises(Refused, match="RESOURCE_NOT_FOUND"):
        events.result(20)


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
