"""The audit trail: every transition and every step of a dispatch, once and in order."""

import json
from datetime import UTC, datetime
from itertools import chain
from typing import Any

from devstack.waiting import wait_until
from tests.acceptance.outcomes import every_page
from tests.support.behaviours import accept, in_turn, refuse, reset_after_read
from tests.support.job_handle import JobHandle
from tests.support.orchestrator import StubOrchestrator

BASE = {
    "event_type", "job_id", "project_id", "actor_type", "prev_status", "new_status",
    "occurred_at", "recorded_at", "correlation_id",
}  # fmt: skip
EXTRA = {"dispatch_id", "attempt", "reason", "execution_id"}


def summary(handle: JobHandle) -> list[tuple[Any, ...]]:
    """Each event: its type, the actor, and the states before and after."""
    names = ("event_type", "actor_type", "prev_status", "new_status")
    return [tuple(event[name] for name in names) for event in handle.trail()]


def transitions(handle: JobHandle) -> list[tuple[str | None, str]]:
    """The changes of state, from and to."""
    events = [event for event in handle.trail() if event["event_type"].startswith("job.")]
    return [(event["prev_status"], event["new_status"]) for event in events]


def test_a_whole_life_is_on_the_trail(handle: JobHandle) -> None:
    handle.lead_to("AUDIO_EXTRACTING")
    handle.reported("AUDIO_READY", "TRANSCRIBING")
    handle.reported("TRANSCRIBING", "FAILED", actor_type="system")
    assert handle.retry("r1").status_code == 202
    handle.reported("AUDIO_EXTRACTING")
    handle.client.cancel(handle.id)
    up, going = "UPLOADED", "AUDIO_EXTRACTING"
    assert summary(handle) == [
        ("job.created", "editor", None, "CREATED"),
        ("job.upload_confirmed", "editor", "CREATED", up),
        ("dispatch.claimed", "editor", up, up),
        ("dispatch.sent", "system", up, up),
        ("dispatch.accepted", "system", up, up),
        ("job.status_changed", "system", up, going),
        ("job.status_changed", "orchestrator", going, "AUDIO_READY"),
        ("job.status_changed", "orchestrator", "AUDIO_READY", "TRANSCRIBING"),
        ("job.status_changed", "system", "TRANSCRIBING", "TRANSCRIBING"),
        ("job.status_changed", "system", "TRANSCRIBING", "FAILED"),
        ("dispatch.claimed", "editor", "FAILED", "FAILED"),
        ("dispatch.sent", "system", "FAILED", "FAILED"),
        ("dispatch.accepted", "system", "FAILED", "FAILED"),
        ("job.status_changed", "orchestrator", "FAILED", going),
        ("job.cancelled", "editor", going, "CANCELLED"),
    ]
    states = [new for _, new in transitions(handle)]
    assert [old for old, _ in transitions(handle)] == [None, *states[:-1]], "no gaps"


def test_an_event_has_the_fields_of_an_audit_event(handle: JobHandle) -> None:
    handle.lead_to("AUDIO_READY")
    job = handle.shown()
    for event in handle.trail():
        assert event.keys() >= BASE
        assert event.keys() <= BASE | EXTRA
        assert (event["job_id"], event["project_id"]) == (job["id"], job["project_id"])
        assert all(event[name] is not None for name in EXTRA & event.keys())
        for time in (event["occurred_at"], event["recorded_at"]):
            assert datetime.fromisoformat(time).utcoffset() == datetime.now(UTC).utcoffset()


def test_an_event_has_the_time_it_occurred_and_the_time_it_was_recorded(handle: JobHandle) -> None:
    handle.lead_to("AUDIO_EXTRACTING")
    before = datetime.now(UTC)
    handle.reported("AUDIO_READY", occurred_at="2026-01-02T03:04:05.678901+01:00")
    event = handle.trail()[-1]
    assert event["occurred_at"] == "2026-01-02T02:04:05.678901Z"
    assert before <= datetime.fromisoformat(event["recorded_at"]) <= datetime.now(UTC)


