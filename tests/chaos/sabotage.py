"""Doctors true stories, to show that the checker notices. Each breaks one thing, in one job."""

import copy
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from tests.chaos.ends import MOVED_ON, end_of
from tests.chaos.history import JobStory, Operation

Doctor = Callable[[JobStory], None]
Suits = Callable[[JobStory], bool]


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
    """The orchestrator executed twice, and both were let go on."""
    first = story.entries("execution")[0]
    twin = {**first, "execution": str(uuid4())}
    taken = next(e for e in story.entries("callback_answer") if e["status"] == 204)
    story.record += [twin, {**taken, "execution": twin["execution"]}]


def _lost_job(story: JobStory) -> None:
    """The store forgot the job."""
    story.job = story.claim = None


def _lost_dispatch(story: JobStory) -> None:
    """The orchestrator never got what callers were told is accepted."""
    kinds = ("post", "answer", "execution", "callback", "callback_answer")
    story.record = [entry for entry in story.record if entry["kind"] not in kinds]
    story.operations = [op for op in story.operations if op.kind != "callback"]


def _false_202(story: JobStory) -> None:
    """A caller was told that the run is on its way, of a job that was left as it was."""
    last = max(story.operations, key=lambda op: op.start)
    body = {"status": "AUDIO_EXTRACTING", "dispatch_id": f"run-{story.job_id}", "replayed": False}
    asked: dict[str, Any] = {"request_id": str(uuid4())}
    start = last.start - 0.002
    story.operations.append(Operation(story.job_id, "run", asked, start, start + 0.001, 202, body))


def _second_202(story: JobStory) -> None:
    """Two callers were told that they were first."""
    answer = next(op for op in story.operations if op.kind == "run" and op.status in (200, 202))
    claims = sum(event["event_type"] == "dispatch.claimed" for event in story.trail)
    for _ in range(claims + 1):
        again = copy.deepcopy(answer)
        again.status, again.body["replayed"] = 202, False
        story.operations.append(again)


def _broken_trail(story: JobStory) -> None:
    """A step of the way is missing on the trail."""
    story.trail.remove(next(event for event in story.trail if _is_audio_ready(event)))


def _doubled_step(story: JobStory) -> None:
    """A step stands on the trail twice."""
    nth = next(n for n, event in enumerate(story.trail) if _is_audio_ready(event))
    story.trail.insert(nth, dict(story.trail[nth]))


def _stuck_claim(story: JobStory) -> None:
    """A claim that was never freed."""
    story.claim = {"phase": "SENDING", "dispatch_id": f"run-{story.job_id}", "kind": "run"}


def _unlisted_unknown(story: JobStory) -> None:
    """An unknown outcome that no operator would be shown."""
    story.claim = {"phase": "UNKNOWN", "dispatch_id": f"run-{story.job_id}", "kind": "run"}
    story.listed_unknown = False


def _was_unknown(story: JobStory) -> bool:
    return any(event["event_type"] == "dispatch.unknown" for event in story.trail)


def _absent_released(story: JobStory) -> None:
    """The engine did not find an unknown dispatch, and its claim was freed, although it may yet arrive."""
    nth = next(n for n, e in enumerate(story.trail) if e["event_type"] == "dispatch.unknown")
    freed = {**story.trail[nth], "event_type": "dispatch.released", "reason": "not_found"}
    story.trail.insert(nth + 1, freed)


def _failed_unasked(story: JobStory) -> None:
    """The job of a run that nothing was asked about failed by the engine's word."""
    ended = story.trail[-1]
    failed = {
        "event_type": "orchestrator.run_failed",
        "actor_type": "system",
        "new_status": "FAILED",
    }
    story.trail.append({**ended, **failed, "prev_status": ended["new_status"]})


def _forgotten_cancel(story: JobStory) -> None:
    """A job that went on after its cancel was confirmed."""
    for op in story.operations:
        if op.kind == "read" and op.status == 200 and op.body["status"] == "CANCELLED":
            op.body["status"] = "DRAFT_READY"
    assert story.job is not None
    story.job["status"] = "DRAFT_READY"


def _stale_read(story: JobStory) -> None:
    """After its end, the job was shown as it had been before."""
    start = max(op.end or op.start for op in story.operations) + 1
    body = {"status": "UPLOADED", "dispatch": None}
    asked: dict[str, Any] = {"request_id": str(uuid4())}
    story.operations.append(Operation(story.job_id, "read", asked, start, start + 0.001, 200, body))


def _secret_post(story: JobStory) -> None:
    """A post that was not written down before it was sent."""
    post = story.entries("post")[0]
    story.record.append({**post, "post": str(uuid4())})


_SABOTAGES: dict[str, tuple[Suits, Doctor]] = {
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


def _sabotage(suits: Suits, doctor: Doctor) -> Callable[[list[JobStory]], list[JobStory]]:
    def doctored(stories: list[JobStory]) -> list[JobStory]:
        """Copies of the stories, the first that suits with one thing broken."""
        stories = copy.deepcopy(stories)
        doctor(next(story for story in stories if suits(story)))
        return stories

    return doctored


SABOTAGES = {name: _sabotage(*both) for name, both in _SABOTAGES.items()}
