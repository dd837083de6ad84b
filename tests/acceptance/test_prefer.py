"""`Prefer` (RFC 7240) on run: how long the caller waits for the outcome."""

import pytest

from devstack.waiting import wait_until
from tests.acceptance.outcomes import assert_accepted, shown
from tests.support.behaviours import accept
from tests.support.client import ApiClient
from tests.support.orchestrator import StubOrchestrator

MOST_SECONDS = "6"  # TAKEONE_RUN_WAIT_SECONDS of the shared stack
SENT = ("AUDIO_EXTRACTING", "SENT", None)

INVALID = [
    "", "wait", "wait=", "wait=soon", "wait=-1", "wait=1.5", "wait=٣", "handling=strict",
    "return=minimal; wait=1", ",;=,;=", "x" * 4000,
]  # fmt: skip


@pytest.mark.parametrize("prefer", ["respond-async", "RESPOND-ASYNC", "wait=0", "return=x, wait=0"])
def test_a_caller_that_does_not_wait_is_answered_at_once_and_follows_the_job(
    prefer: str, alice: ApiClient, job_id: str, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[job_id] = accept(after=1.0)
    first = alice.run(job_id, headers={"Prefer": prefer})
    joiner = alice.run(job_id, headers={"Prefer": prefer})
    applied = prefer.rpartition(", ")[2].lower()
    for answer, code in ((first, 202), (joiner, 200)):
        assert answer.status_code == code
        assert answer.elapsed.total_seconds() < 0.9
        assert answer.headers["Location"] == f"/api/v1/jobs/{job_id}"
        assert answer.headers["Preference-Applied"] == applied
        body = answer.json()
        assert (body["status"], body["replayed"]) == ("UPLOADED", code == 200)
        assert body["dispatch_id"] == f"run-{job_id}"
    wait_until(lambda: shown(alice, job_id) == SENT, 30, "the job shows the outcome")
    assert len(orchestrator.requests_for(job_id)) == 1


def test_a_wait_that_ends_before_the_outcome_is_202_for_the_first_caller_and_200_for_a_joiner(
    alice: ApiClient, job_id: str, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[job_id] = accept(after=1.7)
    first = alice.run(job_id, headers={"Prefer": "wait=1"})
    assert 1.0 <= first.elapsed.total_seconds() < 1.6
    assert first.status_code == 202
    assert first.json()["status"] == "UPLOADED"
    assert first.headers["Preference-Applied"] == "wait=1"
    joiner = alice.run(job_id)
    assert_accepted(joiner, code=200)
    assert "Preference-Applied" not in joiner.headers


@pytest.mark.parametrize(
    ("prefer", "applied"),
    [
        ('respond-async, wait="5"', "respond-async, wait=5"),
        (f"wait={'9' * 40}", f"wait={MOST_SECONDS}"),
    ],
)
def test_a_wait_up_to_the_services_limit_returns_the_outcome(
    prefer: str, applied: str, alice: ApiClient, job_id: str
) -> None:
    answer = alice.run(job_id, headers={"Prefer": prefer})
    assert_accepted(answer)
    assert answer.headers["Preference-Applied"] == applied


@pytest.mark.parametrize("prefer", INVALID)
def test_an_invalid_preference_is_ignored(prefer: str, alice: ApiClient, job_id: str) -> None:
    answer = alice.run(job_id, headers={"Prefer": prefer.encode()})
    assert_accepted(answer)
    assert "Preference-Applied" not in answer.headers
