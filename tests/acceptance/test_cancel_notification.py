"""Notifying the orchestrator of a cancel (TAKEONE_ORCHESTRATOR_CANCEL_URL), here with a separate broker."""

from collections.abc import Iterator
from typing import Any

import pytest

from devstack.redis_server import RedisServer
from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.conftest import NewStack
from tests.support.behaviours import Behaviour, Exchange, accept, hang, refuse, reset_after_read
from tests.support.job_handle import JobHandle
from tests.support.orchestrator import StubOrchestrator


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for messages only."""
    with RedisServer(tmp_path_factory.mktemp("broker")) as server:
        yield server


@pytest.fixture(scope="module")
def service(
    new_stack: NewStack, orchestrator: StubOrchestrator, broker: RedisServer
) -> Iterator[Stack]:
    """A service that notifies the orchestrator of cancels."""
    with new_stack(
        TAKEONE_ORCHESTRATOR_CANCEL_URL=orchestrator.url.replace("/dispatches", "/cancels"),
        TAKEONE_BROKER_URL=broker.url,
    ) as running:
        yield running


def notifications(orchestrator: StubOrchestrator, handle: JobHandle) -> list[dict[str, Any]]:
    """The notifications that the orchestrator received about the job."""
    requests = orchestrator.requests_for(handle.id)
    return [request.json for request in requests if request.path == "/cancels"]


def results(handle: JobHandle) -> list[str]:
    """The results of notifications on the job's trail."""
    kind = "orchestrator.cancel_notified"
    events = [event for event in handle.trail() if event["event_type"] == kind]
    for event in events:
        assert (event["actor_type"], event["dispatch_id"]) == ("system", handle.run_id)
    return [event["reason"] for event in events]


def wait_for_results(handle: JobHandle) -> list[str]:
    return wait_until(lambda: results(handle), 30, "the result is on the trail")


def on_cancel(behaviour: Behaviour) -> Behaviour:
    """Accept dispatches, and answer cancels with `behaviour`."""

    def behave(exchange: Exchange) -> None:
        (behaviour if exchange.request.path == "/cancels" else accept())(exchange)

    return behave


def test_the_notification_names_the_dispatch_and_the_execution(
    handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    handle.lead_to("AUDIO_EXTRACTING")
    handle.reported("AUDIO_READY", execution_id="execution-7")
    assert handle.client.cancel(handle.id).status_code == 200
    assert wait_for_results(handle) == ["accepted"]
    ids = {"job_id": handle.id, "dispatch_id": handle.run_id, "execution_id": "execution-7"}
    assert notifications(orchestrator, handle) == [ids]
    assert handle.status == "CANCELLED"


def test_an_unknown_execution_is_not_named(
    handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[handle.id] = reset_after_read()
    assert handle.client.run(handle.id).status_code == 502
    orchestrator.behaviours[handle.id] = accept()
    handle.client.cancel(handle.id)
    assert wait_for_results(handle) == ["accepted"]
    ids = {"job_id": handle.id, "dispatch_id": handle.run_id}
    assert notifications(orchestrator, handle) == [ids]


@pytest.mark.parametrize(
    ("behaviour", "result", "is_over"),
    [
        (refuse(404), "not_found", True),
        (refuse(400), "refused", True),
        (refuse(500), "no_answer", False),
        (hang(0.2), "no_answer", False),
    ],
)
def test_the_result_is_on_the_trail_and_the_job_stays_cancelled(
    handle: JobHandle,
    orchestrator: StubOrchestrator,
    behaviour: Behaviour,
    result: str,
    is_over: bool,
) -> None:
    orchestrator.behaviours[handle.id] = on_cancel(behaviour)
    handle.lead_to("AUDIO_EXTRACTING")
    handle.client.cancel(handle.id)
    assert wait_for_results(handle) == [result]
    assert handle.status == "CANCELLED"
    # Only what the orchestrator has answered is over; else it must still be notified.
    assert handle.client.delete_job(handle.id).status_code == (204 if is_over else 409)


def test_a_notification_is_repeated_until_it_is_answered(
    handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[handle.id] = on_cancel(refuse(503))
    handle.lead_to("AUDIO_EXTRACTING")
    handle.client.cancel(handle.id)
    wait_until(lambda: len(notifications(orchestrator, handle)) >= 2, 15, "it is sent again")
    orchestrator.behaviours[handle.id] = accept()
    wait_until(lambda: results(handle)[-1:] == ["accepted"], 15, "it is accepted")
    assert results(handle) == ["no_answer", "accepted"]


def test_a_job_that_was_never_sent_needs_no_notification(
    handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    other = JobHandle.uploaded(handle.client, handle.secret).lead_to("AUDIO_EXTRACTING")
    handle.client.cancel(handle.id)
    other.client.cancel(other.id)
    wait_for_results(other)
    assert (notifications(orchestrator, handle), results(handle)) == ([], [])


def test_a_failed_notification_of_an_orchestrator_that_is_down_is_recorded(
    handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    handle.lead_to("AUDIO_EXTRACTING")
    orchestrator.stop()
    try:
        assert handle.client.cancel(handle.id).status_code == 200
        assert wait_for_results(handle) == ["no_answer"]
    finally:
        orchestrator.start()


def test_a_cancel_succeeds_while_the_broker_is_down(handle: JobHandle, broker: RedisServer) -> None:
    handle.lead_to("AUDIO_EXTRACTING")
    broker.kill()
    try:
        answer = handle.client.cancel(handle.id)
    finally:
        broker.start()
    assert (answer.status_code, answer.json()["status"]) == (200, "CANCELLED")
    assert handle.client.cancel(handle.id).status_code == 409
