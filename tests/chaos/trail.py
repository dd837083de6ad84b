"""Checks that an audit trail is a valid path through the job's states and its dispatches' phases."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from domain.job_fsm import TRANSITIONS, JobStatus
from tests.chaos.history import JobStory

FREE = "free"
ENDED_BADLY = ("failed", "cancelled")
Event = dict[str, Any]

# From spec/domain/job_fsm.md: the phases in which an event may occur, and the phase after it.
PHASE_STEPS = {
    "dispatch.claimed": ({FREE, "SENT"}, "CLAIMED"),
    "dispatch.resent": ({"UNKNOWN"}, "CLAIMED"),
    "dispatch.sent": ({"CLAIMED"}, "SENDING"),
    "dispatch.accepted": ({"SENDING", "UNKNOWN"}, "SENT"),
    "dispatch.found": ({"CLAIMED", "SENDING", "UNKNOWN"}, "SENT"),
    "dispatch.refused": ({"SENDING", "UNKNOWN"}, FREE),
    "dispatch.not_started": ({"SENDING", "UNKNOWN"}, FREE),
    "dispatch.unknown": ({"SENDING"}, "UNKNOWN"),
    "dispatch.proved": ({"CLAIMED", "SENDING", "UNKNOWN", FREE}, "SENT"),
    "dispatch.released": ({"CLAIMED"}, FREE),
}
# Events that may also occur in phase CLAIMED of a resend: a late answer to the earlier send, whose outcome is
# unknown, or the end of the resend without one.
OF_AN_EARLIER_SEND = {"dispatch.accepted", "dispatch.found", "dispatch.unknown"}
NEW_EPOCH = {"dispatch.claimed", "dispatch.resent"}
NO_PHASE = {"dispatch.superseded", "orchestrator.cancel_notified"}


def violations(story: JobStory, hold_seconds: float) -> Iterator[str]:
    """Yield everything that is wrong with a job's trail."""
    trail = story.trail
    if not trail or trail[0]["event_type"] != "job.created":
        yield "the trail does not begin with job.created"
        return
    yield from _state_path(trail)
    yield from _phase_path(trail, story)
    yield from _once(trail, story)
    yield from _resent_after_hold(trail, hold_seconds)
    yield from _failed_for_a_reason(trail, story)


def _state_path(trail: list[Event]) -> Iterator[str]:
    status, resume = None, None
    for event in trail:
        before, after = event["prev_status"], event["new_status"]
        if before != status:
            yield f"{event['event_type']} starts from {before}, but the job was {status}"
        if event["event_type"] == "dispatch.proved" and before == "FAILED":
            resume = "proved"
        if event["event_type"] in ("dispatch.accepted", "dispatch.found") and before == "FAILED":
            resume = "accepted"
        if before != after and before is not None and not _allowed(before, after, resume):
            yield f"{before} -> {after} is no step of the table"
        if before == "FAILED" and after != "FAILED":
            resume = None
        status = after


def _allowed(before: str, after: str, resume: str | None) -> bool:
    if before == "FAILED":  # the first callback of a retry that the orchestrator has received
        starts = {"AUDIO_EXTRACTING", "TRANSCRIBING", "GENERATING", "EDITING", "FAILED"}
        return resume is not None and after in starts
    return JobStatus(after) in TRANSITIONS[JobStatus(before)]


def _phase_path(trail: list[Event], story: JobStory) -> Iterator[str]:
    phase, epoch, is_again = FREE, 0, False
    for event in trail:
        kind, attempt = event["event_type"], event.get("attempt")
        if kind not in PHASE_STEPS:
            if kind.startswith("dispatch.") and kind not in NO_PHASE:
                yield f"{kind}, although no operator acted"
            continue
        allowed, after = PHASE_STEPS[kind]
        if kind in NEW_EPOCH:
            is_again = kind == "dispatch.resent"
        of_earlier = is_again and phase == "CLAIMED" and kind in OF_AN_EARLIER_SEND
        if phase not in allowed and not of_earlier:
            yield f"{kind} (attempt {attempt}) in phase {phase}"
        if attempt != (epoch + 1 if kind in NEW_EPOCH else epoch):
            yield f"{kind} of attempt {attempt}, when {epoch} was the latest"
        phase, epoch = after, attempt or epoch
    found = story.claim["phase"] if story.claim else FREE
    if found != phase:
        yield f"the trail ends in phase {phase}, the claim is {found}"


def _once(trail: list[Event], story: JobStory) -> Iterator[str]:
    """Each callback that was applied moved the job exactly once."""
    steps = Counter(
        event["correlation_id"]
        for event in trail
        if event["event_type"] == "job.status_changed"
        and event["actor_type"] == "orchestrator"
        and (event["correlation_id"] or "").endswith(f"-{event['new_status']}")
    )
    yield from (f"callback {name} moved the job {n} times" for name, n in steps.items() if n > 1)
    applied = {
        op.request["event_id"]
        for op in story.operations
        if op.kind == "callback" and op.status in (200, 204)
    }
    yield from (f"callback {name} is not on the trail" for name in applied - set(steps))
    starts = [e for e in trail if (e["prev_status"], e["new_status"]) == _START]
    if len(starts) > 1:
        yield f"the job moved to AUDIO_EXTRACTING {len(starts)} times"


def _failed_for_a_reason(trail: list[Event], story: JobStory) -> Iterator[str]:
    """The engine's report fails a job only after two queries returned it."""
    reports = Counter(
        entry["dispatch"] for entry in story.entries("ask") if entry["state"] in ENDED_BADLY
    )
    current = None
    for event in trail:
        current = event.get("dispatch_id") or current
        if event["event_type"] == "orchestrator.run_failed" and reports[current] < 2:
            yield f"the job failed after {reports[current]} reports of the engine, not two"


_START = ("UPLOADED", "AUDIO_EXTRACTING")


def _resent_after_hold(trail: list[Event], hold_seconds: float) -> Iterator[str]:
    unknown_at = None
    for event in trail:
        at = datetime.fromisoformat(event["recorded_at"]).timestamp()
        if event["event_type"] == "dispatch.unknown":
            unknown_at = at
        held = unknown_at is not None and at - unknown_at >= hold_seconds
        # Without a hold, clock skew may reorder the two.
        if event["event_type"] == "dispatch.resent" and hold_seconds and not held:
            yield "dispatch.resent before its hold ended"
