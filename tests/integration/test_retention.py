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
from tests.support.stores import NOW, POLICY, QUEUES, Database

DAYS = timedelta(days=30)
CAN_CANCEL = replace(POLICY, can_cancel=True)
LATER = NOW + timedelta(minutes=1)
FOR_EVER = -1


@pytest.fixture
def database(redis_server: RedisServer) -> Database:
    """An empty store whose jobs are kept for 30 days."""
    return keeping(Database(redis_server), DAYS)


def keeping(database: Database, retention: timedelta | None) -> Database:
    """Give the store this retention."""
    database.jobs = JobStore(database.client, TransactionalOutbox(QUEUES), retention)
    return database


def times(database: Database, job_id: str) -> set[int]:
    """The times to live, in seconds, of a job's keys."""
    names = [keys.job(job_id), keys.claim(job_id), keys.trail(job_id), keys.callbacks(job_id)]
    return {database.redis.ttl(name) for name in names if database.redis.exists(name)}


def is_for_days(found: set[int]) -> bool:
    """Whether all times are the retention, give or take a minute for the test itself."""
    whole = DAYS.total_seconds()
    return bool(found) and whole - 60 < min(found) <= max(found) <= whole


def report(database: Database, job_id: str, event_id: str, status: JobStatus) -> None:
    """Apply a callback."""
    failure = Failure(code="x") if status is JobStatus.FAILED else None
    callback = StatusCallback(
        event_id=event_id, digest=event_id, status=status, occurred_at=NOW, correlation_id="c",
        failure=failure,
    )  # fmt: skip
    database.jobs.update(
        job_id, lambda r: apply_callback(Change(r, NOW, POLICY), callback), event_id=event_id
    )


def failed(database: Database) -> str:
    """Make a failed job with a claim, a trail and a callback; return its id."""
    token = database.accepted()
    report(database, token.job_id, "e1", JobStatus.FAILED)
    return token.job_id


def retry(database: Database, job_id: str) -> FencingToken:
    """Retry the job; return the token of the new claim."""
    database.jobs.update(job_id, lambda r: decide_retry(Change(r, NOW, POLICY), "one", "standard"))
    return database.record(job_id).token


def test_all_keys_of_a_job_that_comes_to_rest_expire(database: Database) -> None:
    token = database.accepted()
    report(database, token.job_id, "e1", JobStatus.AUDIO_READY)
    assert times(database, token.job_id) == {FOR_EVER}
    report(database, token.job_id, "e2", JobStatus.FAILED)
    assert database.redis.exists(keys.claim(token.job_id), keys.callbacks(token.job_id)) == 2
    assert is_for_days(times(database, token.job_id))


def test_a_retry_removes_the_expiry_until_the_job_is_at_rest_again(database: Database) -> None:
    job_id = failed(database)
    token = retry(database, job_id)
    assert times(database, job_id) == {FOR_EVER}
    assert database.begin(token)
    assert database.settle(token, ClaimEvent.ACCEPTED)
    assert times(database, job_id) == {FOR_EVER}, "its first callback is still due"
    report(database, job_id, "e2", JobStatus.AUDIO_EXTRACTING)
    assert times(database, job_id) == {FOR_EVER}
    report(database, job_id, "e3", JobStatus.FAILED)
    assert is_for_days(times(database, job_id))


def test_a_refused_retry_leaves_the_job_at_rest(database: Database) -> None:
    token = retry(database, failed(database))
    assert database.begin(token)
    assert database.settle(token, ClaimEvent.REFUSED)
    assert is_for_days(times(database, token.job_id))


def test_a_cancelled_job_is_at_rest_once_its_outcome_is_known_and_the_engine_notified(
    database: Database,
) -> None:
    token = database.unknown()
    database.jobs.update(token.job_id, lambda r: lifecycle.cancel(Change(r, NOW, CAN_CANCEL)))
    assert times(database, token.job_id) == {FOR_EVER}
    assert database.settle(token, ClaimEvent.ACCEPTED)
    assert times(database, token.job_id) == {FOR_EVER}, "the orchestrator is not yet notified"
    database.jobs.update(
        token.job_id,
        lambda r: lifecycle.cancel_notified(Change(r, NOW, POLICY), token, "done", True),
    )
    assert is_for_days(times(database, token.job_id))


def test_an_edit_of_a_job_at_rest_restarts_its_expiry(database: Database) -> None:
    job_id = failed(database)
    for name in (keys.job(job_id), keys.claim(job_id), keys.trail(job_id)):
        database.redis.expire(name, 100)
    database.jobs.update(job_id, lambda r: lifecycle.edit(Change(r, NOW, POLICY), {"name": "new"}))
    assert is_for_days(times(database, job_id))


def test_without_retention_jobs_never_expire_once_changed(database: Database) -> None:
    job_id = failed(database)
    keeping(database, None)
    assert times(database, failed(database)) == {FOR_EVER}
    database.jobs.update(job_id, lambda r: lifecycle.edit(Change(r, NOW, POLICY), {"name": "new"}))
    assert times(database, job_id) == {FOR_EVER}


