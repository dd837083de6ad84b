"""Cancel: in any state that is not terminal; a dispatch that was not sent before is never sent."""

from typing import Any

import pytest

from devstack.redis_server import RedisServer
from devstack.stack import Stack
from devstack.waiting import wait_until
from domain.claim import FencingToken
from domain.record import TaskKind
from store import keys
from tasks import message
from tasks.queues import KEY_PREFIX
from tests.acceptance import stored
from tests.acceptance.conftest import InThread
from tests.support.behaviours import Behaviour, accept, hang, refuse
from tests.support.client import ApiClient
from tests.support.job_handle import WAY, JobHandle, at_once, forbidden_step, refusal
from tests.support.log_lines import wait_for_line
from tests.support.orchestrator import StubOrchestrator
from tests.support.paused import paused

WOKEN_SECONDS = 1.0
RUN_AFTER_CANCEL = forbidden_step("CANCELLED", "AUDIO_EXTRACTING")


def cancel(handle: JobHandle) -> dict[str, Any]:
    """Cancel the job; return the job from the answer."""
    answer = handle.client.cancel(handle.id)
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()
    assert job["status"] == "CANCELLED"
    assert job == handle.shown()
    return job


def send_message_again(redis: RedisServer, handle: JobHandle, epoch: int) -> None:
    """Deliver the message of a dispatch again, as a broker may."""
    queue = "takeone.dispatch.0"
    token = FencingToken(handle.id, handle.run_id, epoch)
    body = message.encode(TaskKind.DISPATCH, handle.run_id, token, queue)
    with redis.client() as client:
        client.lpush(KEY_PREFIX + queue, body)


def wait_for_sweep(redis: RedisServer, handle: JobHandle) -> None:
    """Make the job's claim due, and wait until the sweep has processed it."""
    with redis.client() as client:
        client.zadd(keys.DUE, {handle.id: 0})
        wait_until(
            lambda: client.zscore(keys.DUE, handle.id) != 0, 30, "the sweep has processed it"
        )


@pytest.mark.parametrize(
    "status", ["UPLOADED", *(status for status in WAY if status not in ("DONE", "FAILED"))]
)
def test_a_job_can_be_cancelled_in_every_state_that_is_not_terminal(
    handle: JobHandle, status: str
) -> None:
    if status != "UPLOADED":
        handle.lead_to(status)
    cancel(handle)
    last = [event for event in handle.trail() if event["event_type"] == "job.cancelled"]
    assert [(event["actor_type"], event["prev_status"]) for event in last] == [("editor", status)]
    assert refusal(handle.client.run(handle.id)) == RUN_AFTER_CANCEL
    assert refusal(handle.retry("r1"))[:2] == (409, "RETRY_NOT_ALLOWED_STATE")


@pytest.mark.parametrize("status", ["CREATED", "UPLOADING"])
def test_a_job_can_be_cancelled_before_its_upload_is_confirmed(
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
def test_a_job_in_a_terminal_state_cannot_be_cancelled(handle: JobHandle, end: str) -> None:
    if end == "CANCELLED":
        cancel(handle)
    else:
        handle.lead_to(end)
    before = handle.everything()
    expected = forbidden_step(end, "CANCELLED")
    assert refusal(handle.client.cancel(handle.id)) == expected
    assert handle.everything() == before


def test_one_of_many_concurrent_cancels_succeeds(handle: JobHandle) -> None:
    answers = at_once(8, lambda _: handle.client.cancel(handle.id).status_code)
    assert sorted(answers) == [200] + [409] * 7
    assert handle.event_types().count("job.cancelled") == 1


@pytest.mark.redis_broker
def test_a_claim_not_yet_sent_is_never_sent_after_a_cancel(
    handle: JobHandle, stack: Stack, orchestrator: StubOrchestrator, in_thread: InThread
) -> None:
    worker = stack.workers[0]
    with paused(worker):
        run = in_thread(handle.client.run, handle.id)
        wait_until(lambda: handle.dispatch.get("phase") == "CLAIMED", 30, "the run has its claim")
        assert cancel(handle)["dispatch"]["phase"] == "RELEASED"
        assert refusal(run.result(WOKEN_SECONDS)) == RUN_AFTER_CANCEL
        assert stored.claim(stack.redis, handle.id) is None
    wait_for_line(worker, "dispatch.nothing_to_do", handle.id)
    wait_for_sweep(stack.redis, handle)
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
def test_a_job_cancelled_while_sending_stays_cancelled_whatever_the_answer_is(
    handle: JobHandle,
    stack: Stack,
    orchestrator: StubOrchestrator,
    in_thread: InThread,
    later: Behaviour,
    outcome: str,
    phase: str,
) -> None:
    orchestrator.behaviours[handle.id] = later
    run = in_thread(handle.client.run, handle.id)
    orchestrator.wait_for_requests(handle.id)
    assert cancel(handle)["dispatch"]["phase"] == "SENDING"
    assert refusal(run.result(WOKEN_SECONDS)) == RUN_AFTER_CANCEL
    wait_for_line(stack.workers[0], f"dispatch.{outcome}", handle.id)
    assert (handle.status, handle.dispatch["phase"]) == ("CANCELLED", phase)
    for status in ("AUDIO_EXTRACTING", "AUDIO_READY", "FAILED", "CANCELLED"):
        assert refusal(handle.report(status)) == forbidden_step("CANCELLED", status)
    assert refusal(handle.client.run(handle.id)) == RUN_AFTER_CANCEL
    assert len(orchestrator.requests_for(handle.id)) == 1


def test_an_unknown_outcome_of_a_cancelled_job_is_not_sent_again(
    unknown: JobHandle, stack: Stack, orchestrator: StubOrchestrator
) -> None:
    handle = unknown
    assert cancel(handle)["dispatch"]["phase"] == "UNKNOWN"
    wait_for_sweep(stack.redis, handle)
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


def test_without_a_cancel_url_no_notification_is_sent(
    handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    handle.lead_to("TRANSCRIBING")
    cancel(handle)
    assert "orchestrator.cancel_notified" not in handle.event_types()
    assert len(orchestrator.requests_for(handle.id)) == 1
