"""Cancel: from any state that is not terminal, and what was not sent is never sent afterwards."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest

from devstack.redis_server import RedisServer
from devstack.stack import Stack
from devstack.waiting import wait_until
from domain.claim import FencingToken
from store import keys
from tasks import message
from tasks.queues import KEY_PREFIX
from tests.acceptance import stored
from tests.support.behaviours import Behaviour, accept, hang, refuse, reset_after_read
from tests.support.client import ApiClient
from tests.support.job_handle import WAY, JobHandle, at_once, forbidden_step, refusal
from tests.support.log_lines import wait_for_line
from tests.support.orchestrator import StubOrchestrator
from tests.support.paused import paused

IN_TIME = 1.0
RUN_AFTER_CANCEL = forbidden_step("CANCELLED", "AUDIO_EXTRACTING")


@pytest.fixture
def handle(alice: ApiClient, callback_secret: str) -> JobHandle:
    """A job in UPLOADED."""
    return JobHandle.uploaded(alice, callback_secret)


@contextmanager
def running(handle: JobHandle) -> Iterator[Future[Any]]:
    """A caller who has called run and waits for its outcome."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(handle.client.run, handle.id)


def cancel(handle: JobHandle) -> dict[str, Any]:
    """Cancel the job; return it as the answer shows it."""
    answer = handle.client.cancel(handle.id)
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()
    assert job["status"] == "CANCELLED"
    assert job == handle.shown()
    return job


def send_message_again(redis: RedisServer, handle: JobHandle, epoch: int) -> None:
    """Deliver a dispatch's message once more, as a broker may."""
    queue = "takeone.dispatch.0"
    token = FencingToken(handle.id, handle.run_id, epoch)
    body = message.encode(message.DISPATCH_TASK, handle.run_id, token, queue)
    with redis.client() as client:
        client.lpush(KEY_PREFIX + queue, body)


def let_the_sweep_look(redis: RedisServer, handle: JobHandle) -> None:
    """Bring the job before the sweep, as if its claim were due, and wait until it has looked."""
    with redis.client() as client:
        client.zadd(keys.DUE, {handle.id: 0})
        wait_until(lambda: client.zscore(keys.DUE, handle.id) != 0, 30, "the sweep has looked")


@pytest.mark.parametrize(
    "status", ["UPLOADED", *(each for each in WAY if each not in ("DONE", "FAILED"))]
)
def test_a_job_is_cancelled_from_every_state_that_is_not_terminal(
    handle: JobHandle, status: str
) -> None:
    if status != "UPLOADED":
        handle.lead_to(status)
    cancel(handle)
    last = [line for line in handle.trail() if line["event_type"] == "job.cancelled"]
    assert [(line["actor_type"], line["prev_status"]) for line in last] == [("editor", status)]
    assert refusal(handle.client.run(handle.id)) == RUN_AFTER_CANCEL


@pytest.mark.parametrize("status", ["CREATED", "UPLOADING"])
def test_a_job_is_cancelled_before_its_upload_is_confirmed(
    alice: ApiClient, callback_secret: str, status: str
) -> None:
    job = alice.create_job(alice.create_project().json()["id"]).json()
    handle = JobHandle(alice, job["id"], callback_secret)
    if status == "UPLOADING":
        handle.reported("UPLOADING")
    cancel(handle)
    answer = alice.confirm_upload(handle.id, "s3://studio/late.mp4")
    assert refusal(answer) == forbidden_step("CANCELLED", "UPLOADED")


@pytest.mark.parametrize("end", ["DONE", "FAILED", "CANCELLED"])
def test_a_job_that_has_ended_is_not_cancelled(handle: JobHandle, end: str) -> None:
    if end == "CANCELLED":
        cancel(handle)
    else:
        handle.lead_to(end)
    before = handle.everything()
    expected = forbidden_step(end, "CANCELLED")
    assert refusal(handle.client.cancel(handle.id)) == expected
    assert handle.everything() == before


def test_a_job_that_is_not_ones_own_is_not_there_to_be_cancelled(
    handle: JobHandle, bob: ApiClient
) -> None:
    others, missing = bob.cancel(handle.id), bob.cancel(str(uuid4()))
    assert refusal(others) == (404, "RESOURCE_NOT_FOUND", None)
    assert others.content == missing.content
    assert handle.status == "UPLOADED"


