"""Story 2.2, "Start workflow run for an upload-confirmed job": its six criteria and two findings."""

from typing import Any
from uuid import uuid4

import pytest

from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.acceptance import stored
from tests.acceptance.outcomes import assert_dispatched
from tests.support.behaviours import refuse
from tests.support.client import ApiClient, status_report
from tests.support.job_handle import WAY, JobHandle
from tests.support.orchestrator import StubOrchestrator

LATER_STATES = [state for state in WAY if state not in ("DONE", "FAILED")]


def assert_refused(
    alice: ApiClient, job_id: str, code: str, current: str, allowed: set[str]
) -> None:
    """A run is a 409 with the current state and the states allowed next, and changes nothing."""
    answer = alice.run(job_id)
    assert answer.status_code == 409
    error = answer.json()
    allowed_next = error["details"].pop("allowed_next_statuses")
    assert (error["code"], set(allowed_next)) == (code, allowed)
    assert error["details"] == {"current_status": current, "attempted_status": "AUDIO_EXTRACTING"}
    assert alice.job(job_id).json()["status"] == current


def test_ac1_a_run_of_an_owned_uploaded_job_is_accepted_and_dispatched_exactly_once(
    alice: ApiClient, job_id: str, orchestrator: StubOrchestrator
) -> None:
    answer = alice.run(job_id)
    assert answer.status_code == 202
    assert answer.json() == {
        "job_id": job_id,
        "status": "AUDIO_EXTRACTING",
        "dispatch_id": f"run-{job_id}",
        "replayed": False,
    }
    assert answer.headers["Location"] == f"/api/v1/jobs/{job_id}"
    assert [request.method for request in orchestrator.requests_for(job_id)] == ["POST"]
    assert alice.job(job_id).json()["status"] == "AUDIO_EXTRACTING"


def test_ac1_a_run_of_another_users_job_is_404_and_dispatches_nothing(
    alice: ApiClient, bob: ApiClient, job_id: str, stack: Stack, orchestrator: StubOrchestrator
) -> None:
    answer, nothing = bob.run(job_id), bob.run(str(uuid4()))
    assert (answer.status_code, answer.content) == (404, nothing.content)
    assert answer.json()["code"] == "RESOURCE_NOT_FOUND"
    assert stored.claim(stack.redis, job_id) is None
    assert orchestrator.requests_for(job_id) == []
    assert alice.job(job_id).json()["status"] == "UPLOADED"


def test_ac2_a_run_of_a_job_without_upload_is_refused_and_dispatches_nothing(
    alice: ApiClient, stack: Stack, orchestrator: StubOrchestrator
) -> None:
    project = alice.create_project().json()
    job_id = alice.create_job(project["id"]).json()["id"]
    allowed = {"UPLOADING", "UPLOADED", "CANCELLED"}
    assert_refused(alice, job_id, "FSM_TRANSITION_INVALID", "CREATED", allowed)
    stored.edit_job(stack.redis, job_id, lambda job: job.update(status="UPLOADING"))
    allowed = {"UPLOADED", "CANCELLED"}
    assert_refused(alice, job_id, "FSM_TRANSITION_INVALID", "UPLOADING", allowed)
    assert stored.claim(stack.redis, job_id) is None
    assert orchestrator.requests_for(job_id) == []


@pytest.mark.parametrize("state", ["DONE", "FAILED"])
def test_ac2_a_run_of_a_job_that_has_ended_is_refused_and_dispatches_nothing(
    state: str, alice: ApiClient, job_id: str, callback_secret: str, orchestrator: StubOrchestrator
) -> None:
    JobHandle(alice, job_id, callback_secret).lead_to(state)
    assert_refused(alice, job_id, "FSM_TERMINAL_IMMUTABLE", state, set())
    assert len(orchestrator.requests_for(job_id)) == 1


def test_ac2_a_run_of_a_cancelled_job_is_refused_and_dispatches_nothing(
    alice: ApiClient, stack: Stack, job_id: str, orchestrator: StubOrchestrator
) -> None:
    assert alice.cancel(job_id).status_code == 200
    assert_refused(alice, job_id, "FSM_TERMINAL_IMMUTABLE", "CANCELLED", set())
    assert stored.claim(stack.redis, job_id) is None
    assert orchestrator.requests_for(job_id) == []


@pytest.mark.parametrize("state", LATER_STATES)
def test_ac3_a_run_in_any_later_state_replays_the_dispatch(
    state: str, alice: ApiClient, job_id: str, callback_secret: str, orchestrator: StubOrchestrator
) -> None:
    JobHandle(alice, job_id, callback_secret).lead_to(state)
    for _ in range(3):
        answer = alice.run(job_id)
        assert answer.status_code == 200
        assert answer.headers["Location"] == f"/api/v1/jobs/{job_id}"
        assert answer.json() == {
            "job_id": job_id,
            "status": state,
            "dispatch_id": f"run-{job_id}",
            "replayed": True,
        }
    assert len(orchestrator.requests_for(job_id)) == 1


