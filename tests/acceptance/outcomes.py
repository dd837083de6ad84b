"""What the answer to a run and the job look like after each outcome of a dispatch."""

from typing import Any

import requests

from tests.support.client import ApiClient

HOLD_SECONDS = 2


def assert_failed(answer: requests.Response, reason: str, most_retry_after: int = 1) -> None:
    """A 502 in the contract's shape with this reason and no other detail."""
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
    """A 502 whose Retry-After is within the hold of the shared stack."""
    assert_failed(answer, "outcome_unknown", most_retry_after=HOLD_SECONDS + 1)


def assert_accepted(answer: requests.Response, code: int = 202) -> None:
    """A 202 for the call that made the dispatch, or a 200 for a replay."""
    assert answer.status_code == code
    assert answer.json()["status"] == "AUDIO_EXTRACTING"
    assert answer.json()["replayed"] is (code == 200)
    assert answer.headers["Location"] == f"/api/v1/jobs/{answer.json()['job_id']}"


def shown(client: ApiClient, job_id: str) -> tuple[str, str, str | None]:
    """The job's state, and its dispatch's phase and reason."""
    job: dict[str, Any] = client.job(job_id).json()
    return job["status"], job["dispatch"]["phase"], job["dispatch"]["reason"]
