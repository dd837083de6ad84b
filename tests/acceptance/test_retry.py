"""Retry: a failed job resumes from its furthest checkpoint, once for each client_request_id."""

from typing import Any

import pytest

from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.acceptance.conftest import InThread
from tests.acceptance.outcomes import already_running, assert_invalid, not_dispatched
from tests.support import openapi
from tests.support.behaviours import accept, hang, in_turn, refuse, reset_after_read
from tests.support.client import ApiClient
from tests.support.job_handle import WAY, JobHandle, at_once, forbidden_step, refusal
from tests.support.log_lines import wait_for_line
from tests.support.orchestrator import StubOrchestrator

VIDEO = "s3://studio/interview.mp4"
# The reference of each checkpoint, and the first state that its retry reports.
CHECKPOINTS = {
    "UPLOADED": (VIDEO, "AUDIO_EXTRACTING"),
    "AUDIO_READY": ("s3://a", "TRANSCRIBING"),
    "TRANSCRIPT_READY": ("s3://t", "GENERATING"),
    "DRAFT_READY": ("s3://d", "EDITING"),
}
MISMATCH = (409, "CLIENT_REQUEST_MISMATCH", None)
RUNNING = ("AUDIO_EXTRACTING", "TRANSCRIBING", "GENERATING", "REGENERATING", "EXPORTING")


@pytest.fixture
def failed(handle: JobHandle) -> JobHandle:
    """A job that failed in its transcription, with its audio ready."""
    handle.lead_to("AUDIO_EXTRACTING")
    handle.reported("AUDIO_READY", artifact_updates={"audio_uri": "s3://a"})
    handle.reported("TRANSCRIBING")
    handle.reported("FAILED", failure_code="ASR", failure_message="silence")
    return handle


def not_allowed(current: str) -> tuple[int, str, dict[str, str]]:
    details = {"current_status": current, "attempted_status": "REGENERATING"}
    return 409, "RETRY_NOT_ALLOWED_STATE", details


def test_a_retry_is_dispatched_once_with_where_to_resume(
    failed: JobHandle, orchestrator: StubOrchestrator, stack: Stack
) -> None:
    answer = failed.retry("r1", "quality")
    assert answer.status_code == 202
    body = answer.json()
    dispatch_id = body["dispatch_id"]
    assert dispatch_id.startswith(f"retry-{failed.id}-")
    assert len(dispatch_id) <= 63
    assert body == {
        "job_id": failed.id,
        "status": "FAILED",
        "resume_from_status": "AUDIO_READY",
        "checkpoint_ref": "s3://a",
        "model_profile": "quality",
        "dispatch_id": dispatch_id,
        "replayed": False,
    }
    _, request = orchestrator.requests_for(failed.id)
    assert request.json == {
        "job_id": failed.id,
        "project_id": failed.shown()["project_id"],
        "video_uri": VIDEO,
        "callback_url": f"{stack.api_url}/api/v1/internal/jobs/{failed.id}/status",
        "resume_from_status": "AUDIO_READY",
        "checkpoint_ref": "s3://a",
        "model_profile": "quality",
        "dispatch_id": dispatch_id,
    }
    assert request.dispatch_id == dispatch_id
    openapi.check_webhook("retry", request.json, request.headers)
    assert (failed.dispatch["kind"], failed.dispatch["phase"]) == ("retry", "SENT")
    assert failed.status == "FAILED"
    assert failed.shown()["failure"]["code"] == "ASR", "the first callback clears it"


@pytest.mark.parametrize(
    ("artifacts", "checkpoint"),
    [
        ({}, "UPLOADED"),
        ({"waveform": "s3://w", "exports": ["s3://e"]}, "UPLOADED"),
        ({"audio_uri": "s3://a"}, "AUDIO_READY"),
        ({"transcript_uri": "s3://t"}, "TRANSCRIPT_READY"),
        ({"audio_uri": "s3://a", "transcript_uri": "s3://t"}, "TRANSCRIPT_READY"),
        ({"draft_uri": "s3://d", "audio_uri": "s3://a"}, "DRAFT_READY"),
    ],
)
def test_a_retry_resumes_from_the_furthest_checkpoint_with_an_artifact(
    handle: JobHandle, artifacts: dict[str, Any], checkpoint: str
) -> None:
    handle.lead_to("AUDIO_EXTRACTING").reported("FAILED", artifact_updates=artifacts)
    body = handle.retry("r1").json()
    reference, first_step = CHECKPOINTS[checkpoint]
    assert (body["resume_from_status"], body["checkpoint_ref"]) == (checkpoint, reference)
    handle.reported(first_step)
    assert handle.status == first_step


