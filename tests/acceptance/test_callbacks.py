"""The status callback: authentication, replays, order, and the steps that the states allow."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import pytest
import requests

from devstack.stack import Stack
from tests.acceptance.outcomes import assert_invalid
from tests.conftest import CALLBACK_SECRETS
from tests.support.client import ApiClient, now, status_report
from tests.support.job_handle import WAY, JobHandle, at_once, forbidden_step, refusal

Headers = dict[str, str | bytes]


@pytest.fixture
def handle(handle: JobHandle) -> JobHandle:
    """A job in AUDIO_EXTRACTING."""
    return handle.lead_to("AUDIO_EXTRACTING")


def post(url: str, body: bytes, headers: Headers) -> requests.Response:
    headers = {"Content-Type": "application/json", **headers}
    return requests.post(url, data=body, headers=headers, timeout=10)


@pytest.mark.parametrize("secret", CALLBACK_SECRETS)
def test_every_secret_of_a_rotation_is_accepted(handle: JobHandle, secret: str) -> None:
    answer = handle.client.callback(handle.id, secret, status_report("AUDIO_READY"))
    assert answer.status_code == 204
    assert "Connection" not in answer.headers, "the next one can use it too"
    assert handle.status == "AUDIO_READY"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Callback-Secret": ""},
        {"X-Callback-Secret": CALLBACK_SECRETS[0][:-1]},
        {"X-Callback-Secret": CALLBACK_SECRETS[0] + "x"},
        {"X-Callback-Secret": CALLBACK_SECRETS[0].upper()},
        {"X-Callback-Secret": "ä".encode()},
        {"X-Callback-Secret": ",".join(CALLBACK_SECRETS)},
        {"Authorization": "Bearer test:alice:editor"},
    ],
)
def test_without_a_valid_secret_every_callback_gets_the_same_401(
    handle: JobHandle, stack: Stack, headers: Headers
) -> None:
    before = handle.everything()
    report = json.dumps(status_report("AUDIO_READY")).encode()
    bodies = [report, b"{not json", b"{}", b"x" * 60_000]
    answers = [
        post(f"{stack.api_url}/api/v1/internal/jobs/{job_id}/status", body, headers)
        for job_id in (handle.id, str(uuid4()), "no-id")
        for body in bodies
    ]
    assert len({answer.content for answer in answers}) == 1
    for answer in answers:
        assert refusal(answer) == (401, "UNAUTHORIZED", None)
        assert answer.headers["WWW-Authenticate"]
        assert answer.headers["Connection"] == "close", "its body was not read"
    assert handle.everything() == before


def test_a_callback_for_a_missing_job_is_404(alice: ApiClient, callback_secret: str) -> None:
    for job_id in (str(uuid4()), "no-id"):
        answer = alice.callback(job_id, callback_secret, status_report("AUDIO_READY"))
        assert refusal(answer) == (404, "RESOURCE_NOT_FOUND", None)


def test_the_body_is_checked_before_the_job_is_looked_up(
    alice: ApiClient, callback_secret: str
) -> None:
    answer = alice.callback(str(uuid4()), callback_secret, {"status": "AUDIO_READY"})
    assert_invalid(answer, {"event_id", "occurred_at", "correlation_id"})


def test_a_repeated_callback_is_a_replay_that_writes_nothing(handle: JobHandle) -> None:
    body = status_report("AUDIO_READY", occurred_at="2026-05-04T10:00:00.5+02:00")
    assert handle.send(body).status_code == 204
    handle.reported("TRANSCRIBING", occurred_at="2026-05-04T08:00:01Z")
    before = handle.everything()
    answer = handle.send(body)
    assert answer.status_code == 200
    assert answer.json() == {
        "job_id": handle.id,
        "event_id": body["event_id"],
        "replayed": True,
        "current_status": "TRANSCRIBING",
        "latest_applied_occurred_at": "2026-05-04T08:00:01Z",
    }
    assert handle.everything() == before


def test_key_order_white_space_and_explicit_defaults_do_not_change_a_payload(
    handle: JobHandle, stack: Stack
) -> None:
    artifacts = {"audio_uri": "s3://a", "waveform": "s3://w"}
    body = status_report(
        "AUDIO_READY", occurred_at="2026-05-04T10:00:00Z", artifact_updates=artifacts
    )
    assert handle.send(body).status_code == 204
    spelled_out = {
        "failed_stage": None,
        "failure_message": None,
        "failure_code": None,
        "execution_id": None,
        "actor_type": "orchestrator",
        **dict(reversed(body.items())),
        "artifact_updates": {**dict(reversed(artifacts.items())), "draft_uri": None},
        "occurred_at": "2026-05-04t12:00:00.000000+02:00",
    }
    url = f"{stack.api_url}/api/v1/internal/jobs/{handle.id}/status"
    secret: Headers = {"X-Callback-Secret": handle.secret}
    for indent in (None, 4):
        assert post(url, json.dumps(spelled_out, indent=indent).encode(), secret).status_code == 200
    without = status_report("TRANSCRIBING", occurred_at="2026-05-04T10:00:00Z")
    assert handle.send(without).status_code == 204
    nulls = {"actor_type": None, "artifact_updates": None}
    assert handle.send({**without, **nulls}).status_code == 200


@pytest.mark.parametrize(
    "other",
    [
        {"status": "FAILED"},
        {"correlation_id": "another"},
        {"actor_type": "system"},
        {"artifact_updates": {"audio_uri": "s3://b"}},
        {"artifact_updates": {}},
        {"failure_code": "X"},
        {"failure_message": "x"},
        {"failed_stage": "x"},
        {"execution_id": "another"},
    ],
)
def test_the_same_event_id_with_another_payload_is_refused(
    handle: JobHandle, other: dict[str, Any]
) -> None:
    body = status_report(
        "AUDIO_READY", occurred_at="2026-05-04T10:00:00Z", artifact_updates={"audio_uri": "s3://a"}
    )
    assert handle.send(body).status_code == 204
    before = handle.everything()
    answer = handle.send({**body, **other})
    expected = (409, "EVENT_ID_PAYLOAD_MISMATCH", {"event_id": body["event_id"]})
    assert refusal(answer) == expected
    assert handle.everything() == before


def test_the_same_report_with_another_time_is_a_replay(handle: JobHandle) -> None:
    body = status_report("AUDIO_READY", occurred_at="2026-05-04T10:00:00Z")
    assert handle.send(body).status_code == 204
    answer = handle.send({**body, "occurred_at": "2026-05-04T10:00:01Z"})
    assert (answer.status_code, answer.json()["replayed"]) == (200, True)
    assert answer.json()["latest_applied_occurred_at"] == "2026-05-04T10:00:00Z"


def test_a_report_of_another_dispatch_is_superseded_and_changes_nothing(handle: JobHandle) -> None:
    before = handle.everything()
    answer = handle.report("AUDIO_READY", dispatch_id="run-of-another-job")
    assert refusal(answer) == (409, "EXECUTION_SUPERSEDED", {"execution_id": None})
    assert handle.everything() == before
    own = handle.client.job(handle.id).json()["dispatch"]["dispatch_id"]
    assert handle.report("AUDIO_READY", dispatch_id=own).status_code == 204


def test_a_report_dated_more_than_five_minutes_ahead_is_a_400(handle: JobHandle) -> None:
    ahead = datetime.now(UTC) + timedelta(minutes=6)
    answer = handle.report("AUDIO_READY", occurred_at=ahead.isoformat())
    assert_invalid(answer, {"occurred_at"})
    soon = datetime.now(UTC) + timedelta(minutes=4)
    assert handle.report("AUDIO_READY", occurred_at=soon.isoformat()).status_code == 204


def test_callbacks_of_a_retry_are_ordered_independently_of_the_run(handle: JobHandle) -> None:
    ahead = datetime.now(UTC) + timedelta(minutes=4)
    handle.reported("FAILED", occurred_at=ahead.isoformat())
    assert handle.retry("again").status_code == 202
    handle.reported("AUDIO_EXTRACTING", occurred_at=now())


def test_event_ids_are_scoped_to_their_job(
    alice: ApiClient, callback_secret: str, handle: JobHandle
) -> None:
    other = JobHandle.uploaded(alice, callback_secret).lead_to("AUDIO_EXTRACTING")
    body = status_report("AUDIO_READY")
    assert handle.send(body).status_code == 204
    assert other.send({**body, "correlation_id": "another"}).status_code == 204


def test_twelve_identical_callbacks_at_once_are_applied_once(handle: JobHandle) -> None:
    body = status_report("AUDIO_READY", artifact_updates={"exports": ["s3://e"]})
    answers = at_once(12, lambda _: handle.send(body).status_code)
    assert sorted(answers) == [200] * 11 + [204]
    assert handle.shown()["manifest"]["exports"] == ["s3://e"]
    assert [event["new_status"] for event in handle.trail()].count("AUDIO_READY") == 1


def test_concurrent_steps_are_applied_one_after_the_other(handle: JobHandle) -> None:
    same_time = now()
    statuses = ("AUDIO_READY", "FAILED")
    answers = at_once(2, lambda n: handle.report(statuses[n], occurred_at=same_time))
    codes = [answer.status_code for answer in answers]
    if handle.status == "FAILED" and codes == [204, 204]:
        assert [event["new_status"] for event in handle.trail()][-2:] == ["AUDIO_READY", "FAILED"]
    else:
        assert codes == [409, 204]
        assert refusal(answers[0]) == forbidden_step("FAILED", "AUDIO_READY")


def test_of_two_mutually_exclusive_steps_one_is_applied(handle: JobHandle) -> None:
    handle.reported(*WAY["EDITING"])
    statuses = ("REGENERATING", "EXPORTING")
    same_time = now()
    answers = at_once(2, lambda n: handle.report(statuses[n], occurred_at=same_time))
    assert sorted(answer.status_code for answer in answers) == [204, 409]
    winner, loser = sorted((0, 1), key=lambda n: answers[n].status_code)
    assert handle.status == statuses[winner]
    assert answers[loser].json()["code"] == "FSM_TRANSITION_INVALID"
    assert answers[loser].json()["details"]["current_status"] == statuses[winner]


def test_a_report_older_than_the_latest_one_is_out_of_order(handle: JobHandle) -> None:
    handle.reported("AUDIO_READY", occurred_at="2026-05-04T10:00:00.000002Z")
    before = handle.everything()
    body = status_report("TRANSCRIBING", occurred_at="2026-05-04T10:00:00.000001Z")
    details = {
        "latest_applied_occurred_at": "2026-05-04T10:00:00.000002Z",
        "current_status": "AUDIO_READY",
        "attempted_status": "TRANSCRIBING",
    }
    assert refusal(handle.send(body)) == (409, "CALLBACK_OUT_OF_ORDER", details)
    assert handle.everything() == before
    # It was not applied, so its event_id is still free.
    assert handle.send({**body, "occurred_at": "2026-05-04T10:00:01Z"}).status_code == 204


def test_two_steps_may_have_the_same_time(handle: JobHandle) -> None:
    handle.reported("AUDIO_READY", "TRANSCRIBING", occurred_at="2026-05-04T10:00:00Z")


def test_times_are_compared_across_utc_offsets(handle: JobHandle) -> None:
    base = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
    east, west = timezone(timedelta(hours=14)), timezone(timedelta(hours=-11, minutes=-30))
    handle.reported("AUDIO_READY", occurred_at=base.astimezone(east).isoformat())
    earlier = (base - timedelta(seconds=1)).astimezone(east).isoformat()
    assert earlier > base.isoformat(), "later if compared as text"
    late = handle.report("TRANSCRIBING", occurred_at=earlier)
    assert late.json()["code"] == "CALLBACK_OUT_OF_ORDER"
    later = (base + timedelta(seconds=1)).astimezone(west).isoformat()
    handle.reported("TRANSCRIBING", occurred_at=later)


def test_a_step_that_the_states_forbid_is_refused_and_writes_nothing(handle: JobHandle) -> None:
    before = handle.everything()
    body = status_report("GENERATING", artifact_updates={"audio_uri": "s3://no"})
    expected = forbidden_step(
        "AUDIO_EXTRACTING", "GENERATING", "AUDIO_EXTRACTING", "AUDIO_READY", "FAILED", "CANCELLED"
    )
    assert refusal(handle.send(body)) == expected
    assert handle.everything() == before
    assert handle.send({**body, "status": "AUDIO_READY"}).status_code == 204


def test_a_step_may_be_reported_again_under_a_new_event_id(handle: JobHandle) -> None:
    handle.reported("AUDIO_EXTRACTING")
    assert handle.trail()[-1]["prev_status"] == handle.trail()[-1]["new_status"]


@pytest.mark.parametrize("end", ["DONE", "FAILED", "CANCELLED"])
def test_nothing_leaves_a_terminal_state(handle: JobHandle, end: str) -> None:
    if end == "CANCELLED":
        handle.client.cancel(handle.id)
    else:
        handle.reported(*WAY[end])
    before = handle.everything()
    for attempted in (*WAY, "CREATED", "UPLOADING", "UPLOADED", "CANCELLED"):
        assert refusal(handle.report(attempted)) == forbidden_step(end, attempted)
    assert handle.everything() == before


def test_every_loop_of_the_workflow_is_allowed(handle: JobHandle) -> None:
    handle.reported(*WAY["EDITING"], "REGENERATING", "EDITING", "EXPORTING", "EDITING")
    handle.reported("EXPORTING", "DONE")
    assert handle.status == "DONE"


@pytest.mark.parametrize("status", ["AUDIO_READY", "FAILED", "DONE"])
def test_without_a_dispatch_a_job_takes_only_the_steps_of_its_state(
    alice: ApiClient, callback_secret: str, status: str
) -> None:
    handle = JobHandle.uploaded(alice, callback_secret)
    expected = forbidden_step("UPLOADED", status, "AUDIO_EXTRACTING", "CANCELLED")
    assert refusal(handle.report(status)) == expected
