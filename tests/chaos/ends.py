"""What became of a job: exactly one of the ends that the promise names, or stuck, or lost."""

from collections import defaultdict

from tests.chaos.history import JobStory

MOVED_ON = "executed once and moved on"
REFUSED = "refused, and where it was"
UNKNOWN = "unknown, and listed as such"
CANCELLED = "cancelled"
NEVER_RUN = "never run"
FAILED_BY_ENGINE = "died there, and failed by the engine's word"
SILENT = "died there, and listed as silent"
RUN_FAILED = "ORCHESTRATOR_RUN_FAILED"
STUCK = "stuck"
LOST = "lost"

_STAYED = {"UPLOADED", "FAILED"}


def end_of(story: JobStory) -> str:
    """What became of a job: exactly one of the ends, or STUCK, or LOST."""
    if story.job is None:
        return LOST
    status, phase = story.job["status"], story.claim["phase"] if story.claim else None
    if status == "CANCELLED":
        return STUCK if phase in ("CLAIMED", "SENDING") else CANCELLED
    if status == "UPLOADED" and phase is None:
        return _stayed(story)
    if phase == "UNKNOWN" and status in _STAYED:
        return UNKNOWN if story.listed_unknown and not _reported(story) else STUCK
    if phase == "SENT" or (phase is None and status == "FAILED"):
        return _moved_on(story, status, phase)
    return STUCK


def _stayed(story: JobStory) -> str:
    if proceeding_executions(story):
        return LOST  # it was executed, and the service knows nothing of it
    return REFUSED if story.entries("post") or _was_claimed(story) else NEVER_RUN


def _was_claimed(story: JobStory) -> bool:
    return any(event["event_type"] == "dispatch.claimed" for event in story.trail)


def _moved_on(story: JobStory, status: str, phase: str | None) -> str:
    died = _has_died(story)
    if status == "FAILED" and ((story.job or {}).get("failure") or {}).get("code") == RUN_FAILED:
        is_over = phase is None or (story.claim or {}).get("is_dead")
        return (FAILED_BY_ENGINE if is_over else STUCK) if died or phase is None else LOST
    if died and phase == "SENT":
        return SILENT if story.listed_silent else STUCK
    if not proceeding_executions(story):
        return LOST  # nothing executed what is said to be under way
    awaits_retry = phase == "SENT" and status == "FAILED" and _last_retry_silent(story)
    ended = status in ("DRAFT_READY", "EDITING", "DONE", "FAILED")
    return MOVED_ON if ended and not awaits_retry else STUCK


def _has_died(story: JobStory) -> bool:
    """Whether the standing dispatch was executed, and no execution of it reports any more."""
    dispatch = (story.claim or {}).get("dispatch_id")
    executions = {e["execution"] for e in story.entries("execution") if e["dispatch"] == dispatch}
    whys = [e["why"] for e in story.entries("finished") if e["execution"] in executions]
    return "died" in whys and "done" not in whys


def _last_retry_silent(story: JobStory) -> bool:
    """Whether the dispatch that stands is a retry of which no callback ever came."""
    claim = story.claim or {}
    return claim.get("kind") == "retry" and not claim.get("resumed")


def _reported(story: JobStory) -> bool:
    """Whether the dispatch whose outcome is called unknown has reported."""
    return bool(proceeding_executions(story).get((story.claim or {}).get("dispatch_id", "")))


def proceeding_executions(story: JobStory) -> dict[str, set[str]]:
    """The executions of each dispatch that were let go on: a callback of theirs was taken."""
    dispatch = {entry["execution"]: entry["dispatch"] for entry in story.entries("execution")}
    found: defaultdict[str, set[str]] = defaultdict(set)
    for entry in story.entries("callback_answer"):
        if entry["status"] in (200, 204):
            found[dispatch[entry["execution"]]].add(entry["execution"])
    return dict(found)


def superseded_executions(story: JobStory) -> int:
    """How many executions were told to stop because another one was first."""
    return len(
        {
            entry["execution"]
            for entry in story.entries("callback_answer")
            if entry["body"].get("code") == "EXECUTION_SUPERSEDED"
        }
    )
