"""Jobs at rest live for a time, in a real Redis; a retry ends the rest, and what is gone stays gone."""

from dataclasses import replace
from datetime import timedelta

import pytest
from redis import Redis

from devstack.redis_server import RedisServer
from devstack.waiting import wait_until
from domain import lifecycle
from domain.claim import ClaimEvent, FencingToken
from domain.errors import ResourceNotFound
from domain.job import Failure
from domain.job_fsm import JobStatus
from domain.retry import decide_retry
from domain.run import decide_run
from domain.status_callback import StatusCallback, apply_callback
from store import keys
from store.jobs import JobStore
from store.retention import Retention
from tasks.outbox import TransactionalOutbox
from tasks.sweep import Sweeper, sweep_once
from tests.support.stores import NOW, POLICY, QUEUES, Shelf

DAYS = timedelta(days=30)
TELLS = replace(POLICY, can_cancel=True)
LATER = NOW + timedelta(minutes=1)
FOR_EVER = -1


@pytest.fixture
def shelf(redis_server: RedisServer) -> Shelf:
    """An empty store whose jobs are kept for 30 days."""
    return keeping(Shelf(redis_server), DAYS)


def keeping(shelf: Shelf, retention: timedelta | None) -> Shelf:
    """The same store, as a process with this retention sees it."""
    shelf.jobs = JobStore(shelf.client, TransactionalOutbox(QUEUES), retention)
    return shelf


def times(shelf: Shelf, job_id: str) -> set[int]:
    """The times to live, in seconds, of all that is kept of a job."""
    names = [keys.job(job_id), keys.claim(job_id), keys.trail(job_id), keys.callbacks(job_id)]
    return {shelf.redis.ttl(name) for name in names if shelf.redis.exists(name)}


def is_for_days(found: set[int]) -> bool:
    """Whether every key lives on for the retention, less what the test took."""
    whole = DAYS.total_seconds()
    return bool(found) and all(whole - 60 < each <= whole for each in found)


def accepted(shelf: Shelf) -> FencingToken:
    """A job whose run the orchestrator has."""
    token = shelf.run(shelf.uploaded())
    assert shelf.begin(token)
    assert shelf.settle(token, ClaimEvent.ACCEPTED)
    return token


def report(shelf: Shelf, job_id: str, event_id: str, status: JobStatus) -> None:
    """A callback of the orchestrator."""
    failure = Failure(code="x") if status is JobStatus.FAILED else None
    callback = StatusCallback(
        event_id=event_id, digest=event_id, status=status, occurred_at=NOW, correlation_id="c",
        failure=failure,
    )  # fmt: skip
    shelf.jobs.update(job_id, lambda r: apply_callback(r, callback, NOW, POLICY), event_id=event_id)


def failed(shelf: Shelf) -> str:
    """A job that has failed, with a claim, a trail and a callback."""
    token = accepted(shelf)
    report(shelf, token.job_id, "e1", JobStatus.FAILED)
    return token.job_id


def retry(shelf: Shelf, job_id: str) -> FencingToken:
    """Let a retry claim."""
    shelf.jobs.update(job_id, lambda r: decide_retry(r, "one", "standard", NOW, POLICY))
    return shelf.record(job_id).token


def test_a_job_that_comes_to_rest_has_a_time_on_all_that_is_kept_of_it(shelf: Shelf) -> None:
    token = accepted(shelf)
    report(shelf, token.job_id, "e1", JobStatus.AUDIO_READY)
    assert times(shelf, token.job_id) == {FOR_EVER}
    report(shelf, token.job_id, "e2", JobStatus.FAILED)
    assert shelf.redis.exists(keys.claim(token.job_id), keys.callbacks(token.job_id)) == 2
    assert is_for_days(times(shelf, token.job_id))


def test_a_retry_ends_the_rest_in_its_own_commit_and_its_end_begins_another(shelf: Shelf) -> None:
    job_id = failed(shelf)
    token = retry(shelf, job_id)
    assert times(shelf, job_id) == {FOR_EVER}
    assert shelf.begin(token)
    assert shelf.settle(token, ClaimEvent.ACCEPTED)
    assert times(shelf, job_id) == {FOR_EVER}, "its first callback is still due"
    report(shelf, job_id, "e2", JobStatus.AUDIO_EXTRACTING)
    assert times(shelf, job_id) == {FOR_EVER}
    report(shelf, job_id, "e3", JobStatus.FAILED)
    assert is_for_days(times(shelf, job_id))


