"""The payload of a status callback: artifacts, failures, and the limits of each field."""

from typing import Any

import pytest

from tests.acceptance.outcomes import assert_invalid
from tests.support.job_handle import JobHandle

VIDEO = "s3://studio/interview.mp4"


@pytest.fixture
def handle(handle: JobHandle) -> JobHandle:
    """A job in AUDIO_EXTRACTING."""
    return handle.lead_to("AUDIO_EXTRACTING")


def test_artifacts_are_added_and_updated_and_never_removed(handle: JobHandle) -> None:
    handle.reported("AUDIO_READY", artifact_updates={"audio_uri": "s3://a1", "peaks": "s3://p"})
    handle.reported("TRANSCRIBING", artifact_updates={"audio_uri": "s3://a2"})
    handle.reported(
        "TRANSCRIPT_READY",
        artifact_updates={"transcript_uri": "s3://t", "audio_uri": None, "chapters": ["s3://c"]},
    )
    handle.reported("GENERATING")
    assert handle.shown()["manifest"] == {
        "video_uri": VIDEO,
        "audio_uri": "s3://a2",
        "transcript_uri": "s3://t",
        "draft_uri": None,
        "exports": [],
        "peaks": "s3://p",
        "chapters": ["s3://c"],
    }


def test_the_video_uri_never_changes(handle: JobHandle) -> None:
    updates = {"video_uri": "s3://another", "audio_uri": "s3://a"}
    handle.reported("AUDIO_READY", artifact_updates=updates)
    manifest = handle.shown()["manifest"]
    assert (manifest["video_uri"], manifest["audio_uri"]) == (VIDEO, "s3://a")
    assert handle.client.confirm_upload(handle.id, VIDEO).json()["replayed"] is True


def test_exports_are_appended_without_duplicates(handle: JobHandle) -> None:
    handle.reported("AUDIO_READY", artifact_updates={"exports": ["s3://1", "s3://2", "s3://1"]})
    handle.reported("TRANSCRIBING", artifact_updates={"exports": []})
    handle.reported("TRANSCRIBING", artifact_updates={"exports": ["s3://3", "s3://2"]})
    assert handle.shown()["manifest"]["exports"] == ["s3://1", "s3://2", "s3://3"]


@pytest.mark.parametrize(
    "key", ["merged", "model_dump", "model_config", "__class__", "self", "é€𝄞", "a.b c"]
)
def test_any_string_is_a_valid_artifact_name(handle: JobHandle, key: str) -> None:
    handle.reported("AUDIO_READY", artifact_updates={key: "s3://x"})
    handle.reported("TRANSCRIBING", artifact_updates={"audio_uri": "s3://a"})
    assert handle.shown()["manifest"][key] == "s3://x"


def test_a_failure_is_shown_as_the_orchestrator_reported_it(handle: JobHandle) -> None:
    assert handle.shown()["failure"] is None
    handle.reported(
        "FAILED", failure_code="ASR", failure_message="no speech", failed_stage="TRANSCRIBING"
    )
    expected = {"code": "ASR", "message": "no speech", "stage": "TRANSCRIBING"}
    assert handle.shown()["failure"] == expected


def test_failure_fields_of_a_step_that_did_not_fail_are_ignored(handle: JobHandle) -> None:
    handle.reported("AUDIO_READY", failure_code="ASR", failure_message="x", failed_stage="y")
    assert handle.shown()["failure"] is None


def test_a_failure_needs_no_details_and_its_artifacts_are_kept(handle: JobHandle) -> None:
    handle.reported("FAILED", artifact_updates={"audio_uri": "s3://a"})
    assert handle.shown()["failure"] == {"code": None, "message": None, "stage": None}
    assert handle.shown()["manifest"]["audio_uri"] == "s3://a"


@pytest.mark.parametrize(
    "fields",
    [
        {"event_id": "e" * 128},
        {"correlation_id": "c" * 128},
        {"execution_id": "x" * 128},
        {"failure_code": "c" * 100, "failure_message": "m" * 2000, "failed_stage": "s" * 100},
        {"artifact_updates": {"k" * 100: "u" * 2048}},
        {"artifact_updates": {f"key{n}": "u" for n in range(64)}},
        {"artifact_updates": {"exports": [f"s3://{n}" for n in range(64)]}},
    ],
)
def test_values_at_the_limits_are_accepted(handle: JobHandle, fields: dict[str, Any]) -> None:
    handle.reported("FAILED", **fields)


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"event_id": "e" * 129}, "event_id"),
        ({"correlation_id": "c" * 129}, "correlation_id"),
        ({"execution_id": "x" * 129}, "execution_id"),
        ({"execution_id": ""}, "execution_id"),
        ({"actor_type": "editor"}, "actor_type"),
        ({"occurred_at": "2026-05-04T10:00:00"}, "occurred_at"),
        ({"occurred_at": "2026-05-04"}, "occurred_at"),
        ({"occurred_at": "9999-05-04T10:00:00Z"}, "occurred_at"),
        ({"occurred_at": 1_780_000_000}, "occurred_at"),
        ({"failure_code": "c" * 101}, "failure_code"),
        ({"failure_message": "m" * 2001}, "failure_message"),
        ({"failed_stage": "s" * 101}, "failed_stage"),
        ({"artifact_updates": []}, "artifact_updates"),
        ({"artifact_updates": {"k" * 101: "u"}}, "artifact_updates"),
        ({"artifact_updates": {"": "u"}}, "artifact_updates"),
        ({"artifact_updates": {"audio_uri": "u" * 2049}}, "artifact_updates"),
        ({"artifact_updates": {"audio_uri": ["s3://a"]}}, "artifact_updates"),
        ({"artifact_updates": {"audio_uri": 1}}, "artifact_updates"),
        ({"artifact_updates": {"exports": "s3://e"}}, "artifact_updates"),
        ({"artifact_updates": {"exports": ["s3://e"] * 65}}, "artifact_updates"),
        ({"artifact_updates": {"deep": {"er": 1}}}, "artifact_updates"),
        ({"artifact_updates": {f"key{n}": "u" for n in range(65)}}, "artifact_updates"),
    ],
)
def test_an_invalid_field_is_named_and_nothing_is_written(
    handle: JobHandle, fields: dict[str, Any], wrong: str
) -> None:
    before = handle.everything()
    assert_invalid(handle.report("FAILED", **fields), {wrong})
    assert handle.everything() == before
