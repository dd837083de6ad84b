"""After the faults: wait until every job has settled without help, and gather its story."""

import json
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from devstack.client import ApiClient
from store import keys
from tests.chaos.caller import Job
from tests.chaos.checker import callback_operations
from tests.chaos.clients import ClientPool
from tests.chaos.history import History, JobStory, moment
from tests.chaos.misbehaviour import mode_of
from tests.chaos.record import read_record
from tests.chaos.world import World

LOOK_SECONDS = 0.25
OPEN = ("CLAIMED", "SENDING")
Seen = tuple[str | None, str | None, bool]


def wait_until_healed(
    world: World, clients: ClientPool, limit_seconds: float, supervise: Callable[[], None]
) -> tuple[float, dict[str, float]]:
    """Wait until no claim, call or execution is in progress, or until the limit.

    Returns when the last change was seen, overall and by job id, in seconds from the call.
    """
    started, last, changed = moment(), dict[str, Any](), dict[str, float]()
    while True:
        seen = _snapshot(world, clients.jobs)
        now = moment() - started
        for job_id, value in seen.items():
            if job_id in last and last[job_id] != value:
                changed[job_id] = now
        last = seen
        if now > limit_seconds or not (clients.is_busy or _in_progress(world, seen)):
            return max(changed.values(), default=0.0), changed
        supervise()
        time.sleep(LOOK_SECONDS)


def _snapshot(world: World, all_jobs: list[Job]) -> dict[str, Seen]:
    """Each job's status, its claim's phase, and whether the orchestrator is to be notified or queried."""
    jobs = list(all_jobs)  # the last calls may still add to them
    names = [key for job in jobs for key in (keys.job(job.job_id), keys.claim(job.job_id))]
    with world.redis.client() as redis:
        values = [json.loads(value) if value else {} for value in redis.mget(names)]
    pairs = zip(values[::2], values[1::2], strict=True)
    return {
        job.job_id: (found.get("status"), claim.get("phase"), _is_due(claim))
        for job, (found, claim) in zip(jobs, pairs, strict=True)
    }


def _is_due(claim: dict[str, Any]) -> bool:
    """Whether a cancel is to be sent for an accepted dispatch, or a second query."""
    if claim.get("phase") != "SENT" or claim.get("is_dead"):
        return False
    return bool(claim.get("cancel_due") or claim.get("ended_at"))


def _in_progress(world: World, seen: dict[str, Seen]) -> bool:
    if any(phase in OPEN or is_due for _, phase, is_due in seen.values()):
        return True
    unknown = [status for status, phase, _ in seen.values() if phase == "UNKNOWN"]
    if world.all_idempotent and set(unknown) - {"CANCELLED"}:
        return True
    entries = read_record(world.record_path)
    begun = {entry["execution"] for entry in entries if entry["kind"] == "execution"}
    finished = [entry for entry in entries if entry["kind"] == "finished"]
    if begun - {entry["execution"] for entry in finished}:
        return True
    return any(_death_unnoticed(world, seen, entry) for entry in finished)


def _death_unnoticed(world: World, seen: dict[str, Seen], entry: dict[str, Any]) -> bool:
    """Whether an execution died and the service has not noticed yet."""
    status, phase, _ = seen.get(entry["job"], (None, None, False))
    is_running = status not in (None, "CANCELLED", "DRAFT_READY", "EDITING")
    if entry["why"] != "died" or not is_running or phase != "SENT":
        return False
    with world.redis.client() as redis:
        job, claim = redis.mget(keys.job(entry["job"]), keys.claim(entry["job"]))
    found, current = json.loads(job or "{}"), json.loads(claim or "{}")
    if current.get("dispatch_id") != entry["dispatch"] or current.get("is_dead"):
        return False
    if status == "FAILED" and current.get("kind") == "run":
        return False
    return world.queryable or not found.get("silent_since")


def gather(world: World, jobs: list[Job], history: History) -> list[JobStory]:
    """Return everything that was recorded about each job."""
    of_job: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in read_record(world.record_path):
        of_job[entry.get("job", "")].append(entry)
    stories = []
    for job in jobs:
        story = JobStory(
            job.job_id, job.number, mode_of(world.seed, job.number, world.all_idempotent)
        )
        story.operations = [op for op in history.operations if op.job == job.job_id]
        story.record = of_job[job.job_id]
        story.operations += callback_operations(story.record)
        story.trail = _trail(world, job)
        _add_stored_records(world, story)
        stories.append(story)
    return stories


def _trail(world: World, job: Job) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    cursor: str | None = "0"
    api = ApiClient(world.webs[0].url, token=world.token(job.user))
    while cursor is not None:
        answer = api.events(job.job_id, params={"cursor": cursor, "limit": 100})
        if not answer.ok:
            return events
        events += answer.json()["items"]
        cursor = answer.json()["next_cursor"]
    return events


def _add_stored_records(world: World, story: JobStory) -> None:
    with world.redis.client() as redis:
        job, claim = redis.mget(keys.job(story.job_id), keys.claim(story.job_id))
        story.job = json.loads(job) if job else None
        story.claim = json.loads(claim) if claim else None
        story.listed_silent = redis.zscore(keys.SILENT, story.job_id) is not None
        story.listed_unknown = redis.zscore(keys.UNKNOWN, story.job_id) is not None