def test_a_retry_that_is_refused_leaves_the_job_at_rest(shelf: Shelf) -> None:
    token = retry(shelf, failed(shelf))
    assert shelf.begin(token)
    assert shelf.settle(token, ClaimEvent.REFUSED)
    assert is_for_days(times(shelf, token.job_id))


def test_a_cancelled_job_rests_once_its_outcome_is_known_and_the_cancel_told(shelf: Shelf) -> None:
    token = shelf.unknown()
    shelf.jobs.update(token.job_id, lambda r: lifecycle.cancel(r, NOW, TELLS, None))
    assert times(shelf, token.job_id) == {FOR_EVER}
    assert shelf.settle(token, ClaimEvent.ACCEPTED)
    assert times(shelf, token.job_id) == {FOR_EVER}, "the cancel is still to be told"
    shelf.jobs.update(
        token.job_id, lambda r: lifecycle.cancel_notified(r, token, "done", True, NOW)
    )
    assert is_for_days(times(shelf, token.job_id))


def test_an_edit_of_a_job_at_rest_begins_its_time_anew(shelf: Shelf) -> None:
    job_id = failed(shelf)
    for name in (keys.job(job_id), keys.claim(job_id), keys.trail(job_id)):
        shelf.redis.expire(name, 100)
    shelf.jobs.update(job_id, lambda r: lifecycle.edit(r, {"name": "new"}, NOW))
    assert is_for_days(times(shelf, job_id))


def test_without_retention_jobs_live_for_ever_also_those_that_had_a_time(shelf: Shelf) -> None:
    job_id = failed(shelf)
    keeping(shelf, None)
    assert times(shelf, failed(shelf)) == {FOR_EVER}
    shelf.jobs.update(job_id, lambda r: lifecycle.edit(r, {"name": "new"}, NOW))
    assert times(shelf, job_id) == {FOR_EVER}


def test_a_job_whose_time_is_over_is_gone_and_is_never_dispatched_again(shelf: Shelf) -> None:
    keeping(shelf, timedelta(milliseconds=1))
    token = accepted(shelf)
    report(shelf, token.job_id, "e1", JobStatus.FAILED)
    wait_until(lambda: shelf.jobs.load(token.job_id) is None, 5, "the job is gone")
    queued = shelf.messages()
    for late in (
        lambda: retry(shelf, token.job_id),
        lambda: shelf.jobs.update(token.job_id, lambda r: decide_run(r, NOW, POLICY)),
        lambda: shelf.begin(token),
        lambda: shelf.settle(token, ClaimEvent.ACCEPTED),
        lambda: report(shelf, token.job_id, "e2", JobStatus.AUDIO_READY),
    ):
        with pytest.raises(ResourceNotFound):
            late()
    assert shelf.messages() == queued
    assert not shelf.redis.exists(keys.job(token.job_id), keys.claim(token.job_id))


def test_a_change_that_meets_the_end_of_the_time_makes_nothing(shelf: Shelf) -> None:
    job_id = failed(shelf)
    known = shelf.record(job_id)
    names = (keys.job(job_id), keys.claim(job_id), keys.trail(job_id))
    for name in names:
        shelf.redis.pexpire(name, 1)
    wait_until(lambda: not shelf.redis.exists(*names), 30, "the job is gone")
    with pytest.raises(ResourceNotFound):
        shelf.jobs.update(job_id, lambda r: lifecycle.edit(r, {"name": "new"}, NOW), known=known)
    assert not shelf.redis.exists(*names)


def gone_jobs(shelf: Shelf, number: int) -> list[str]:
    """Jobs whose time is over, listed still."""
    made = [failed(shelf) for _ in range(number)]
    for job_id in made:
        shelf.redis.delete(*shelf.redis.keys(f"takeone:{{{job_id}}}:*"))
    return made


def listed(shelf: Shelf) -> list[int]:
    """How many entries each list of jobs has."""
    names = (
        keys.project_jobs(shelf.project.id),
        keys.user_jobs("alice"),
        keys.user_changes("alice"),
    )
    return [shelf.redis.zcard(name) for name in names]


