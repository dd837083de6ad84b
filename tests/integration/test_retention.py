"""Jobs at rest expire after the retention, unless a retry begins; expired jobs stay gone."""

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from redis import Redis

from devstack.redis_server import RedisServer
from devstack.waiting import wait_until
from domain import lifecycle
from domain.claim import ClaimEvent, FencingToken
from domain.errors import ResourceNotFound
from domain.job import Failure
from domain.job_fsm import JobStatus
from domain.record import Change
from domain.retry import decide_retry
from domain.run import decide_run
from domain.status_callback import StatusCallback, apply_callback
from store import keys
from store.jobs import JobStore
from store.retention import Retention
from tasks.outbox import TransactionalOutbox
from tasks.periodic import PeriodicThread
from tasks.sweep import Sweeper, sweep_once
from tests.support.stores import NOW, POLICY, QUEUES, Shelf

DAYS = timedelta(days=30)
CAN_CANCEL = replace(POLICY, can_cancel=True)
LATER = NOW + timedelta(minutes=1)
FOR_EVER = -1


@pytest.fixture
def shelf(redis_server: RedisServer) -> Shelf:
    """An empty store whose jobs are kept for 30 days."""
    return keeping(Shelf(redis_server), DAYS)


def keeping(shelf: Shelf, retention: timedelta | None) -> Shelf:
    """Give the store this retention."""
    shelf.jobs = JobStore(shelf.client, TransactionalOutbox(QUEUES), retention)
    return shelf


def times(shelf: Shelf, job_id: str) -> set[int]:
    """The times to live, in seconds, of a job's keys."""
    names = [keys.job(job_id), keys.claim(job_id), keys.trail(job_id), keys.callbacks(job_id)]
    return {shelf.redis.ttl(name) for name in names if shelf.redis.exists(name)}


def is_for_days(found: set[int]) -> bool:
    """Whether all times are the retention, give or take a minute for the test itself."""
    whole = DAYS.total_seconds()
    return bool(found) and whole - 60 < min(found) <= max(found) <= whole


def report(shelf: Shelf, job_id: str, event_id: str, status: JobStatus) -> None:
    """Apply a callback."""
    failure = Failure(code="x") if status is JobStatus.FAILED else None
    callback = StatusCallback(
        event_id=event_id, digest=event_id, status=status, occurred_at=NOW, correlation_id="c",
        failure=failure,
    )  # fmt: skip
    shelf.jobs.update(
        job_id, lambda r: apply_callback(Change(r, NOW, POLICY), callback), event_id=event_id
    )


def failed(shelf: Shelf) -> str:
    """Make a failed job with a claim, a trail and a callback; return its id."""
    token = shelf.accepted()
    report(shelf, token.job_id, "e1", JobStatus.FAILED)
    return token.job_id


def retry(shelf: Shelf, job_id: str) -> FencingToken:
    """Retry the job; return the token of the new claim."""
    shelf.jobs.update(job_id, lambda r: decide_retry(Change(r, NOW, POLICY), "one", "standard"))
    return shelf.record(job_id).token


def test_all_keys_of_a_job_that_comes_to_rest_expire(shelf: Shelf) -> None:
    token = shelf.accepted()
    report(shelf, token.job_id, "e1", JobStatus.AUDIO_READY)
    assert times(shelf, token.job_id) == {FOR_EVER}
    report(shelf, token.job_id, "e2", JobStatus.FAILED)
    assert shelf.redis.exists(keys.claim(token.job_id), keys.callbacks(token.job_id)) == 2
    assert is_for_days(times(shelf, token.job_id))


def test_a_retry_removes_the_expiry_until_the_job_is_at_rest_again(shelf: Shelf) -> None:
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


def test_a_refused_retry_leaves_the_job_at_rest(shelf: Shelf) -> None:
    token = retry(shelf, failed(shelf))
    assert shelf.begin(token)
    assert shelf.settle(token, ClaimEvent.REFUSED)
    assert is_for_days(times(shelf, token.job_id))


