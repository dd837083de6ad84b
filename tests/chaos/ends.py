"""How a job ended: in exactly one of the ends that docs/reliability.md promises, or stuck, or lost."""

from collections import defaultdict

from tests.chaos.history import JobStory

MOVED_ON = "executed once and moved on"
REFUSED = "refused, and where it was"
UNKNOWN = "unknown, and listed as such"
CANCELLED = "cancelled"
NEVER_RUN = "never run"
FAILED_BY_ENGINE = "its run died, and the engine's report failed it"
SILENT = "its run died, and it is listed as silent"
RUN_FAILED = "ORCHESTRATOR_RUN_FAILED"
STUCK = "stuck"
LOST = "lost"

_STAYED = {"UPLOADED", "FAILED"}


def end_of(story: JobStory) -> str:
    """Return one of the ends above for a job, which is STUCK or LOST if the promise was broken."""
    if story.job is None:
        return LOST
    status, phase = story.job["status"], story.claim["phase"] if story.claim else None
    if status == "CANCELLED":
        return STUCK if phase in ("CLAIMED", "SENDING") else CANCELLED
    if status == "UPLOADED" and phase is None:
        return _end_without_claim(story)
    if phase == "UNKNOWN" and status in _STAYED:
        return UNKNOWN if story.listed_unknown and not _reported(story) else STUCK
    if phase == "SENT" or (phase is None and status == "FAILED"):
        return _end_of_accepted(story, status, phase)
    return STUCK


def _end_without_claim(story: JobStory) -> str:
    if proceeding_executions(story):
        return LOST  # the service does not know of the execution
    was_claimed = any(event["event_type"] == "dispatch.claimed" for event in story.trail)
    return REFUSED if story.entries("post") or was_claimed else NEVER_RUN


def _end_of_accepted(story: JobStory, status: str, phase: str | None) -> str:
    died = _execution_died(story)
    if status == "FAILED" and ((story.job or {}).get("failure") or {}).get("code") == RUN_FAILED:
        is_over = phase is None or (story.claim or {}).get("is_dead")
        return (FAILED_BY_ENGINE if is_over else STUCK) if died or phase is None else LOST
    if died and phase == "SENT":
        return SILENT if story.listed_silent else STUCK
    if not proceeding_executions(story):
        return LOST  # no execution backs the accepted dispatch
    awaits_retry = phase == "SENT" and status == "FAILED" and _awaits_first_callback(story)
    ended = status in ("DRAFT_READY", "EDITING", "DONE", "FAILED")
    return MOVED_ON if ended and not awaits_retry else STUCK


def _execution_died(story: JobStory) -> bool:
    """Whether the current dispatch was executed, and its executions died before the last callback."""
    dispatch = (story.claim or {}).get("dispatch_id")
    executions = {e["execution"] for e in story.entries("execution") if e["dispatch"] == dispatch}
    reasons = [e["why"] for e in story.entries("finished") if e["execution"] in executions]
    return "died" in reasons and "done" not in reasons


def _awaits_first_callback(story: JobStory) -> bool:
    """Whether the current dispatch is a retry without a callback so far."""
    claim = story.claim or {}
    return claim.get("kind") == "retry" and not claim.get("resumed")


def _reported(story: JobStory) -> bool:
    """Whether the dispatch whose outcome is unknown has had a callback applied."""
    return bool(proceeding_executions(story).get((story.claim or {}).get("dispatch_id", "")))


def proceeding_executions(story: JobStory) -> dict[str, set[str]]:
    """Return the executions of each dispatch that were not stopped: at least one callback was applied."""
    dispatch = {entry["execution"]: entry["dispatch"] for entry in story.entries("execution")}
    found: defaultdict[str, set[str]] = defaultdict(set)
    for entry in story.entries("callback_answer"):
        if entry["status"] in (200, 204):
            found[dispatch[entry["execution"]]].add(entry["execution"])
    return dict(found)


def superseded_executions(story: JobStory) -> int:
    """Count the executions that were stopped by EXECUTION_SUPERSEDED."""
    return len(
        {
            entry["execution"]
            for entry in story.entries("callback_answer")
            if entry["body"].get("code") == "EXECUTION_SUPERSEDED"
        }
    )