def go_round(retention: Retention, now: object, redis: Redis) -> dict[str, int]:
    """Take so many steps that every list is looked at."""
    done: dict[str, int] = {}
    for _ in range(4 + redis.dbsize() // 200):
        for kind, number in retention.step(now).items():  # type: ignore[arg-type]
            done[kind] = done.get(kind, 0) + number
    return done


def test_lists_that_nothing_reads_forget_what_is_gone(shelf: Shelf) -> None:
    gone_jobs(shelf, 450)  # more than are looked at at once
    standing = [failed(shelf), shelf.uploaded()]
    retention = Retention(shelf.client, shelf.jobs, DAYS)
    assert go_round(retention, NOW + DAYS, shelf.redis) == {}, "not yet older than the retention"
    done = go_round(retention, NOW + DAYS + timedelta(hours=1), shelf.redis)
    assert done == {"unlisted": 4 * 450}
    assert listed(shelf) == [2, 2, 2]
    assert shelf.redis.zcard(keys.jobs_in(JobStatus.FAILED)) == 1
    assert all(shelf.jobs.load(job_id) for job_id in standing)
    assert shelf.redis.zcard(keys.user_projects("alice")) == 1, "a project lives on, also empty"


def test_a_step_is_bounded_and_goes_on_behind_what_lives(shelf: Shelf) -> None:
    for _ in range(1_100):
        shelf.new_job()
    gone_jobs(shelf, 3)
    retention, later = Retention(shelf.client, shelf.jobs, DAYS), NOW + 2 * DAYS

    def looked_at() -> int:
        return int(shelf.redis.info("commandstats").get("cmdstat_pttl", {"calls": 0})["calls"])

    unlisted, steps, before = 0, 0, looked_at()
    while unlisted < 4 * 3:
        unlisted += retention.step(later)["unlisted"]
        assert looked_at() - before < 1_200
        steps, before = steps + 1, looked_at()
        assert steps < 20
    assert steps > 3, "what lives is more than a step looks at, in each list"
    assert listed(shelf) == [1_100] * 3


def test_a_job_that_rested_before_there_was_retention_is_given_its_time(shelf: Shelf) -> None:
    keeping(shelf, None)
    resting, open_one = failed(shelf), shelf.unknown().job_id
    unreadable = failed(shelf)
    shelf.redis.set(keys.job(unreadable), "{")
    keeping(shelf, DAYS)
    retention = Retention(shelf.client, shelf.jobs, DAYS)
    revision = shelf.record(resting).revision
    done = go_round(retention, NOW + 2 * DAYS, shelf.redis)
    assert done == {"timed": 1}
    assert is_for_days(times(shelf, resting))
    assert shelf.record(resting).revision == revision
    assert times(shelf, open_one) == {FOR_EVER}
    assert times(shelf, unreadable) == {FOR_EVER}


def test_memory_is_flat_over_ten_times_the_jobs_that_are_kept(shelf: Shelf) -> None:
    kept, retention = 100, timedelta(milliseconds=300)
    keeping(shelf, retention)
    trimmer = Retention(shelf.client, shelf.jobs, retention)
    memory, whole = [], 2  # keys: the project, and its owner's list of projects
    for _ in range(11):
        for _ in range(kept):
            failed(shelf)
        wait_until(lambda: not shelf.redis.keys("*:job"), 20, "the jobs are gone")
        sweep_once(shelf.jobs, POLICY, LATER)
        go_round(trimmer, LATER, shelf.redis)
        shelf.redis.delete(*shelf.redis.keys("takeone:broker:*"))  # as workers take them
        wait_until(lambda: shelf.redis.dbsize() == whole, 20, "nothing of the jobs is left")
        memory.append(shelf.redis.info("memory")["used_memory"])
    assert max(memory[1:]) < memory[0] * 1.05, memory


def test_the_sweep_of_a_worker_takes_the_steps(shelf: Shelf) -> None:
    gone_jobs(shelf, 5)
    sweeper = Sweeper(
        shelf.jobs, POLICY, timedelta(milliseconds=20), lambda: NOW + 2 * DAYS,
        Retention(shelf.client, shelf.jobs, DAYS),
    )  # fmt: skip
    sweeper.start()
    try:
        wait_until(lambda: listed(shelf) == [0, 0, 0], 10, "the lists are empty")
    finally:
        sweeper.stop()