@pytest.mark.parametrize("status", ["UPLOADED", *(status for status in WAY if status != "FAILED")])
def test_a_job_that_has_not_failed_cannot_be_retried(
    handle: JobHandle, orchestrator: StubOrchestrator, status: str
) -> None:
    if status != "UPLOADED":
        handle.lead_to(status)
    before = handle.everything()
    expected = already_running(status) if status in RUNNING else not_allowed(status)
    assert refusal(handle.retry("r1")) == expected
    assert handle.everything() == before
    sent = [request.json for request in orchestrator.requests_for(handle.id)]
    assert not any("resume_from_status" in dispatch for dispatch in sent)


def test_a_job_that_was_never_uploaded_cannot_be_retried(
    alice: ApiClient, callback_secret: str
) -> None:
    job_id = alice.create_job(alice.create_project().json()["id"]).json()["id"]
    handle = JobHandle(alice, job_id, callback_secret)
    assert refusal(handle.retry("r1")) == not_allowed("CREATED")
    handle.reported("UPLOADING")
    assert refusal(handle.retry("r1")) == not_allowed("UPLOADING")


def test_a_job_with_a_run_in_flight_is_already_running(unknown: JobHandle) -> None:
    assert refusal(unknown.retry("r1")) == already_running("UPLOADED")


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({"client_request_id": "r", "model_profile": "best"}, {"model_profile"}),
        ({"client_request_id": "r" * 129, "model_profile": "fast"}, {"client_request_id"}),
        ({}, {"client_request_id", "model_profile"}),
    ],
)
def test_an_invalid_body_is_refused_field_by_field(
    failed: JobHandle, body: dict[str, Any], wrong: set[str]
) -> None:
    assert_invalid(failed.client.post(f"/jobs/{failed.id}/retry", body), wrong)


def test_a_repeated_request_is_a_replay_in_any_later_state(
    failed: JobHandle, orchestrator: StubOrchestrator
) -> None:
    first = failed.retry("r1").json()
    for steps in ((), ("TRANSCRIBING",), ("FAILED",)):
        failed.reported(*steps)
        before = failed.everything()
        again = failed.retry("r1")
        assert again.status_code == 200
        assert again.json() == {**first, "status": failed.status, "replayed": True}
        assert refusal(failed.retry("r1", "fast")) == MISMATCH
        assert failed.everything() == before
    assert failed.retry("r2").status_code == 202
    assert failed.retry("r1").json()["dispatch_id"] == first["dispatch_id"]
    assert len(orchestrator.requests_for(failed.id)) == 3


