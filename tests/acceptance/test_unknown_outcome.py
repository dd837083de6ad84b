"""How an unknown outcome ends: by the next run after the hold, or by a callback before the answer."""

import time

import pytest

from devstack.redis_server import RedisServer
from devstack.stack import Stack
from devstack.waiting import wait_until
from store import keys
from tests.acceptance.outcomes import (
    HOLD_SECONDS,
    assert_accepted,
    assert_dispatched,
    assert_unknown,
    shown,
)
from tests.support.behaviours import (
    Behaviour,
    accept,
    call_back_first,
    hang,
    in_turn,
    refuse,
    reset_after_read,
)
from tests.support.client import ApiClient, status_report
from tests.support.orchestrator import StubOrchestrator

AFTER_THE_CALLBACK: dict[str, Behaviour] = {
    "accepts": accept(),
    "answers 500": refuse(500),
    "answers 504": refuse(504),
    "resets": reset_after_read(),
    "stays silent": hang(),
}


def due(redis: RedisServer, job_id: str) -> float | None:
    """When the sweep will next process the job's claim (Unix time); None if never."""
    with redis.client() as client:
        return client.zscore(keys.DUE, job_id)


def test_after_the_hold_the_next_run_but_not_the_sweep_sends_again_under_the_same_id(
    alice: ApiClient, stack: Stack, job_id: str, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[job_id] = in_turn(reset_after_read(), accept())
    assert_unknown(alice.run(job_id))
    # The sweep has processed it after the hold and postponed it by an hour.
    wait_until(
        lambda: (due(stack.redis, job_id) or 0) > time.time() + 60,
        HOLD_SECONDS + 3,
        "the hold is over",
    )
    assert len(orchestrator.requests_for(job_id)) == 1
    assert shown(alice, job_id) == ("UPLOADED", "UNKNOWN", "outcome_unknown")
    assert_accepted(alice.run(job_id))
    assert_dispatched(orchestrator, job_id, times=2)
    assert shown(alice, job_id) == ("AUDIO_EXTRACTING", "SENT", None)


@pytest.mark.parametrize("case", AFTER_THE_CALLBACK)
def test_a_callback_before_the_answer_settles_the_dispatch_whatever_the_answer(
    case: str, alice: ApiClient, job_id: str, orchestrator: StubOrchestrator, callback_secret: str
) -> None:
    behaviour = AFTER_THE_CALLBACK[case]
    report = status_report("AUDIO_EXTRACTING")
    orchestrator.behaviours[job_id] = call_back_first(report, callback_secret, behaviour)
    assert_accepted(alice.run(job_id))
    (request,) = orchestrator.requests_for(job_id)
    callback = wait_until(lambda: request.callbacks, 30, "the callback is answered")[0]
    assert callback.status_code == 204
    assert shown(alice, job_id) == ("AUDIO_EXTRACTING", "SENT", None)
    assert_accepted(alice.run(job_id), code=200)
    assert len(orchestrator.requests_for(job_id)) == 1
