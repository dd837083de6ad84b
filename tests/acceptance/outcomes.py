"""What a run's answer and a job look like after each outcome of the table, on the shared stack."""

from typing import Any

import requests

from tests.support.client import ApiClient

HOLD_SECONDS = 2


def assert_failed(answer: requests.Response, reason: str, most_retry_after: int = 1) -> None:
    """A 502 in the contract's shape, with this reason and nothing else in it."""
    assert answer.status_code == 502
    assert answer.json() == {
        "code": "ORCHESTRATOR_DISPATCH_FAILED",
        "message": "It is not known whether the workflow was started."
        if reason == "outcome_unknown"
        else "The workflow could not be started.",
        "details": {"reason": reason},
    }
    assert 1 <= int(answer.headers["Retry-After"]) <= most_retry_after


def assert_unknown(answer: requests.Response) -> None:
    """A 502 that asks to come back when the hold is over."""
    assert_failed(answer, "outcome_unknown", most_retry_after=HOLD_SECONDS + 1)


def assert_accepted(answer: requests.Response, code: int = 202) -> None:
    """The dispatch stands."""
    assert answer.status_code == code
    assert answer.json()["status"] == "AUDIO_EXTRACTING"
    assert answer.json()["replayed"] is (code == 200)
    assert answer.headers["Location"] == f"/api/v1/jobs/{answer.json()['job_id']}"


def shown(client: ApiClient, job_id: str) -> tuple[str, str, str | None]:
    """The job's state, and its dispatch's phase and reason, as a reader sees them."""
    job: dict[str, Any] = client.job(job_id).json()
    return job["status"], job["dispatch"]["phase"], job["dispatch"]["reason"]