def test_each_event_has_the_correlation_id_of_its_cause(handle: JobHandle) -> None:
    handle.client.run(handle.id, headers={"X-Request-Id": "run-request"})
    handle.reported("AUDIO_READY", correlation_id="Workflow 7 / step 2")
    handle.client.post(f"/jobs/{handle.id}/cancel", headers={"X-Request-Id": "cancel-request"})
    ids = [event["correlation_id"] for event in handle.trail()[2:]]
    assert ids == [*["run-request"] * 4, "Workflow 7 / step 2", "cancel-request"]


def test_each_attempt_of_a_dispatch_is_on_the_trail(
    handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[handle.id] = in_turn(refuse(500), reset_after_read(), accept())
    assert handle.client.run(handle.id).status_code == 502
    assert handle.client.run(handle.id).status_code == 502
    wait_until(lambda: handle.client.run(handle.id).status_code == 200, 30, "the hold is over")
    events = [event for event in handle.trail() if event["event_type"].startswith("dispatch.")]
    assert [(event["event_type"], event["attempt"], event.get("reason")) for event in events] == [
        ("dispatch.claimed", 1, None),
        ("dispatch.sent", 1, None),
        ("dispatch.refused", 1, "refused 500"),
        ("dispatch.claimed", 2, None),
        ("dispatch.sent", 2, None),
        ("dispatch.unknown", 2, "outcome_unknown"),
        ("dispatch.resent", 3, None),
        ("dispatch.sent", 3, None),
        ("dispatch.accepted", 3, None),
    ]
    assert {event["dispatch_id"] for event in events} == {handle.run_id}


def test_the_job_shows_its_dispatch(handle: JobHandle, orchestrator: StubOrchestrator) -> None:
    assert handle.shown()["dispatch"] is None
    orchestrator.behaviours[handle.id] = in_turn(refuse(500), accept())
    handle.client.run(handle.id)
    released = handle.dispatch
    assert (released["phase"], released["reason"]) == ("RELEASED", "refused")
    handle.client.run(handle.id)
    sent = handle.dispatch
    assert sent.keys() == {
        "kind", "dispatch_id", "phase", "claimed_at", "sent_at", "settled_at", "reason",
        "execution_id",
    }  # fmt: skip
    assert (sent["kind"], sent["dispatch_id"], sent["phase"]) == ("run", handle.run_id, "SENT")
    assert sent["claimed_at"] <= sent["sent_at"] <= sent["settled_at"]
    assert (sent["reason"], sent["execution_id"]) == (None, None)


def test_pages_have_no_gaps_and_no_duplicates(handle: JobHandle) -> None:
    handle.lead_to("DONE")
    whole = handle.trail()
    assert len(whole) > 7
    for limit in (1, 3, len(whole)):
        pages = every_page(handle.client, f"/jobs/{handle.id}/events", limit=limit)
        assert [*chain(*pages)] == whole
        assert all(1 <= len(page) <= limit for page in pages)
    recorded = [event["recorded_at"] for event in whole]
    assert recorded == sorted(recorded)


def test_repeated_and_conflicting_confirmations_change_nothing(handle: JobHandle) -> None:
    handle.lead_to("AUDIO_READY")
    before = handle.everything()
    uri = handle.shown()["manifest"]["video_uri"]
    assert handle.client.confirm_upload(handle.id, uri).status_code == 200
    assert handle.client.confirm_upload(handle.id, "s3://other").status_code == 409
    assert handle.everything() == before


def test_the_trail_holds_no_secret_no_uri_and_no_failure_text(handle: JobHandle) -> None:
    handle.lead_to("AUDIO_EXTRACTING")
    handle.reported("AUDIO_READY", artifact_updates={"audio_uri": "s3://quiet/audio"})
    words = {"failure_code": "W-CODE", "failure_message": "w-message", "failed_stage": "w-stage"}
    handle.reported("FAILED", artifact_updates={"exports": ["s3://quiet/export"]}, **words)
    handle.retry("w-request", "quality")
    trail = json.dumps(handle.trail())
    secret_words = [
        "s3:",
        "http",
        handle.secret,
        str(handle.client.session.headers["Authorization"]),
        "w-request",
        *words.values(),
    ]
    assert [word for word in secret_words if word in trail] == []
