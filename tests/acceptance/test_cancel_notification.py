"""With TAKEONE_ORCHESTRATOR_CANCEL_URL, the orchestrator is told of a cancel; here by its own broker."""

from collections.abc import Iterator
from typing import Any

import pytest

from devstack.redis_server import RedisServer
from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.conftest import NewStack
from tests.support.behaviours import Behaviour, Exchange, accept, hang, refuse, reset_after_read
from tests.support.client import ApiClient
from tests.support.job_handle import JobHandle
from tests.support.orchestrator import StubOrchestrator


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that only carries messages."""
    with RedisServer(tmp_path_factory.mktemp("broker")) as server:
        yield server


@pytest.fixture(scope="module")
def telling(
    new_stack: NewStack, orchestrator: StubOrchestrator, broker: RedisServer
) -> Iterator[Stack]:
    """A service that tells the orchestrator of cancels."""
    with new_stack(
        TAKEONE_ORCHESTRATOR_CANCEL_URL=orchestrator.url.replace("/dispatches", "/cancels"),
        TAKEONE_BROKER_URL=broker.url,
    ) as running:
        yield running


@pytest.fixture
def handle(telling: Stack, callback_secret: str) -> JobHandle:
    """A job in UPLOADED, of the service that tells."""
    return JobHandle.uploaded(ApiClient(telling.api_url, "alice"), callback_secret)


def told(orchestrator: StubOrchestrator, handle: JobHandle) -> list[dict[str, Any]]:
    """What the orchestrator was told of cancels of the job."""
    requests = orchestrator.requests_for(handle.id)
    return [request.json for request in requests if request.path == "/cancels"]


def noted(handle: JobHandle) -> list[str]:
    """What the trail says came of telling."""
    lines = [
        line for line in handle.trail() if line["event_type"] == "orchestrator.cancel_notified"
    ]
    assert all(line["actor_type"] == "system" for line in lines)
    assert all(line["dispatch_id"] == handle.run_id for line in lines)
    return [line["reason"] for line in lines]


def wait_until_noted(handle: JobHandle) -> list[str]:
    return wait_until(lambda: noted(handle), 30, "the trail says what came of it")


def on_cancel(behaviour: Behaviour) -> Behaviour:
    """Accept a dispatch, and behave so towards a cancel."""

    def behave(exchange: Exchange) -> None:
        (behaviour if exchange.request.path == "/cancels" else accept())(exchange)

    return behave


def test_the_orchestrator_is_told_which_dispatch_and_execution_to_stop(
    handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    handle.lead_to("AUDIO_EXTRACTING")
    handle.reported("AUDIO_READY", execution_id="execution-7")
    assert handle.client.cancel(handle.id).status_code == 200
    assert wait_until_noted(handle) == ["accepted"]
    assert told(orchestrator, handle) == [
        {"job_id": handle.id, "dispatch_id": handle.run_id, "execution_id": "execution-7"}
    ]
    assert handle.status == "CANCELLED"


def test_an_execution_that_is_not_known_is_not_named(
    handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[handle.id] = reset_after_read()
    assert handle.client.run(handle.id).status_code == 502
    orchestrator.behaviours[handle.id] = accept()
    handle.client.cancel(handle.id)
    assert wait_until_noted(handle) == ["accepted"]
    assert told(orchestrator, handle) == [{"job_id": handle.id, "dispatch_id": handle.run_id}]


@pytest.mark.parametrize(
    ("behaviour", "came_of_it"),
    [
        (refuse(404), "not_found"),
        (refuse(400), "refused"),
        (refuse(500), "no_answer"),
        (hang(0.2), "no_answer"),
    ],
)
def test_what_came_of_it_stands_on_the_trail_and_the_job_stays_cancelled(
    handle: JobHandle, orchestrator: StubOrchestrator, behaviour: Behaviour, came_of_it: str
) -> None:
    orchestrator.behaviours[handle.id] = on_cancel(behaviour)
    handle.lead_to("AUDIO_EXTRACTING")
    handle.client.cancel(handle.id)
    assert wait_until_noted(handle) == [came_of_it]
    assert handle.status == "CANCELLED"


def test_a_cancel_that_was_not_answered_is_told_again_until_it_is(
    handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[handle.id] = on_cancel(refuse(503))
    handle.lead_to("AUDIO_EXTRACTING")
    handle.client.cancel(handle.id)
    wait_until(lambda: len(told(orchestrator, handle)) >= 2, 15, "it is told again")
    orchestrator.behaviours[handle.id] = accept()
    wait_until(lambda: noted(handle)[-1:] == ["accepted"], 15, "it is told")
    assert noted(handle) == ["no_answer", "accepted"]


def test_a_job_that_was_never_sent_is_nothing_to_tell_of(
    handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    other = JobHandle.uploaded(handle.client, handle.secret).lead_to("AUDIO_EXTRACTING")
    handle.client.cancel(handle.id)
    other.client.cancel(other.id)
    wait_until_noted(other)
    assert (told(orchestrator, handle), noted(handle)) == ([], [])


def test_an_orchestrator_that_is_down_is_tried_a_few_times_and_that_is_noted(
    handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    handle.lead_to("AUDIO_EXTRACTING")
    orchestrator.stop()
    try:
        assert handle.client.cancel(handle.id).status_code == 200
        assert wait_until_noted(handle) == ["no_answer"]
    finally:
        orchestrator.start()


def test_a_cancel_stands_also_if_the_broker_cannot_carry_the_word_of_it(
    handle: JobHandle, broker: RedisServer
) -> None:
    handle.lead_to("AUDIO_EXTRACTING")
    broker.kill()
    try:
        answer = handle.client.cancel(handle.id)
    finally:
        broker.start()
    assert (answer.status_code, answer.json()["status"]) == (200, "CANCELLED")
    assert handle.client.cancel(handle.id).status_code == 409
