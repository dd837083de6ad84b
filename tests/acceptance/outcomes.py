"""Checks of answers, of jobs and of dispatches, and readers of lists."""

from collections.abc import Collection
from typing import Any

import requests

from tests.support.client import ApiClient
from tests.support.orchestrator import StubOrchestrator

HOLD_SECONDS = 2


def assert_failed(answer: requests.Response, reason: str, most_retry_after: int = 1) -> None:
    """A 502 in the contract's shape with this reason and no other detail."""
    message = "The workflow could not be started."
    if reason == "outcome_unknown":
        message = "It is not known whether the workflow was started."
    status, code, details = not_dispatched(reason)
    assert answer.status_code == status
    assert answer.json() == {"code": code, "message": message, "details": details}
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


def assert_invalid(answer: requests.Response, fields: Collection[str]) -> None:
    """A 400 that names exactly these fields."""
    assert (answer.status_code, answer.json()["code"]) == (400, "VALIDATION_ERROR")
    assert answer.json()["details"].keys() == set(fields)


def already_running(current: str) -> tuple[int, str, dict[str, str]]:
    """The refusal of a call while a dispatch of the job is in flight or running."""
    return 409, "JOB_ALREADY_RUNNING", {"current_status": current}


def not_dispatched(reason: str) -> tuple[int, str, dict[str, str]]:
    """The refusal of a run or retry whose dispatch failed."""
    return 502, "ORCHESTRATOR_DISPATCH_FAILED", {"reason": reason}


def assert_dispatched(orchestrator: StubOrchestrator, job_id: str, times: int) -> None:
    """The orchestrator received this many dispatches of the job's run, all under the run's id."""
    ids = [request.dispatch_id for request in orchestrator.requests_for(job_id)]
    assert ids == [f"run-{job_id}"] * times


def every_page(client: ApiClient, path: str, **query: Any) -> list[list[dict[str, Any]]]:
    """All pages of a list, each with its items."""
    pages, cursor = [], {}
    while len(pages) < 50:
        answer = client.get(path, params={**query, **cursor})
        assert answer.status_code == 200, answer.text
        pages.append(answer.json()["items"])
        if answer.json()["next_cursor"] is None:
            return pages
        cursor = {"cursor": answer.json()["next_cursor"]}
    raise AssertionError("more than 50 pages")


def shown(client: ApiClient, job_id: str) -> tuple[str, str, str | None]:
    """The job's state, and its dispatch's phase and reason."""
    job: dict[str, Any] = client.job(job_id).json()
    return job["status"], job["dispatch"]["phase"], job["dispatch"]["reason"]
