"""Falsify recorded stories, each in one job, to show that the checker notices."""

import copy
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from tests.chaos.ends import MOVED_ON, end_of
from tests.chaos.history import JobStory, Operation

Falsify = Callable[[JobStory], None]
Applies = Callable[[JobStory], bool]


def _moved_on(story: JobStory) -> bool:
    return end_of(story) == MOVED_ON and _has_run_answer(story)


def _came_to_audio_ready(story: JobStory) -> bool:
    return _moved_on(story) and any(_is_audio_ready(event) for event in story.trail)


def _is_audio_ready(event: dict[str, Any]) -> bool:
    return str(event["new_status"]) == "AUDIO_READY" and str(event["prev_status"]) != "AUDIO_READY"


def _has_run_answer(story: JobStory) -> bool:
    return any(op.kind == "run" and op.status in (200, 202) for op in story.operations)


def _stayed(story: JobStory) -> bool:
    return story.job is not None and story.job["status"] == "UPLOADED" and story.claim is None


def _was_cancelled(story: JobStory) -> bool:
    return any(op.kind == "cancel" and op.status == 200 for op in story.operations)


def _second_execution(story: JobStory) -> None:
    """The orchestrator started two executions, and callbacks of both were applied."""
    first = story.entries("execution")[0]
    second = {**first, "execution": str(uuid4())}
    applied = next(e for e in story.entries("callback_answer") if e["status"] == 204)
    story.record += [second, {**applied, "execution": second["execution"]}]


def _lost_job(story: JobStory) -> None:
    """The store forgot the job."""
    story.job = story.claim = None


def _lost_dispatch(story: JobStory) -> None:
    """Callers got an acceptance, but the orchestrator never received the dispatch."""
    kinds = ("post", "answer", "execution", "callback", "callback_answer")
    story.record = [entry for entry in story.record if entry["kind"] not in kinds]
    story.operations = [op for op in story.operations if op.kind != "callback"]


def _false_202(story: JobStory) -> None:
    """A caller got a 202 for a job that stayed UPLOADED."""
    last = max(story.operations, key=lambda op: op.start)
    body = {"status": "AUDIO_EXTRACTING", "dispatch_id": f"run-{story.job_id}", "replayed": False}
    _add_operation(story, "run", last.start - 0.002, 202, body)


def _add_operation(
    story: JobStory, kind: str, start: float, status: int, body: dict[str, Any]
) -> None:
    request = {"request_id": str(uuid4())}
    end = start + 0.001
    story.operations.append(Operation(story.job_id, kind, request, start, end, status, body))


def _second_202(story: JobStory) -> None:
    """Two callers got a 202 for one claim."""
    answer = next(op for op in story.operations if op.kind == "run" and op.status in (200, 202))
    claims = sum(event["event_type"] == "dispatch.claimed" for event in story.trail)
    for _ in range(claims + 1):
        again = copy.deepcopy(answer)
        again.status, again.body["replayed"] = 202, False
        story.operations.append(again)


def _broken_trail(story: JobStory) -> None:
    """A step is missing on the trail."""
    story.trail.remove(next(event for event in story.trail if _is_audio_ready(event)))


def _doubled_step(story: JobStory) -> None:
    """A step is on the trail twice."""
    nth = next(n for n, event in enumerate(story.trail) if _is_audio_ready(event))
    story.trail.insert(nth, dict(story.trail[nth]))


def _stuck_claim(story: JobStory) -> None:
    """A claim that was never freed."""
    story.claim = {"phase": "SENDING", "dispatch_id": f"run-{story.job_id}", "kind": "run"}


def _unlisted_unknown(story: JobStory) -> None:
    """An unknown outcome that is not in the operators' list."""
    story.claim = {"phase": "UNKNOWN", "dispatch_id": f"run-{story.job_id}", "kind": "run"}
    story.listed_unknown = False


def _was_unknown(story: JobStory) -> bool:
    return any(event["event_type"] == "dispatch.unknown" for event in story.trail)


def _absent_released(story: JobStory) -> None:
    """A claim was freed because the engine did not find the dispatch, although that may still arrive."""
    nth = next(n for n, e in enumerate(story.trail) if e["event_type"] == "dispatch.unknown")
    freed = {**story.trail[nth], "event_type": "dispatch.released", "reason": "not_found"}
    story.trail.insert(nth + 1, freed)


def _failed_unasked(story: JobStory) -> None:
    """A job failed by the engine's report, although the engine was never queried about its run."""
    ended = story.trail[-1]
    failed = {
        "event_type": "orchestrator.run_failed",
        "actor_type": "system",
        "new_status": "FAILED",
    }
    story.trail.append({**ended, **failed, "prev_status": ended["new_status"]})


def _forgotten_cancel(story: JobStory) -> None:
    """A job advanced after its cancel was confirmed."""
    for op in story.operations:
        if op.kind == "read" and op.status == 200 and op.body["status"] == "CANCELLED":
            op.body["status"] = "DRAFT_READY"
    assert story.job is not None
    story.job["status"] = "DRAFT_READY"


def _stale_read(story: JobStory) -> None:
    """The last read shows the job as it was at the start."""
    start = max(op.end or op.start for op in story.operations) + 1
    _add_operation(story, "read", start, 200, {"status": "UPLOADED", "dispatch": None})


def _secret_post(story: JobStory) -> None:
    """A post was sent without a dispatch.sent on the trail."""
    post = story.entries("post")[0]
    story.record.append({**post, "post": str(uuid4())})


_SABOTAGES: dict[str, tuple[Applies, Falsify]] = {
    "second-execution": (_moved_on, _second_execution),
    "lost-job": (_moved_on, _lost_job),
    "lost-dispatch": (_moved_on, _lost_dispatch),
    "false-202": (_stayed, _false_202),
    "second-202": (_moved_on, _second_202),
    "broken-trail": (_came_to_audio_ready, _broken_trail),
    "doubled-step": (_came_to_audio_ready, _doubled_step),
    "stuck-claim": (_stayed, _stuck_claim),
    "unlisted-unknown": (_stayed, _unlisted_unknown),
    "absent-released": (_was_unknown, _absent_released),
    "failed-unasked": (_moved_on, _failed_unasked),
    "forgotten-cancel": (_was_cancelled, _forgotten_cancel),
    "stale-read": (_moved_on, _stale_read),
    "secret-post": (_moved_on, _secret_post),
}


def _sabotage(applies: Applies, falsify: Falsify) -> Callable[[list[JobStory]], list[JobStory]]:
    def falsified(stories: list[JobStory]) -> list[JobStory]:
        """Return copies of the stories, with the first applicable one falsified."""
        stories = copy.deepcopy(stories)
        falsify(next(story for story in stories if applies(story)))
        return stories

    return falsified


SABOTAGES = {name: _sabotage(*both) for name, both in _SABOTAGES.items()}