def test_ac4_the_dispatch_has_the_four_fields_its_id_and_the_idempotency_key(
    alice: ApiClient, stack: Stack, orchestrator: StubOrchestrator
) -> None:
    job = alice.uploaded_job("s3://studio/take one/ä?version=7#end".replace(" ", "%20"))
    dispatch_id = alice.run(job["id"]).json()["dispatch_id"]
    (request,) = orchestrator.requests_for(job["id"])
    assert request.json == {
        "job_id": job["id"],
        "project_id": job["project_id"],
        "video_uri": "s3://studio/take%20one/ä?version=7#end",
        "callback_url": f"{stack.api_url}/api/v1/internal/jobs/{job['id']}/status",
        "dispatch_id": dispatch_id,
    }
    assert request.dispatch_id == dispatch_id
    assert request.headers["content-type"] == "application/json"


def test_ac5_a_failed_dispatch_is_a_502_and_the_job_can_be_run_again(
    alice: ApiClient, stack: Stack, job_id: str, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[job_id] = refuse(500)
    answer = alice.run(job_id)
    assert answer.status_code == 502
    assert answer.json()["code"] == "ORCHESTRATOR_DISPATCH_FAILED"
    assert answer.json()["details"] == {"reason": "refused"}
    assert int(answer.headers["Retry-After"]) >= 1
    assert alice.job(job_id).json()["status"] == "UPLOADED"
    assert stored.claim(stack.redis, job_id) is None
    del orchestrator.behaviours[job_id]
    assert alice.run(job_id).status_code == 202
    assert_dispatched(orchestrator, job_id, times=2)


def test_ac6_logs_hold_no_secret_and_no_user_input(
    stack: Stack, orchestrator: StubOrchestrator, callback_secret: str
) -> None:
    mark = uuid4().hex
    user, transcript = f"user-{mark}", f"transcript text {mark}"
    editor = ApiClient(stack.api_url, user)
    job = editor.uploaded_job(f"s3://studio/{mark}.mp4")
    orchestrator.behaviours[job["id"]] = refuse(500, transcript.encode())
    assert editor.run(job["id"], headers={"X-Request-Id": mark}).status_code == 502
    del orchestrator.behaviours[job["id"]]
    assert editor.run(job["id"], headers={"X-Request-Id": mark}).status_code == 202
    report = status_report("AUDIO_READY", artifact_updates={"transcript_uri": transcript})
    assert editor.callback(job["id"], callback_secret, report).status_code == 204
    for process in stack.processes:
        wait_until(lambda process=process: job["id"] in process.log(), 10, f"{process.name} logs")
    logs = "".join(process.log() for process in stack.processes)
    assert mark not in logs
    assert callback_secret not in logs


@pytest.mark.parametrize("state", LATER_STATES)
def test_finding_high_a_run_outside_uploaded_never_dispatches_even_without_a_claim(
    state: str,
    alice: ApiClient,
    stack: Stack,
    job_id: str,
    callback_secret: str,
    orchestrator: StubOrchestrator,
) -> None:
    JobHandle(alice, job_id, callback_secret).lead_to(state)
    stored.lose_claim(stack.redis, job_id)
    answer = alice.run(job_id)
    assert answer.status_code == 409
    error = answer.json()
    assert error["code"] == "FSM_TRANSITION_INVALID"
    assert error["details"]["current_status"] == state
    assert error["details"]["attempted_status"] == "AUDIO_EXTRACTING"
    assert stored.claim(stack.redis, job_id) is None
    assert len(orchestrator.requests_for(job_id)) == 1


@pytest.mark.parametrize("video_uri", [None, ""])
def test_finding_medium_a_job_without_a_video_uri_is_never_dispatched(
    video_uri: str | None,
    alice: ApiClient,
    stack: Stack,
    job_id: str,
    orchestrator: StubOrchestrator,
) -> None:
    def drift(job: dict[str, Any]) -> None:
        job["manifest"] = {} if video_uri is None else {"video_uri": video_uri}

    stored.edit_job(stack.redis, job_id, drift)
    allowed = {"AUDIO_EXTRACTING", "CANCELLED"}
    assert_refused(alice, job_id, "FSM_TRANSITION_INVALID", "UPLOADED", allowed)
    assert stored.claim(stack.redis, job_id) is None
    assert orchestrator.requests_for(job_id) == []
