"""Limits of a job's record: at each limit a 409 and nothing written, and the job can continue."""

from typing import Any

import pytest

from devstack.stack import Stack
from store import keys
from tests.support.client import ApiClient, status_report
from tests.support.job_handle import JobHandle, forbidden_step, refusal

MOST_BYTES, MOST_KEYS, MOST_EXPORTS = 65_536, 256, 256
AT_A_TIME = 64
MOST_REPEATS, MOST_REPORTS, MOST_RETRIES, MOST_EVENTS = 200, 1_000, 100, 10_000
AFTER_EXTRACTING = ("AUDIO_READY", "FAILED", "CANCELLED")


@pytest.fixture
def extracting(handle: JobHandle) -> JobHandle:
    """A job in AUDIO_EXTRACTING, a state that may be reported again."""
    return handle.lead_to("AUDIO_EXTRACTING")


def full(bound: str, most: int) -> tuple[int, str, dict[str, Any]]:
    return 409, "MANIFEST_FULL", {"bound": bound, "most": most}


def almost_fill_manifest(handle: JobHandle) -> None:
    """Report 60,000 bytes of artifacts."""
    for number in range(3):
        artifacts = {f"key{number}.{n}": "x" * 2000 for n in range(10)}
        handle.reported("AUDIO_EXTRACTING", artifact_updates=artifacts)


def fill_trail(stack: Stack, handle: JobHandle) -> str:
    """Repeat the last event until the trail has MOST_EVENTS; return the trail's key."""
    trail = keys.trail(handle.id)
    with stack.redis.client() as client:
        event = client.lindex(trail, -1)
        client.rpush(trail, *[event] * (MOST_EVENTS - client.llen(trail)))
    return trail


def assert_refused_until_smaller(
    handle: JobHandle, updates: dict[str, Any], expected: tuple[int, str, dict[str, Any]]
) -> None:
    """The report is refused and nothing of it is kept; without the artifacts it is applied."""
    before = handle.everything()
    report = status_report("AUDIO_READY", artifact_updates=updates)
    assert refusal(handle.send(report)) == expected
    assert handle.everything() == before
    assert handle.send({**report, "artifact_updates": None}).status_code == 204
    assert handle.status == "AUDIO_READY"


def test_the_number_of_exports_is_bounded(extracting: JobHandle) -> None:
    for start in range(0, MOST_EXPORTS, AT_A_TIME):
        some = [f"s3://{number}" for number in range(start, start + AT_A_TIME)]
        extracting.reported("AUDIO_EXTRACTING", artifact_updates={"exports": some})
    # A duplicate adds nothing.
    extracting.reported("AUDIO_EXTRACTING", artifact_updates={"exports": ["s3://0"]})
    assert_refused_until_smaller(
        extracting, {"exports": ["s3://new"]}, full("exports", MOST_EXPORTS)
    )
    assert len(extracting.shown()["manifest"]["exports"]) == MOST_EXPORTS


def test_the_number_of_additional_keys_is_bounded(extracting: JobHandle) -> None:
    for start in range(0, MOST_KEYS, AT_A_TIME):
        some = {f"key{number}": "s3://x" for number in range(start, start + AT_A_TIME)}
        extracting.reported("AUDIO_EXTRACTING", artifact_updates=some)
    # The standard keys do not count, and existing keys may be replaced.
    extracting.reported(
        "AUDIO_EXTRACTING", artifact_updates={"audio_uri": "s3://a", "key0": "s3://y"}
    )
    assert_refused_until_smaller(extracting, {"one more": "s3://x"}, full("keys", MOST_KEYS))


def test_the_size_of_the_manifest_is_bounded(extracting: JobHandle) -> None:
    almost_fill_manifest(extracting)
    too_long = {f"more{n}": "é" * 1000 for n in range(3)}
    assert_refused_until_smaller(extracting, too_long, full("bytes", MOST_BYTES))
    # An update that makes the manifest smaller is always accepted.
    extracting.reported("TRANSCRIBING", artifact_updates={"key0.0": "s3://short"})


def test_a_failure_with_too_large_artifacts_can_be_reported_without_them(
    extracting: JobHandle,
) -> None:
    almost_fill_manifest(extracting)
    answer = extracting.report(
        "FAILED", artifact_updates={f"more{n}": "x" * 2000 for n in range(3)}
    )
    assert refusal(answer) == full("bytes", MOST_BYTES)
    assert extracting.status == "AUDIO_EXTRACTING"
    extracting.reported("FAILED")