def test_concurrent_equal_retries_make_one_dispatch(
    failed: JobHandle, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[failed.id] = accept(after=0.2)
    answers = at_once(8, lambda _: failed.retry("r1"))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [202]
    assert len({answer.json()["dispatch_id"] for answer in answers}) == 1
    assert len(orchestrator.requests_for(failed.id)) == 2


def test_one_of_several_concurrent_retries_is_dispatched(
    failed: JobHandle, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[failed.id] = accept(after=0.2)
    answers = at_once(6, lambda number: failed.retry(f"r{number}"))
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 5
    refused = [refusal(answer) for answer in answers if answer.status_code == 409]
    assert refused == [already_running("FAILED")] * 5
    assert len(orchestrator.requests_for(failed.id)) == 2


def test_no_other_retry_is_admitted_until_the_first_one_has_ended(
    failed: JobHandle, orchestrator: StubOrchestrator, in_thread: InThread
) -> None:
    orchestrator.behaviours[failed.id] = accept(after=0.5)
    first = in_thread(failed.retry, "r1")
    orchestrator.wait_for_requests(failed.id, 2)
    assert failed.dispatch["phase"] == "SENDING"
    assert refusal(failed.retry("r2")) == already_running("FAILED")
    assert refusal(failed.retry("r1", "fast")) == MISMATCH
    assert first.result(30).status_code == 202
    assert refusal(failed.retry("r2")) == already_running("FAILED")
    failed.reported("TRANSCRIBING")
    assert refusal(failed.retry("r2")) == already_running("TRANSCRIBING")


def test_a_refused_retry_can_be_repeated_with_another_profile(
    failed: JobHandle, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[failed.id] = in_turn(refuse(500), accept())
    assert refusal(failed.retry("r1")) == not_dispatched("refused")
    assert (failed.status, failed.dispatch["phase"]) == ("FAILED", "RELEASED")
    assert failed.shown()["failure"]["code"] == "ASR"
    again = failed.retry("r1", "fast")
    assert (again.status_code, again.json()["model_profile"]) == (202, "fast")
    first, second = orchestrator.requests_for(failed.id)[1:]
    assert first.dispatch_id == second.dispatch_id
    assert second.json["model_profile"] == "fast"


def test_a_refused_retry_can_be_followed_by_another_request(
    failed: JobHandle, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[failed.id] = in_turn(refuse(404), accept())
    assert refusal(failed.retry("r1")) == not_dispatched("unknown_workflow")
    assert failed.retry("r2").status_code == 202


def test_a_retry_that_was_not_started_ignores_late_callbacks(
    failed: JobHandle, orchestrator: StubOrchestrator
) -> None:
    orchestrator.stop()
    try:
        assert refusal(failed.retry("r1")) == not_dispatched("not_started")
    finally:
        orchestrator.start()
    # No execution of the retry can exist, so this report is a late one of the run.
    assert refusal(failed.report("TRANSCRIBING")) == forbidden_step("FAILED", "TRANSCRIBING")
    assert failed.retry("r1").status_code == 202


def test_the_first_callback_of_a_retry_is_a_step_from_the_checkpoint(failed: JobHandle) -> None:
    failed.retry("r1")
    for attempted in ("GENERATING", "AUDIO_EXTRACTING", "AUDIO_READY", "DONE"):
        status, code, details = refusal(failed.report(attempted))
        assert (status, code) == (409, "FSM_TRANSITION_INVALID")
        assert details["allowed_next_statuses"] == ["TRANSCRIBING", "FAILED", "CANCELLED"]
    assert failed.status == "FAILED"
    failed.reported("TRANSCRIBING")
    job = failed.shown()
    assert (job["status"], job["failure"]) == ("TRANSCRIBING", None)
    assert failed.trail()[-1]["prev_status"] == "FAILED"


def test_a_retried_job_follows_the_usual_states(failed: JobHandle) -> None:
    failed.retry("r1")
    failed.reported("TRANSCRIBING", "TRANSCRIPT_READY", "GENERATING", "DRAFT_READY", "EDITING")
    failed.reported("EXPORTING", "DONE")
    assert refusal(failed.report("EDITING")) == forbidden_step("DONE", "EDITING")
    assert refusal(failed.retry("r2")) == not_allowed("DONE")


def test_a_failed_retry_can_be_followed_by_the_next(failed: JobHandle) -> None:
    ids = set()
    for number in range(3):
        answer = failed.retry(f"r{number}")
        assert answer.status_code == 202
        ids.add(answer.json()["dispatch_id"])
        failed.reported("FAILED", failure_code=f"F{number}")
        assert failed.shown()["failure"]["code"] == f"F{number}"
        assert refusal(failed.report("TRANSCRIBING")) == forbidden_step("FAILED", "TRANSCRIBING")
    assert len(ids) == 3


def test_a_later_retry_resumes_from_the_artifacts_of_an_earlier_one(failed: JobHandle) -> None:
    failed.retry("r1")
    failed.reported("TRANSCRIBING")
    failed.reported("TRANSCRIPT_READY", artifact_updates={"transcript_uri": "s3://t"})
    failed.reported("GENERATING", "FAILED")
    body = failed.retry("r2").json()
    assert (body["resume_from_status"], body["checkpoint_ref"]) == ("TRANSCRIPT_READY", "s3://t")
    assert failed.retry("r1").json()["resume_from_status"] == "AUDIO_READY"


def test_run_after_a_retry_replays_the_run(
    failed: JobHandle, orchestrator: StubOrchestrator
) -> None:
    terminal = forbidden_step("FAILED", "AUDIO_EXTRACTING")
    assert refusal(failed.client.run(failed.id)) == terminal
    failed.retry("r1")
    assert refusal(failed.client.run(failed.id)) == terminal
    failed.reported("TRANSCRIBING")
    answer = failed.client.run(failed.id)
    assert (answer.status_code, answer.json()["dispatch_id"]) == (200, failed.run_id)
    assert len(orchestrator.requests_for(failed.id)) == 2


def test_a_callback_while_a_retry_is_sent_answers_its_caller_at_once(
    failed: JobHandle, stack: Stack, orchestrator: StubOrchestrator, in_thread: InThread
) -> None:
    orchestrator.behaviours[failed.id] = refuse(500, after=0.5)
    first = in_thread(failed.retry, "r1")
    orchestrator.wait_for_requests(failed.id, 2)
    failed.reported("TRANSCRIBING")
    answer = first.result(1)
    assert (answer.status_code, answer.json()["status"]) == (202, "TRANSCRIBING")
    wait_for_line(stack.workers[0], "dispatch.refused", failed.id)
    assert (failed.status, failed.dispatch["phase"]) == ("TRANSCRIBING", "SENT")


def test_a_callback_proves_a_refused_retry(
    failed: JobHandle, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[failed.id] = refuse(500)
    assert refusal(failed.retry("r1")) == not_dispatched("refused")
    failed.reported("TRANSCRIBING")
    again = failed.retry("r1")
    assert (again.status_code, again.json()["status"]) == (200, "TRANSCRIBING")
    assert len(orchestrator.requests_for(failed.id)) == 2


def test_a_retry_with_an_unknown_outcome_is_held_and_proved_by_a_callback(
    failed: JobHandle, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[failed.id] = reset_after_read()
    answer = failed.retry("r1")
    assert refusal(answer) == not_dispatched("outcome_unknown")
    assert int(answer.headers["Retry-After"]) >= 1
    assert refusal(failed.retry("r1")) == not_dispatched("outcome_unknown")
    assert refusal(failed.retry("r1", "fast")) == MISMATCH
    assert refusal(failed.retry("r2")) == already_running("FAILED")
    assert len(orchestrator.requests_for(failed.id)) == 2
    failed.reported("TRANSCRIBING")
    assert failed.dispatch["phase"] == "SENT"
    assert failed.retry("r1").status_code == 200
    assert len(orchestrator.requests_for(failed.id)) == 2


def test_after_the_hold_a_repeated_retry_is_sent_again_under_its_id(
    failed: JobHandle, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[failed.id] = in_turn(reset_after_read(), accept())
    assert refusal(failed.retry("r1")) == not_dispatched("outcome_unknown")
    answer = wait_until(
        lambda: (again := failed.retry("r1")).status_code == 202 and again, 6, "the hold is over"
    )
    ids = {request.dispatch_id for request in orchestrator.requests_for(failed.id)[1:]}
    assert ids == {answer.json()["dispatch_id"]}
    assert len(orchestrator.requests_for(failed.id)) == 3
    assert failed.event_types().count("dispatch.resent") == 1


def test_a_retry_can_be_made_without_waiting(
    failed: JobHandle, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[failed.id] = hang(0.3)
    answer = failed.client.retry(failed.id, "r1", headers={"Prefer": "respond-async"})
    assert (answer.status_code, answer.json()["status"]) == (202, "FAILED")
    assert answer.headers["Location"] == f"/api/v1/jobs/{failed.id}"
    wait_until(lambda: failed.dispatch["phase"] == "UNKNOWN", 30, "the outcome is unknown")


def test_a_resumed_job_can_be_cancelled(failed: JobHandle) -> None:
    failed.retry("r1")
    assert refusal(failed.client.cancel(failed.id)) == forbidden_step("FAILED", "CANCELLED")
    failed.reported("TRANSCRIBING")
    assert failed.client.cancel(failed.id).status_code == 200
    assert failed.retry("r1").status_code == 200