def test_of_many_cancels_at_once_one_cancels(handle: JobHandle) -> None:
    answers = at_once(8, lambda _: handle.client.cancel(handle.id).status_code)
    assert sorted(answers) == [200] + [409] * 7
    assert handle.event_types().count("job.cancelled") == 1


@pytest.mark.redis_broker
def test_what_was_not_sent_before_a_cancel_is_never_sent(
    handle: JobHandle, stack: Stack, orchestrator: StubOrchestrator
) -> None:
    worker = stack.workers[0]
    with paused(worker), running(handle) as run:
        wait_until(lambda: handle.dispatch.get("phase") == "CLAIMED", 30, "the run has its claim")
        assert cancel(handle)["dispatch"]["phase"] == "RELEASED"
        assert refusal(run.result(IN_TIME)) == RUN_AFTER_CANCEL
        assert stored.claim(stack.redis, handle.id) is None
    wait_for_line(worker, "dispatch.nothing_to_do", handle.id)
    let_the_sweep_look(stack.redis, handle)
    for epoch in (1, 2):
        send_message_again(stack.redis, handle, epoch)
        wait_for_line(worker, "dispatch.nothing_to_do", handle.id, f'"epoch":{epoch}')
    assert orchestrator.requests_for(handle.id) == []
    assert refusal(handle.client.run(handle.id)) == RUN_AFTER_CANCEL
    assert handle.event_types()[-3:] == ["dispatch.claimed", "job.cancelled", "dispatch.released"]


@pytest.mark.parametrize(
    ("later", "outcome", "phase"),
    [
        (accept(after=0.4), "accepted", "SENT"),
        (refuse(500, after=0.4), "refused", "RELEASED"),
        (hang(0.4), "lost", "UNKNOWN"),
    ],
)
def test_a_job_cancelled_while_it_is_sent_stays_so_whatever_the_answer_is(
    handle: JobHandle,
    stack: Stack,
    orchestrator: StubOrchestrator,
    later: Behaviour,
    outcome: str,
    phase: str,
) -> None:
    orchestrator.behaviours[handle.id] = later
    with running(handle) as run:
        orchestrator.wait_for_requests(handle.id)
        assert cancel(handle)["dispatch"]["phase"] == "SENDING"
        assert refusal(run.result(IN_TIME)) == RUN_AFTER_CANCEL
    wait_for_line(stack.workers[0], f"dispatch.{outcome}", handle.id)
    assert (handle.status, handle.dispatch["phase"]) == ("CANCELLED", phase)
    for status in ("AUDIO_EXTRACTING", "AUDIO_READY", "FAILED", "CANCELLED"):
        assert refusal(handle.report(status)) == forbidden_step("CANCELLED", status)
    assert refusal(handle.client.run(handle.id)) == RUN_AFTER_CANCEL
    assert len(orchestrator.requests_for(handle.id)) == 1


def test_an_unknown_outcome_of_a_cancelled_job_is_not_sent_again(
    handle: JobHandle, stack: Stack, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[handle.id] = reset_after_read()
    assert handle.client.run(handle.id).status_code == 502
    assert cancel(handle)["dispatch"]["phase"] == "UNKNOWN"
    let_the_sweep_look(stack.redis, handle)
    assert refusal(handle.client.run(handle.id)) == RUN_AFTER_CANCEL
    assert refusal(handle.report("AUDIO_EXTRACTING")) == forbidden_step(
        "CANCELLED", "AUDIO_EXTRACTING"
    )
    assert len(orchestrator.requests_for(handle.id)) == 1


def test_a_cancel_after_a_refused_dispatch_leaves_nothing_to_send(
    handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[handle.id] = refuse(500)
    assert handle.client.run(handle.id).status_code == 502
    cancel(handle)
    assert refusal(handle.client.run(handle.id)) == RUN_AFTER_CANCEL
    assert len(orchestrator.requests_for(handle.id)) == 1


def test_a_cancelled_job_cannot_be_retried(handle: JobHandle) -> None:
    cancel(handle)
    details = {"current_status": "CANCELLED", "attempted_status": "REGENERATING"}
    assert refusal(handle.retry("r1")) == (409, "RETRY_NOT_ALLOWED_STATE", details)


def test_without_a_cancel_url_nobody_is_told(
    handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    handle.lead_to("TRANSCRIBING")
    cancel(handle)
    assert "orchestrator.cancel_notified" not in handle.event_types()
    assert len(orchestrator.requests_for(handle.id)) == 1