def test_an_expired_job_is_gone_and_never_dispatched_again(database: Database) -> None:
    keeping(database, timedelta(milliseconds=1))
    token = database.accepted()
    report(database, token.job_id, "e1", JobStatus.FAILED)
    wait_until(lambda: database.jobs.load(token.job_id) is None, 5, "the job is gone")
    queued = database.messages()
    for late in (
        lambda: retry(database, token.job_id),
        lambda: database.jobs.update(token.job_id, lambda r: decide_run(Change(r, NOW, POLICY))),
        lambda: database.begin(token),
        lambda: database.settle(token, ClaimEvent.ACCEPTED),
        lambda: report(database, token.job_id, "e2", JobStatus.AUDIO_READY),
    ):
        with pytest.raises(ResourceNotFound):
            late()
    assert database.messages() == queued
    assert not database.redis.exists(keys.job(token.job_id), keys.claim(token.job_id))


def test_a_change_of_a_job_that_has_just_expired_writes_nothing(database: Database) -> None:
    job_id = failed(database)
    known = database.record(job_id)
    names = (keys.job(job_id), keys.claim(job_id), keys.trail(job_id))
    for name in names:
        database.redis.pexpire(name, 1)
    wait_until(lambda: not database.redis.exists(*names), 30, "the job is gone")
    with pytest.raises(ResourceNotFound):
        database.jobs.update(
            job_id, lambda r: lifecycle.edit(Change(r, NOW, POLICY), {"name": "new"}), known=known
        )
    assert not database.redis.exists(*names)


def expire_jobs(database: Database, number: int) -> None:
    """Make jobs that have expired but are still listed."""
    for _ in range(number):
        database.redis.delete(*database.redis.keys(f"takeone:{{{failed(database)}}}:*"))


def listed(database: Database) -> list[int]:
    """The sizes of the lists of jobs."""
    names = (
        keys.project_jobs(database.project.id),
        keys.user_jobs("alice"),
        keys.user_changes("alice"),
    )
    return [database.redis.zcard(name) for name in names]


def walk(retention: Retention, now: datetime, redis: Redis) -> Counter[str]:
    """Take enough steps to examine every list."""
    return sum((retention.step(now) for _ in range(4 + redis.dbsize() // 200)), Counter())


def test_expired_jobs_are_removed_from_lists_that_nothing_reads(database: Database) -> None:
    expire_jobs(database, 450)  # more than are examined at once
    kept = [failed(database), database.uploaded()]
    retention = Retention(database.client, database.jobs, DAYS)
    assert walk(retention, NOW + DAYS, database.redis) == {}, "not yet older than the retention"
    done = walk(retention, NOW + DAYS + timedelta(hours=1), database.redis)
    assert done == {"unlisted": 4 * 450}
    assert listed(database) == [2, 2, 2]
    assert database.redis.zcard(keys.jobs_in(JobStatus.FAILED)) == 1
    assert all(database.jobs.load(job_id) for job_id in kept)
    assert database.redis.zcard(keys.user_projects("alice")) == 1, "a project does not expire"


def test_a_step_is_bounded_and_the_next_continues_behind_it(database: Database) -> None:
    for _ in range(1_100):
        database.new_job()
    expire_jobs(database, 3)
    retention, later = Retention(database.client, database.jobs, DAYS), NOW + 2 * DAYS

    def examined() -> int:
        return int(database.redis.info("commandstats").get("cmdstat_pttl", {"calls": 0})["calls"])

    unlisted, steps, before = 0, 0, examined()
    while unlisted < 4 * 3:
        unlisted += retention.step(later)["unlisted"]
        assert examined() - before < 1_200
        steps, before = steps + 1, examined()
        assert steps < 20
    assert steps > 3, "a list has more entries than a step examines"
    assert listed(database) == [1_100] * 3


def test_a_job_at_rest_since_before_there_was_retention_is_given_an_expiry(
    database: Database,
) -> None:
    keeping(database, None)
    resting, open_one = failed(database), database.unknown().job_id
    unreadable = failed(database)
    database.redis.set(keys.job(unreadable), "{")
    keeping(database, DAYS)
    retention = Retention(database.client, database.jobs, DAYS)
    revision = database.record(resting).revision
    done = walk(retention, NOW + 2 * DAYS, database.redis)
    assert done == {"timed": 1}
    assert is_for_days(times(database, resting))
    assert database.record(resting).revision == revision
    assert times(database, open_one) == {FOR_EVER}
    assert times(database, unreadable) == {FOR_EVER}


def test_memory_does_not_grow_with_the_number_of_expired_jobs(database: Database) -> None:
    kept, retention = 100, timedelta(milliseconds=300)
    keeping(database, retention)
    trimmer = Retention(database.client, database.jobs, retention)
    memory, whole = [], 2  # keys: the project, and its owner's list of projects
    for _ in range(11):
        for _ in range(kept):
            failed(database)
        wait_until(lambda: not database.redis.keys("*:job"), 20, "the jobs are gone")
        sweep_once(database.jobs, POLICY, LATER)
        walk(trimmer, LATER, database.redis)
        database.redis.delete(*database.redis.keys("takeone:broker:*"))  # workers would take them
        wait_until(lambda: database.redis.dbsize() == whole, 20, "no key of the jobs is left")
        memory.append(database.redis.info("memory")["used_memory"])
    assert max(memory[1:]) < memory[0] * 1.05, memory


def test_the_sweeper_takes_the_steps(database: Database) -> None:
    expire_jobs(database, 5)
    sweeper = Sweeper(
        database.jobs, POLICY, timedelta(milliseconds=20), lambda: NOW + 2 * DAYS,
        Retention(database.client, database.jobs, DAYS),
    )  # fmt: skip
    sweeping = PeriodicThread("sweep", 0.02, sweeper.step)
    sweeping.start()
    try:
        wait_until(lambda: listed(database) == [0, 0, 0], 10, "the lists are empty")
    finally:
        sweeping.stop()