def test_the_record_of_a_job_with_endless_reports_stays_small(
    extracting: JobHandle, stack: Stack
) -> None:
    answers = []
    for number in range(110):
        some = {f"{number}.{n}": f"s3://{'x' * 800}" for n in range(AT_A_TIME)}
        answers.append(extracting.report("AUDIO_EXTRACTING", artifact_updates=some).status_code)
    assert set(answers) == {204, 409}
    with stack.redis.client() as client:
        assert client.strlen(keys.job(extracting.id)) < 2 * MOST_BYTES


def test_repeats_of_a_state_are_bounded(extracting: JobHandle) -> None:
    first = status_report("AUDIO_EXTRACTING")
    assert extracting.send(first).status_code == 204
    extracting.reported(*["AUDIO_EXTRACTING"] * (MOST_REPEATS - 1))
    before = extracting.shown()
    refused = extracting.report("AUDIO_EXTRACTING", artifact_updates={"audio_uri": "s3://a"})
    expected = forbidden_step("AUDIO_EXTRACTING", "AUDIO_EXTRACTING", *AFTER_EXTRACTING)
    assert refusal(refused) == expected
    assert extracting.shown() == before
    # A replay is still answered, and repeats are counted for each state.
    assert extracting.send(first).status_code == 200
    extracting.reported("AUDIO_READY", "TRANSCRIBING", "TRANSCRIBING", "TRANSCRIPT_READY")


def test_reports_of_a_dispatch_are_bounded_except_for_the_end(
    handle: JobHandle, stack: Stack
) -> None:
    handle.lead_to("EDITING")
    handle.reported(*["REGENERATING", "EDITING"] * ((MOST_REPORTS - 6) // 2))
    before = handle.shown()
    for attempted in ("REGENERATING", "EXPORTING"):
        expected = forbidden_step("EDITING", attempted, "FAILED", "CANCELLED")
        assert refusal(handle.report(attempted)) == expected
    assert handle.shown() == before
    with stack.redis.client() as client:
        assert client.hlen(keys.callbacks(handle.id)) == MOST_REPORTS
    handle.reported("FAILED", artifact_updates={"draft_uri": "s3://d"})
    # A retry is another dispatch with its own count.
    assert handle.retry("again").status_code == 202
    handle.reported("EDITING", "EXPORTING", "DONE")


def test_retries_are_bounded_and_each_stays_replayable(handle: JobHandle, stack: Stack) -> None:
    handle.lead_to("FAILED")
    dispatches = []
    for number in range(MOST_RETRIES):
        answer = handle.retry(f"retry {number}")
        assert answer.status_code == 202
        dispatches.append(answer.json()["dispatch_id"])
        handle.reported("FAILED")
    before = handle.everything()
    details = {"current_status": "FAILED", "attempted_status": "REGENERATING"}
    expected = (409, "RETRY_NOT_ALLOWED_STATE", details)
    assert refusal(handle.retry("one more")) == expected
    assert handle.everything() == before
    for number in (0, MOST_RETRIES - 1):
        again = handle.retry(f"retry {number}")
        assert (again.status_code, again.json()["dispatch_id"]) == (200, dispatches[number])
    with stack.redis.client() as client:
        assert client.strlen(keys.job(handle.id)) < MOST_BYTES


def test_a_trail_keeps_its_newest_events(extracting: JobHandle, stack: Stack) -> None:
    trail = fill_trail(stack, extracting)
    with stack.redis.client() as client:
        extracting.reported("AUDIO_READY", "TRANSCRIBING")
        assert client.llen(trail) == MOST_EVENTS
    # Cursors count from the first event, which is no longer stored.
    for place in ("cursor", "after"):
        answer = extracting.client.events(extracting.id, params={place: MOST_EVENTS}).json()
        steps = [event["new_status"] for event in answer["items"]]
        assert steps == ["AUDIO_READY", "TRANSCRIBING"]
        assert answer["next_cursor"] == (None if place == "cursor" else str(MOST_EVENTS + 2))
        oldest = extracting.client.events(extracting.id, params={place: 0, "limit": 3}).json()
        assert len(oldest["items"]) == 3
        assert oldest["next_cursor"] == str(2 + 3)
    operator = ApiClient(stack.api_url, "olga", role="operator")
    shown = operator.get(f"/operations/jobs/{extracting.id}").json()
    assert shown["earlier_events"] + len(shown["events"]) == MOST_EVENTS + 2


def test_a_full_trail_can_still_be_followed(extracting: JobHandle, stack: Stack) -> None:
    fill_trail(stack, extracting)
    place = str(MOST_EVENTS)
    for step in ("AUDIO_READY", "TRANSCRIBING", "TRANSCRIPT_READY"):
        extracting.reported(step)
        answer = extracting.client.events(extracting.id, params={"after": place, "wait": 5}).json()
        assert [event["new_status"] for event in answer["items"]] == [step]
        place = answer["next_cursor"]
