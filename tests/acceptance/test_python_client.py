"""clients/python against the running service and real faults."""

import pickle
import random
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, get_args, get_type_hints
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from pydantic import SecretStr
from takeone_client import NotReached, TakeOne, TakeOneError, shapes

from devstack.ports import HOST, free_port
from devstack.processes import ROOT
from devstack.stack import Stack
from devstack.waiting import wait_until
from domain.job_fsm import JobStatus
from domain.lifecycle import create_job
from observability.logs import hash_of
from settings import Settings
from store.jobs import JobStore
from tasks.outbox import TransactionalOutbox
from tests.acceptance.conftest import InThread
from tests.acceptance.test_unreachable_orchestrator import port_that_takes_no_connection
from tests.conftest import NewStack
from tests.support import behaviours, openapi
from tests.support.behaviours import (
    Behaviour,
    accept,
    in_turn,
    not_http,
    refuse,
    reset_after_read,
    truncated_body,
    truncated_head,
)  # fmt: skip
from tests.support.certificates import Authority
from tests.support.client import ApiClient
from tests.support.job_handle import JobHandle
from tests.support.orchestrator import StubOrchestrator
from tests.support.stores import client_of
from tests.support.tcp_proxy import TcpProxy, unavailable

ALICE = "test:alice:editor"
SHAPES = (
    "Project", "JobEdit", "Manifest", "Dispatch", "Failure", "Job", "ConfirmUploadResponse",
    "RunJobResponse", "RetryJobResponse", "AuditEvent",
)  # fmt: skip


@pytest.fixture
def client(stack: Stack) -> TakeOne:
    """Alice's client of the shared stack."""
    return TakeOne(stack.api_url, ALICE, timeout=20)


@pytest.fixture
def proxy(stack: Stack, in_thread: InThread) -> Iterator[TcpProxy]:
    """A proxy in front of the shared stack's web process. It ends before the threads do."""
    with TcpProxy(urlsplit(stack.api_url).port or 0) as between:
        yield between


@pytest.fixture
def remote(proxy: TcpProxy) -> TakeOne:
    """Alice's client, connected through the proxy."""
    return TakeOne(f"http://{HOST}:{proxy.port}", ALICE, timeout=40)


def test_a_video_goes_from_upload_to_a_running_workflow(
    client: TakeOne, alice: ApiClient, callback_secret: str
) -> None:
    job = client.create_job(client.create_project("Interviews")["id"], name="Interview 7")
    assert client.confirm_upload(job["id"], "s3://studio/a.mp4")["job"]["status"] == "UPLOADED"
    assert client.run(job["id"])["replayed"] is False
    assert client.run(job["id"])["replayed"] is True
    JobHandle(alice, job["id"], callback_secret).reported("AUDIO_READY")
    assert client.get_job(job["id"]) == alice.get(f"/jobs/{job['id']}").json()


def test_a_create_with_a_lost_answer_is_repeated_and_makes_one_job(
    remote: TakeOne, proxy: TcpProxy, alice: ApiClient, in_thread: InThread
) -> None:
    project = alice.create_project().json()["id"]

    def listed() -> list[str]:
        return [job["id"] for job in alice.get(f"/projects/{project}/jobs").json()["items"]]

    proxy.stall_answers()
    creating = in_thread(remote.create_job, project, name="Interview 7")
    wait_until(listed, 30, "it is created")
    proxy.cut()
    proxy.restore()
    job = creating.result(20)
    assert listed() == [job["id"]]
    assert job["name"] == "Interview 7"


@pytest.mark.parametrize("call", ["cancel", "delete_job"])
def test_a_repeated_change_after_a_lost_answer_succeeds(
    remote: TakeOne, proxy: TcpProxy, alice: ApiClient, job_id: str, in_thread: InThread, call: str
) -> None:
    if call == "delete_job":
        alice.cancel(job_id)

    def is_done() -> bool:
        job = alice.get(f"/jobs/{job_id}").json()
        if call == "delete_job":
            return job.get("code") == "RESOURCE_NOT_FOUND"
        return job["status"] == "CANCELLED"

    proxy.stall_answers()
    changing = in_thread(getattr(remote, call), job_id)
    wait_until(is_done, 30, "it is done")
    proxy.cut()
    proxy.restore()
    result = changing.result(20)
    assert result is None if call == "delete_job" else result["status"] == "CANCELLED"


