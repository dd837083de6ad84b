"""The first execution that reports is kept; any other gets 409 EXECUTION_SUPERSEDED."""

import json

import pytest

from devstack.stack import Stack
from tests.support.job_handle import JobHandle, at_once, refusal
from tests.support.log_lines import lines_with, wait_for_line


@pytest.fixture
def handle(handle: JobHandle) -> JobHandle:
    """A job in AUDIO_EXTRACTING."""
    return handle.lead_to("AUDIO_EXTRACTING")


def superseded_by(execution_id: str | None) -> tuple[int, str, dict[str, str | None]]:
    return 409, "EXECUTION_SUPERSEDED", {"execution_id": execution_id}


def test_the_first_execution_that_reports_is_kept_and_shown(handle: JobHandle) -> None:
    assert handle.dispatch["execution_id"] is None
    handle.reported("AUDIO_EXTRACTING", execution_id="first")
    assert handle.dispatch["execution_id"] == "first"
    handle.reported("AUDIO_READY", execution_id="first")
    assert handle.dispatch["execution_id"] == "first"


def test_another_execution_gets_409_with_the_id_of_the_kept_one(handle: JobHandle) -> None:
    handle.reported("AUDIO_EXTRACTING", execution_id="first")
    shown = handle.shown()
    for status in ("AUDIO_EXTRACTING", "AUDIO_READY", "FAILED", "DONE"):
        answer = handle.report(status, execution_id="second", artifact_updates={"audio_uri": "x:y"})
        assert refusal(answer) == superseded_by("first")
    assert handle.shown() == shown
    handle.reported("AUDIO_READY", execution_id="first")


def test_each_superseded_execution_is_on_the_trail_once(handle: JobHandle) -> None:
    handle.reported("AUDIO_EXTRACTING", execution_id="first")
    for execution_id in ("second", "third", "second"):
        handle.report("AUDIO_EXTRACTING", execution_id=execution_id)
    events = [event for event in handle.trail() if event["event_type"] == "dispatch.superseded"]
    assert [event["execution_id"] for event in events] == ["second", "third"]
    for event in events:
        assert event["dispatch_id"] == handle.run_id
        assert event["prev_status"] == event["new_status"] == "AUDIO_EXTRACTING"


def test_many_superseded_executions_do_not_fill_the_trail(handle: JobHandle) -> None:
    handle.reported("AUDIO_EXTRACTING", execution_id="first")
    for number in range(20):
        answer = handle.report("AUDIO_EXTRACTING", execution_id=f"other-{number}")
        assert refusal(answer) == superseded_by("first")
    assert 1 <= handle.event_types().count("dispatch.superseded") < 20


def test_a_superseded_execution_is_logged_without_its_id(handle: JobHandle, stack: Stack) -> None:
    handle.reported("AUDIO_EXTRACTING", execution_id="first-name")
    handle.report("AUDIO_EXTRACTING", execution_id="second-name")
    wait_for_line(stack.webs[0], handle.id, "superseded")
    lines = lines_with(stack.webs[0], handle.id)
    (line,) = [json.loads(line) for line in lines if "superseded" in line]
    assert (line["level"], line["job_id"]) == ("warning", handle.id)
    assert not any("-name" in line for line in lines)


def test_a_report_without_an_execution_id_is_accepted(handle: JobHandle) -> None:
    handle.reported("AUDIO_EXTRACTING", execution_id="first")
    handle.reported("AUDIO_READY")
    assert handle.dispatch["execution_id"] == "first"


def test_one_of_several_concurrent_executions_is_kept(handle: JobHandle) -> None:
    names = [f"execution-{number}" for number in range(6)]
    answers = at_once(
        6, lambda number: handle.report("AUDIO_EXTRACTING", execution_id=names[number])
    )
    codes = [answer.status_code for answer in answers]
    assert sorted(codes) == [204] + [409] * 5
    kept = names[codes.index(204)]
    assert handle.dispatch["execution_id"] == kept
    assert all(
        refusal(answer) == superseded_by(kept) for answer in answers if answer.status_code == 409
    )


def test_a_retry_has_its_own_execution_and_supersedes_the_one_before(handle: JobHandle) -> None:
    handle.reported("AUDIO_READY", execution_id="run", artifact_updates={"audio_uri": "s3://a"})
    handle.reported("FAILED", execution_id="run")
    assert handle.retry("r1").status_code == 202
    assert handle.dispatch["execution_id"] is None
    assert refusal(handle.report("TRANSCRIBING", execution_id="run")) == superseded_by(None)
    handle.reported("TRANSCRIBING", execution_id="retry")
    assert handle.dispatch["execution_id"] == "retry"
    assert refusal(handle.report("TRANSCRIPT_READY", execution_id="run")) == superseded_by("retry")
    handle.reported("TRANSCRIPT_READY", execution_id="retry")
