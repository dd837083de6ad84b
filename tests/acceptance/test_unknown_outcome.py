"""How an unknown outcome ends: by a callback, by the next run after the hold, or by itself."""

import time

import pytest

from devstack.redis_server import RedisServer
from devstack.stack import Stack
from devstack.waiting import wait_until
from store import keys
from tests.acceptance.outcomes import HOLD_SECONDS, assert_accepted, assert_unknown, shown
from tests.support import behaviours as told
from tests.support.behaviours import Behaviour
from tests.support.client import ApiClient, status_report
from tests.support.orchestrator import StubOrchestrator

AFTER_THE_CALLBACK: dict[str, Behaviour] = {
    "accepts": told.accept(),
    "answers 500": told.refuse(500),
    "answers 504": told.refuse(504),
    "resets": told.reset_after_read(),
    "stays silent": told.hang(),
}


def due(redis: RedisServer, job_id: str) -> float | None:
    """When the sweep will look at the job's claim (seconds since 1970); None if it never will."""
    with redis.client() as client:
        return client.zscore(keys.DUE, job_id)


def test_after_the_hold_the_next_run_and_not_the_sweep_sends_again_under_the_same_id(
    alice: ApiClient, stack: Stack, job_id: str, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[job_id] = told.in_turn(told.reset_after_read(), told.accept())
    assert_unknown(alice.run(job_id))
    # The sweep has looked at it after the hold, and let it be for an hour.
    wait_until(
        lambda: (due(stack.redis, job_id) or 0) > time.time() + 60,
        HOLD_SECONDS + 3,
        "the hold is over",
    )
    assert len(orchestrator.requests_for(job_id)) == 1
    assert shown(alice, job_id) == ("UPLOADED", "UNKNOWN", "outcome_unknown")
    assert_accepted(alice.run(job_id))
    ids = [request.dispatch_id for request in orchestrator.requests_for(job_id)]
    assert ids == [f"run-{job_id}"] * 2
    assert shown(alice, job_id) == ("AUDIO_EXTRACTING", "SENT", None)


def test_a_callback_proves_the_dispatch_and_nothing_is_sent_again(
    alice: ApiClient, job_id: str, orchestrator: StubOrchestrator, callback_secret: str
) -> None:
    orchestrator.behaviours[job_id] = told.reset_after_read()
    assert_unknown(alice.run(job_id))
    report = status_report("AUDIO_EXTRACTING")
    assert alice.callback(job_id, callback_secret, report).status_code == 204
    assert shown(alice, job_id) == ("AUDIO_EXTRACTING", "SENT", None)
    assert_accepted(alice.run(job_id), code=200)
    assert len(orchestrator.requests_for(job_id)) == 1
    trail = [event["event_type"] for event in alice.events(job_id).json()["items"]]
    assert trail[-2:] == ["dispatch.proved", "job.status_changed"]


@pytest.mark.parametrize("case", AFTER_THE_CALLBACK)
def test_a_callback_before_the_answer_settles_it_and_the_answer_changes_nothing(
    case: str,
    alice: ApiClient,
    job_id: str,
    orchestrator: StubOrchestrator,
    callback_secret: str,
) -> None:
    behaviour = AFTER_THE_CALLBACK[case]
    report = status_report("AUDIO_EXTRACTING")
    orchestrator.behaviours[job_id] = told.call_back_first(report, callback_secret, behaviour)
    assert_accepted(alice.run(job_id))
    (request,) = orchestrator.requests_for(job_id)
    callback = wait_until(lambda: request.callbacks, 30, "the callback is answered")[0]
    assert callback.status_code == 204
    assert shown(alice, job_id) == ("AUDIO_EXTRACTING", "SENT", None)
    assert_accepted(alice.run(job_id), code=200)
    assert len(orchestrator.requests_for(job_id)) == 1


def test_a_run_that_waits_hears_of_the_callback_and_not_only_of_the_answer(
    alice: ApiClient, job_id: str, orchestrator: StubOrchestrator, callback_secret: str
) -> None:
    report = status_report("AUDIO_EXTRACTING")
    silent = told.call_back_first(report, callback_secret, told.hang())
    orchestrator.behaviours[job_id] = silent
    answer = alice.run(job_id)
    assert_accepted(answer)
    assert answer.elapsed.total_seconds() < 1.5  # the exchange itself goes on for 2 s