def test_a_stored_key_returns_what_it_created(client: TakeOne) -> None:
    folder, number = str(uuid4()), str(uuid4())
    projects = [client.create_project("Spring", key=folder) for _ in range(2)]
    assert projects[0] == projects[1]
    project = projects[0]["id"]
    jobs = [client.create_job(project, key=number, metadata={"a": "b"}) for _ in range(2)]
    assert jobs[0] == jobs[1]
    with pytest.raises(TakeOneError) as refusal:
        client.create_job(project, key=number)
    assert (refusal.value.status, refusal.value.code) == (409, "IDEMPOTENCY_KEY_MISMATCH")


def test_a_refused_dispatch_is_retried_until_it_is_accepted(
    client: TakeOne, job_id: str, orchestrator: StubOrchestrator, alice: ApiClient,
    callback_secret: str,
) -> None:  # fmt: skip
    answers = (refuse(503), refuse(500), accept(), refuse(500), accept())
    orchestrator.behaviours[job_id] = in_turn(*answers)
    assert client.run(job_id)["status"] == "AUDIO_EXTRACTING"
    JobHandle(alice, job_id, callback_secret).reported("FAILED")
    assert client.retry(job_id, "fast")["replayed"] is False
    sent = [request.dispatch_id for request in orchestrator.requests_for(job_id)]
    assert sent[:3] == [f"run-{job_id}"] * 3
    assert len(sent) == 5
    assert sent[3] == sent[4], "the id of a retry does not change"


def test_a_run_with_an_unknown_outcome_is_repeated_until_it_is_known(
    client: TakeOne, job_id: str, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[job_id] = in_turn(reset_after_read(), accept())
    assert client.run(job_id)["dispatch_id"] == f"run-{job_id}"
    assert len(orchestrator.requests_for(job_id)) == 2


def test_a_permanent_refusal_is_raised_at_once(client: TakeOne, job_id: str, stack: Stack) -> None:
    client.run(job_id)
    with pytest.raises(TakeOneError, match="409 The upload was already confirmed") as refusal:
        client.confirm_upload(job_id, "s3://studio/another.mp4")
    error = refusal.value
    assert (error.status, error.code, error.attempts) == (409, "VIDEO_URI_CONFLICT", 1)
    assert error.details["submitted_video_uri"] == "s3://studio/another.mp4"
    secret = SecretStr(stack.settings["TAKEONE_CALLBACK_SECRET"])
    key = Settings(env="development", callback_secret=secret).log_key
    logged = hash_of(error.request_id or "", key)
    wait_until(lambda: logged in stack.webs[0].log(), 20, "the logs have its request")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), vars(copy)) == (str(error), vars(error))