def test_a_cancelled_job_is_at_rest_once_its_outcome_is_known_and_the_engine_notified(
    shelf: Shelf,
) -> None:
    token = shelf.unknown()
    shelf.jobs.update(token.job_id, lambda r: lifecycle.cancel(Change(r, NOW, CAN_CANCEL)))
    assert times(shelf, token.job_id) == {FOR_EVER}
    assert shelf.settle(token, ClaimEvent.ACCEPTED)
    assert times(shelf, token.job_id) == {FOR_EVER}, "the orchestrator is not yet notified"
    shelf.jobs.update(
        token.job_id,
        lambda r: lifecycle.cancel_notified(Change(r, NOW, POLICY), token, "done", True),
    )
    assert is_for_days(times(shelf, token.job_id))


def test_an_edit_of_a_job_at_rest_restarts_its_expiry(shelf: Shelf) -> None:
    job_id = failed(shelf)
    for name in (keys.job(job_id), keys.claim(job_id), keys.trail(job_id)):
        shelf.redis.expire(name, 100)
    shelf.jobs.update(job_id, lambda r: lifecycle.edit(Change(r, NOW, POLICY), {"name": "new"}))
    assert is_for_days(times(shelf, job_id))


def test_without_retention_jobs_never_expire_once_changed(shelf: Shelf) -> None:
    job_id = failed(shelf)
    keeping(shelf, None)
    assert times(shelf, failed(shelf)) == {FOR_EVER}
    shelf.jobs.update(job_id, lambda r: lifecycle.edit(Change(r, NOW, POLICY), {"name": "new"}))
    assert times(shelf, job_id) == {FOR_EVER}


def test_an_expired_job_is_gone_and_never_dispatched_again(shelf: Shelf) -> None:
    keeping(shelf, timedelta(milliseconds=1))
    token = shelf.accepted()
    report(shelf, token.job_id, "e1", JobStatus.FAILED)
    wait_until(lambda: shelf.jobs.load(token.job_id) is None, 5, "the job is gone")
    queued = shelf.messages()
    for late in (
        lambda: retry(shelf, token.job_id),
        lambda: shelf.jobs.update(token.job_id, lambda r: decide_run(Change(r, NOW, POLICY))),
        lambda: shelf.begin(token),
        lambda: shelf.settle(token, ClaimEvent.ACCEPTED),
        lambda: report(shelf, token.job_id, "e2", JobStatus.AUDIO_READY),
    ):
        with pytest.raises(ResourceNotFound):
            late()
    assert shelf.messages() == queued
    assert not shelf.redis.exists(keys.job(token.job_id), keys.claim(token.job_id))


def test_a_change_of_a_job_that_has_just_expired_writes_nothing(shelf: Shelf) -> None:
    job_id = failed(shelf)
    known = shelf.record(job_id)
    names = (keys.job(job_id), keys.claim(job_id), keys.trail(job_id))
    for name in names:
        shelf.redis.pexpire(name, 1)
    wait_until(lambda: not shelf.redis.exists(*names), 30, "the job is gone")
    with pytest.raises(ResourceNotFound):
        shelf.jobs.update(
            job_id, lambda r: lifecycle.edit(Change(r, NOW, POLICY), {"name": "new"}), known=known
        )
    assert not shelf.redis.exists(*names)


def expire_jobs(shelf: Shelf, number: int) -> None:
    """Make jobs that have expired but are still listed."""
    for _ in range(number):
        shelf.redis.delete(*shelf.redis.keys(f"takeone:{{{failed(shelf)}}}:*"))


def listed(shelf: Shelf) -> list[int]:
    """The sizes of the lists of jobs."""
    names = (
        keys.project_jobs(shelf.project.id),
        keys.user_jobs("alice"),
        keys.user_changes("alice"),
    )
    return [shelf.redis.zcard(name) for name in names]