def test_a_call_ends_at_its_timeout(
    job_id: str, stack: Stack, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[job_id] = refuse(500)
    with pytest.raises(TakeOneError) as refusal:
        TakeOne(stack.api_url, ALICE, timeout=1).run(job_id)
    assert refusal.value.code == "ORCHESTRATOR_DISPATCH_FAILED"
    unanswered = TakeOne(f"http://{HOST}:{free_port()}", ALICE, timeout=2)
    with pytest.raises(TakeOneError, match="No answer") as late:
        unanswered.run(job_id)
    assert (late.value.status, late.value.code) == (None, None)
    assert late.value.attempts > 1


def test_a_rate_limit_is_waited_for(new_stack: NewStack) -> None:
    with new_stack(workers=0, TAKEONE_WRITE_LIMIT="1/3second") as limited:
        client = TakeOne(limited.api_url, ALICE, timeout=20)
        made = [client.create_project(f"Number {number}") for number in (1, 2)]
        assert list(client.list_projects()) == made
        with pytest.raises(TakeOneError) as refusal:
            TakeOne(limited.api_url, ALICE, timeout=1).create_project("Number 3")
    assert (refusal.value.code, refusal.value.attempts) == ("RATE_LIMITED", 1)
    assert refusal.value.retry_after >= 1


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_waited_for(
    remote: TakeOne, proxy: TcpProxy, in_thread: InThread, form: str
) -> None:
    due = int(time.time()) + 4
    retry_after = formatdate(due, usegmt=True) if form == "date" else "4"
    proxy.respond_with(unavailable(f"Retry-After: {retry_after}"))
    creating = in_thread(remote.create_project, "Interviews")
    wait_until(lambda: proxy.connections_made, 20, "it has made a request")
    proxy.restore()
    creating.result(30)
    assert time.time() >= due
    assert proxy.connections_made == 2


def test_a_date_in_retry_after_is_by_the_gateways_clock() -> None:
    ahead = time.time() + 3600
    told = {
        "Date": formatdate(ahead, usegmt=True),
        "Retry-After": formatdate(ahead + 2, usegmt=True),
    }
    answers = in_turn(behaviours.answer(503, b"", told), behaviours.answer(200, b"{}"))
    with StubOrchestrator(answers) as gateway:
        TakeOne(f"http://{HOST}:{gateway.port}", ALICE, timeout=30).get_job("any")
    first, second = gateway.requests
    assert second.received_at - first.received_at >= 2


@pytest.mark.parametrize(
    "retry_after",
    [
        "soon", "-5", "nan", "inf", "9" * 400, "Fri, 99 Foo 2026",
        "Sun, 06 Nov 1994 08:49:37 GMT",
    ],
)  # fmt: skip
def test_an_invalid_retry_after_is_no_wait(retry_after: str) -> None:
    answer = behaviours.answer(403, b"", {"Retry-After": retry_after})
    with StubOrchestrator(answer) as gateway, pytest.raises(TakeOneError) as refusal:
        TakeOne(f"http://{HOST}:{gateway.port}", ALICE).get_job("any")
    assert (refusal.value.status, refusal.value.retry_after) == (403, 0)


def test_an_unavailable_store_is_waited_for(new_stack: NewStack, in_thread: InThread) -> None:
    with new_stack(workers=0) as stack:
        client = TakeOne(stack.api_url, ALICE, timeout=60)
        stack.redis.kill()
        creating = in_thread(client.create_project, "Interviews")
        wait_until(lambda: '"status":503' in stack.webs[0].log(), 30, "it was answered 503")
        stack.redis.start()
        made = creating.result(60)
        assert list(client.list_projects()) == [made]


def test_lists_and_trails_iterate_over_all_pages(client: TakeOne, job_id: str) -> None:
    project = client.create_project("Interviews")["id"]
    made = [client.create_job(project)["id"] for _ in range(5)]
    listed = client.list_jobs(project_id=project, limit=2, order="asc")
    assert [job["id"] for job in listed] == made
    assert list(client.list_jobs(project_id=project, status="DONE")) == []
    kinds = [event["event_type"] for event in client.events(job_id)]
    assert kinds == ["job.created", "job.upload_confirmed"]
    assert len(list(client.list_projects(limit=1))) > 1


def test_a_job_is_edited_and_deleted(client: TakeOne, job_id: str) -> None:
    assert client.edit_job(job_id, name="B", metadata={"a": "b"})["name"] == "B"
    edited = client.edit_job(job_id, name=None)
    assert (edited["name"], edited["metadata"]) == (None, {"a": "b"})
    with pytest.raises(TakeOneError) as refusal:
        client.delete_job(job_id)
    assert refusal.value.code == "NOT_TERMINAL"
    client.cancel(job_id)
    assert client.cancel(job_id)["status"] == "CANCELLED"
    client.delete_job(job_id)
    with pytest.raises(TakeOneError) as gone:
        client.delete_job(job_id)
    assert gone.value.code == "RESOURCE_NOT_FOUND"


def test_a_wait_ends_with_the_state_or_with_the_job(
    client: TakeOne, job_id: str, alice: ApiClient, callback_secret: str, in_thread: InThread
) -> None:
    client.run(job_id)
    handle = JobHandle(alice, job_id, callback_secret)
    waiting = in_thread(client.wait_for, job_id, ["AUDIO_READY"], timeout=30)
    handle.reported("AUDIO_READY")
    assert waiting.result(20)["status"] == "AUDIO_READY"
    sent = client.wait_for(job_id, lambda job: (job["dispatch"] or {}).get("phase") == "SENT")
    assert sent["id"] == job_id
    with pytest.raises(NotReached, match=r"Waited for 1.5 s; the job is AUDIO_READY") as late:
        client.wait_for(job_id, ["DRAFT_READY"], timeout=1.5)
    assert late.value.job["status"] == "AUDIO_READY"
    handle.reported("FAILED")
    with pytest.raises(NotReached, match="The job has ended"):
        client.wait_for(job_id, ["DRAFT_READY"])
    client.retry(job_id, "standard")
    with pytest.raises(NotReached, match=r"Waited for 1.5 s; the job is FAILED"):
        client.wait_for(job_id, ["DRAFT_READY"], timeout=1.5)


def test_a_wait_uses_long_polls(
    remote: TakeOne, proxy: TcpProxy, alice: ApiClient, job_id: str, in_thread: InThread
) -> None:
    waiting = in_thread(remote.wait_for, job_id, ["CANCELLED"], timeout=30)
    wait_until(lambda: proxy.connections_made == 2, 20, "it polls")
    alice.cancel(job_id)
    assert waiting.result(20)["status"] == "CANCELLED"
    assert proxy.connections_made == 2


def test_polls_without_news_are_a_second_apart() -> None:
    page = behaviours.answer(200, b'{"items": [], "next_cursor": "1"}')
    event = behaviours.answer(200, b'{"items": [{"id": 1}], "next_cursor": "2"}')
    with StubOrchestrator(in_turn(page, page, event)) as service:
        client = TakeOne(f"http://{HOST}:{service.port}", ALICE)
        assert next(client.follow_events("any")) == {"id": 1}
    came = [request.received_at for request in service.requests]
    assert len(came) == 3
    assert all(later - earlier > 0.9 for earlier, later in pairwise(came))
    assert [request.path.partition("after=")[2][:1] for request in service.requests] == [*"011"]


def test_following_a_quiet_service_outlasts_its_timeout() -> None:
    quiet = behaviours.answer_after_wait(b'{"items": [], "next_cursor": "1"}')
    event = behaviours.answer(200, b'{"items": [{"id": 1}], "next_cursor": "2"}')
    with StubOrchestrator(in_turn(quiet, quiet, event)) as service:
        client = TakeOne(f"http://{HOST}:{service.port}", ALICE)
        assert next(client.follow_events("any", timeout=3)) == {"id": 1}
    assert len(service.requests) == 3


def test_a_long_poll_ends_before_a_proxy_that_waits_30_seconds() -> None:
    created = behaviours.answer(200, b'{"status": "CREATED"}')
    done = behaviours.answer(200, b'{"status": "DONE"}')
    page = behaviours.answer(200, b'{"items": [{}], "next_cursor": "1"}')
    with StubOrchestrator(in_turn(created, done, page)) as service:
        client = TakeOne(f"http://{HOST}:{service.port}", ALICE)
        client.wait_for("any", ["DONE"])
        next(client.follow_events("any"))
    assert ["wait=25" in request.path for request in service.requests] == [False, True, True]


@pytest.fixture
def following(editor: ApiClient, proxy: TcpProxy) -> TakeOne:
    """The editor's client, connected through the proxy."""
    token = str(editor.session.headers["Authorization"]).removeprefix("Bearer ")
    return TakeOne(f"http://{HOST}:{proxy.port}", token, timeout=0.3)


def some(items: Iterator[Any], count: int) -> list[Any]:
    return list(islice(items, count))


def test_one_request_waits_for_the_next_event(
    following: TakeOne, editor: ApiClient, proxy: TcpProxy, in_thread: InThread
) -> None:
    job = editor.uploaded_job()["id"]
    events = in_thread(some, following.follow_events(job, timeout=20), 3)
    wait_until(lambda: proxy.connections_made == 2, 20, "it waits")
    editor.cancel(job)
    assert events.result(20) == editor.get(f"/jobs/{job}/events").json()["items"]
    assert proxy.connections_made == 2


def test_one_request_waits_for_all_jobs(
    following: TakeOne, editor: ApiClient, proxy: TcpProxy, in_thread: InThread
) -> None:
    project = editor.create_project().json()["id"]
    jobs = [editor.create_job(project).json()["id"] for _ in range(20)]
    changes = in_thread(some, following.follow_jobs(timeout=20), 21)
    wait_until(lambda: proxy.connections_made >= 4, 20, "it has looked for late changes")
    cancelled = editor.cancel(jobs[7]).json()
    followed = changes.result(20)
    assert [job["id"] for job in followed] == [*jobs, jobs[7]]
    assert followed[-1] == cancelled
    # One for the list, one or two polls, the same again for late changes, and one for the change.
    assert proxy.connections_made <= 7


def test_following_resumes_where_it_was_after_an_outage(
    following: TakeOne, editor: ApiClient, proxy: TcpProxy, in_thread: InThread
) -> None:
    job = editor.uploaded_job()["id"]
    events = in_thread(some, following.follow_events(job, timeout=30), 3)
    changes = in_thread(some, following.follow_jobs(timeout=30), 3)
    wait_until(lambda: proxy.connections_made >= 4, 20, "both wait")
    proxy.respond_with(unavailable())
    begun = proxy.connections_made
    editor.cancel(job)
    other = editor.uploaded_job()["id"]
    wait_until(lambda: proxy.connections_made >= begun + 6, 30, "they have retried")
    proxy.restore()
    proxy.cut()
    assert events.result(30) == editor.get(f"/jobs/{job}/events").json()["items"]
    states = [(item["id"], item["status"]) for item in changes.result(30)]
    assert states[0] == (job, "UPLOADED")
    assert sorted(states[1:]) == sorted([(job, "CANCELLED"), (other, "UPLOADED")])


def test_a_late_change_is_delivered_and_old_ones_are_not(
    following: TakeOne, editor: ApiClient, stack: Stack, proxy: TcpProxy, in_thread: InThread
) -> None:
    now = datetime.now(UTC)
    project = editor.create_project().json()["id"]
    user = str(editor.session.headers["Authorization"]).split(":")[1]
    with client_of(stack.redis.url) as redis:

        def create(name: str, age_seconds: float) -> str:
            made_at, job_id = now - timedelta(seconds=age_seconds), str(uuid4())
            decision = create_job(job_id, project, user, made_at, None, {"name": name})
            assert JobStore(redis, TransactionalOutbox(["unused"])).create(decision)
            return made_at.isoformat()

        create("old", 60)
        known = create("known", 10)
        changes = in_thread(some, following.follow_jobs(updated_after=known, timeout=20), 3)
        wait_until(lambda: proxy.connections_made >= 2, 20, "it polls")
        create("new", 0)
        wait_until(lambda: proxy.connections_made >= 4, 20, "it is delivered")
        create("late", 3)
        assert [job["name"] for job in changes.result(20)] == ["known", "new", "late"]


def test_following_ends_when_the_job_is_deleted(
    following: TakeOne, editor: ApiClient, proxy: TcpProxy, in_thread: InThread
) -> None:
    job = editor.uploaded_job()["id"]
    editor.cancel(job)
    events = in_thread(some, following.follow_events(job, timeout=20), 9)
    wait_until(lambda: proxy.connections_made == 2, 20, "it waits")
    editor.delete_job(job)
    with pytest.raises(TakeOneError) as gone:
        events.result(20)
    assert gone.value.code == "RESOURCE_NOT_FOUND"


@pytest.mark.parametrize(
    "behaviour",
    [behaviours.hang(), behaviours.drip_head(), behaviours.drip_body()],
    ids=["hang", "drip_head", "drip_body"],
)
@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
def test_no_call_hangs(
    behaviour: Behaviour, is_tls: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    # The shortest pauses: a try after longer ones may have too little time to reach the service.
    monkeypatch.setattr(random, "uniform", lambda shortest, _: shortest)
    context = authority.server_context() if is_tls else None
    with StubOrchestrator(behaviour) as service, TcpProxy(service.port, context) as proxy:
        url = f"http{'s' if is_tls else ''}://{HOST}:{proxy.port}"
        begun = time.monotonic()
        with pytest.raises(TakeOneError, match="No answer") as late:
            TakeOne(url, ALICE, timeout=3, try_timeout=0.5).create_project("Interviews")
        assert time.monotonic() - begun < 20, "the limit is 3 s"
        assert late.value.attempts == len(service.requests) > 1


def test_an_address_that_takes_no_connection_leaves_time_for_another_one() -> None:
    with port_that_takes_no_connection() as full, pytest.raises(TakeOneError) as late:
        TakeOne(f"http://{HOST}:{full}", ALICE, timeout=8).get_job("any")
    assert late.value.attempts == 2


def test_a_certificate_that_is_not_trusted_ends_the_call(tmp_path: Path) -> None:
    context = Authority(tmp_path).server_context()
    with StubOrchestrator() as service, TcpProxy(service.port, context) as proxy:
        client = TakeOne(f"https://{HOST}:{proxy.port}", ALICE, timeout=5)
        with pytest.raises(TakeOneError, match="No answer") as error:
            client.get_job("any")
    assert isinstance(error.value.__cause__, ssl.SSLCertVerificationError)
    assert error.value.attempts == 1


def test_a_truncated_answer_is_retried_with_the_same_key_and_a_fresh_token() -> None:
    created = behaviours.answer(201, b'{"id": "one"}')
    behaviour = in_turn(truncated_head(), truncated_body(), not_http(), refuse(504), created)
    tokens = iter("abcdefgh")
    with StubOrchestrator(behaviour) as service:
        client = TakeOne(f"http://{HOST}:{service.port}/base/", lambda: next(tokens), timeout=30)
        assert client.create_job("a/b", name="Interview 7") == {"id": "one"}
    paths = {request.path.rstrip("?") for request in service.requests}
    assert paths == {"/base/api/v1/projects/a%2Fb/jobs"}
    assert len({request.dispatch_id for request in service.requests}) == 1
    sent = [request.headers["authorization"] for request in service.requests]
    assert sent == [f"Bearer {letter}" for letter in "abcde"]


@pytest.mark.parametrize(
    ("status", "behaviour"),
    [
        (302, behaviours.redirect("http://elsewhere.example/")),
        (200, behaviours.not_json()),
        (200, behaviours.empty_body()),
        (403, behaviours.answer(403, b'{"message": "No entry", "details": null}')),
    ],
)
def test_another_servers_answer_is_an_error(status: int, behaviour: Behaviour) -> None:
    with StubOrchestrator(behaviour) as service, pytest.raises(TakeOneError) as error:
        TakeOne(f"http://{HOST}:{service.port}", ALICE).cancel("any")
    raised = error.value
    assert (raised.status, raised.code, raised.details, raised.attempts) == (status, None, {}, 1)


def test_a_gateways_strange_answer_is_an_error() -> None:
    nested = behaviours.answer(200, b"[" * 100_000)
    details = behaviours.answer(409, b'{"message": "No entry", "details": ["a"]}')
    date = {"Retry-After": "Sun, 06 Nov 99999999999 08:49:37 GMT"}
    for behaviour in (nested, details, behaviours.answer(403, b"", date)):
        with StubOrchestrator(behaviour) as service, pytest.raises(TakeOneError) as error:
            TakeOne(f"http://{HOST}:{service.port}", ALICE).cancel("any")
        assert (error.value.details, error.value.retry_after) == ({}, 0)


@pytest.mark.parametrize("token", ["sec\nret", "sec\u2026ret"])
def test_an_invalid_token_is_in_no_error(token: str) -> None:
    with pytest.raises(ValueError, match="token") as error:
        TakeOne(f"http://{HOST}:{free_port()}", token).get_job("any")
    raised = error.value
    assert "sec" not in f"{raised!r} {raised.__cause__!r} {raised.__context__!r}"


def test_the_line_end_of_a_token_from_a_file_is_not_sent(client: TakeOne, stack: Stack) -> None:
    project = client.create_project("Interviews")
    assert project in TakeOne(stack.api_url, f"{ALICE}\n").list_projects()


def test_an_empty_key_is_refused(client: TakeOne) -> None:
    with pytest.raises(TakeOneError) as refusal:
        client.create_project("Interviews", key="")
    assert refusal.value.code == "VALIDATION_ERROR"


@pytest.mark.parametrize("identifier", ["", ".", ".."])
def test_an_id_that_would_make_another_path_is_refused(identifier: str) -> None:
    with StubOrchestrator(behaviours.answer(204, b"")) as service:
        client = TakeOne(f"http://{HOST}:{service.port}", ALICE)
        for call in (client.delete_job, client.create_job, client.run):
            with pytest.raises(ValueError, match="An id"):
                call(identifier)
        with pytest.raises(ValueError, match="An id"):
            next(client.follow_events(identifier))
    assert service.requests == []


def test_the_path_of_the_url_is_encoded() -> None:
    with StubOrchestrator(behaviours.answer(200, b"{}")) as service:
        TakeOne(f"http://{HOST}:{service.port}/a b%20c/", ALICE, timeout=1).get_job("any")
    assert service.requests[0].path.startswith("/a%20b%20c/api/v1/")


def test_an_ipv6_address_needs_no_port() -> None:
    with pytest.raises(TakeOneError) as error:
        TakeOne("http://[::1]", ALICE, timeout=0.1).get_job("any")
    assert not isinstance(error.value.__cause__, socket.gaierror)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host", "http://", "http://host:x"])
def test_an_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"base_url|[Pp]ort"):
        TakeOne(url, ALICE)


def properties(schema: dict[str, Any]) -> dict[str, bool]:
    """The fields of a schema of the specification, and whether each is required."""
    found: dict[str, bool] = {}
    for base in schema.get("allOf", []):
        found |= properties(openapi.resolved(base))
    own = {name: name in schema.get("required", ()) for name in schema.get("properties", ())}
    return found | own


@pytest.mark.parametrize("name", SHAPES)
def test_the_typed_dicts_match_the_specification(name: str) -> None:
    shape = getattr(shapes, name)
    own = {field: field in shape.__required_keys__ for field in get_type_hints(shape)}
    assert own == properties(openapi.document()["components"]["schemas"][name])


def test_the_job_states_match_the_service() -> None:
    assert get_args(shapes.JobStatus) == tuple(JobStatus)


def test_it_installs_without_dependencies_and_with_its_types(tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT / "clients/python", source, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-build-isolation"]
    target = tmp_path / "installed"
    subprocess.run([*pip, "--no-index", "--target", target, source], check=True, timeout=100)
    assert (target / "takeone_client/py.typed").exists()
    # -S: without the installed packages, except for the client.
    program = f"import sys; sys.path.insert(0, {str(target)!r}); import takeone_client as it; print(it.TakeOne)"
    command = [sys.executable, "-I", "-S", "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert "takeone_client.TakeOne" in done.stdout