def walk(retention: Retention, now: datetime, redis: Redis) -> Counter[str]:
    """Take enough steps to examine every list."""
    return sum((retention.step(now) for _ in range(4 + redis.dbsize() // 200)), Counter())


def test_expired_jobs_are_removed_from_lists_that_nothing_reads(shelf: Shelf) -> None:
    expire_jobs(shelf, 450)  # more than are examined at once
    kept = [failed(shelf), shelf.uploaded()]
    retention = Retention(shelf.client, shelf.jobs, DAYS)
    assert walk(retention, NOW + DAYS, shelf.redis) == {}, "not yet older than the retention"
    done = walk(retention, NOW + DAYS + timedelta(hours=1), shelf.redis)
    assert done == {"unlisted": 4 * 450}
    assert listed(shelf) == [2, 2, 2]
    assert shelf.redis.zcard(keys.jobs_in(JobStatus.FAILED)) == 1
    assert all(shelf.jobs.load(job_id) for job_id in kept)
    assert shelf.redis.zcard(keys.user_projects("alice")) == 1, "a project does not expire"


def test_a_step_is_bounded_and_the_next_continues_behind_it(shelf: Shelf) -> None:
    for _ in range(1_100):
        shelf.new_job()
    expire_jobs(shelf, 3)
    retention, later = Retention(shelf.client, shelf.jobs, DAYS), NOW + 2 * DAYS

    def examined() -> int:
        return int(shelf.redis.info("commandstats").get("cmdstat_pttl", {"calls": 0})["calls"])

    unlisted, steps, before = 0, 0, examined()
    while unlisted < 4 * 3:
        unlisted += retention.step(later)["unlisted"]
        assert examined() - before < 1_200
        steps, before = steps + 1, examined()
        assert steps < 20
    assert steps > 3, "a list has more entries than a step examines"
    assert listed(shelf) == [1_100] * 3


def test_a_job_at_rest_since_before_there_was_retention_is_given_an_expiry(shelf: Shelf) -> None:
    keeping(shelf, None)
    resting, open_one = failed(shelf), shelf.unknown().job_id
    unreadable = failed(shelf)
    shelf.redis.set(keys.job(unreadable), "{")
    keeping(shelf, DAYS)
    retention = Retention(shelf.client, shelf.jobs, DAYS)
    revision = shelf.record(resting).revision
    done = walk(retention, NOW + 2 * DAYS, shelf.redis)
    assert done == {"timed": 1}
    assert is_for_days(times(shelf, resting))
    assert shelf.record(resting).revision == revision
    assert times(shelf, open_one) == {FOR_EVER}
    assert times(shelf, unreadable) == {FOR_EVER}


def test_memory_does_not_grow_with_the_number_of_expired_jobs(shelf: Shelf) -> None:
    kept, retention = 100, timedelta(milliseconds=300)
    keeping(shelf, retention)
    trimmer = Retention(shelf.client, shelf.jobs, retention)
    memory, whole = [], 2  # keys: the project, and its owner's list of projects
    for _ in range(11):
        for _ in range(kept):
            failed(shelf)
        wait_until(lambda: not shelf.redis.keys("*:job"), 20, "the jobs are gone")
        sweep_once(shelf.jobs, POLICY, LATER)
        walk(trimmer, LATER, shelf.redis)
        shelf.redis.delete(*shelf.redis.keys("takeone:broker:*"))  # workers would take them
        wait_until(lambda: shelf.redis.dbsize() == whole, 20, "no key of the jobs is left")
        memory.append(shelf.redis.info("memory")["used_memory"])
    assert max(memory[1:]) < memory[0] * 1.05, memory


def test_the_sweeper_takes_the_steps(shelf: Shelf) -> None:
    expire_jobs(shelf, 5)
    sweeper = Sweeper(
        shelf.jobs, POLICY, timedelta(milliseconds=20), lambda: NOW + 2 * DAYS,
        Retention(shelf.client, shelf.jobs, DAYS),
    )  # fmt: skip
    sweeping = PeriodicThread("sweep", 0.02, sweeper.step)
    sweeping.start()
    try:
        wait_until(lambda: listed(shelf) == [0, 0, 0], 10, "the lists are empty")
    finally:
        sweeping.stop()
