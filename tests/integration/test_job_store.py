"""The job store: compare-and-set, atomic commits, and which keys are written."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis.exceptions import NoScriptError

from devstack.waiting import wait_until
from domain import lifecycle
from domain.claim import Claim, ClaimEvent
from domain.claim_rules import begin
from domain.job import Project
from domain.job_fsm import JobStatus
from domain.record import AppliedEvent, Change, Decision, Record
from domain.run import CallOutcome, DispatchResult, decide_run
from store import codec, keys
from store.errors import RecordUnreadable, StoreContended, StoreUnavailable
from store.lists import PageQuery
from tasks.queues import KEY_PREFIX
from tests.support.stores import NOW, POLICY, QUEUES, Database, seconds

THREADS, CHANGES = 4, 20


def _crc16(data: bytes) -> int:
    # CRC-16/XMODEM, as Redis Cluster computes a key's slot.
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1
    return crc & 0xFFFF


def _slot(key: str) -> int:
    tag = key[key.index("{") + 1 : key.index("}")]
    return _crc16(tag.encode()) % 16384


def _add_export(record: Record, name: str) -> Decision[None]:
    change = Change(record, NOW, POLICY)
    change.update_job(manifest=record.job.manifest.merged({"exports": [name]}))
    return change.decision(None)


def test_concurrent_updates_are_not_lost(database: Database) -> None:
    job_id = database.new_job()

    def work(thread: int) -> None:
        for number in range(CHANGES):
            name = f"{thread}-{number}"
            database.jobs.update(job_id, lambda record, name=name: _add_export(record, name))

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    job = database.record(job_id).job
    assert len(set(job.manifest.exports)) == THREADS * CHANGES
    assert job.version == 1 + THREADS * CHANGES


def test_of_concurrent_runs_one_claims_and_the_others_join(database: Database) -> None:
    job_id, barrier = database.uploaded(), threading.Barrier(THREADS)

    def run(_: int) -> CallOutcome:
        is_first = [True]

        def rule(record: Record) -> Decision[DispatchResult]:
            if is_first:  # all have read the same record before any of them commits
                is_first.clear()
                barrier.wait(5)
            return decide_run(Change(record, NOW, POLICY))

        return database.jobs.update(job_id, rule).result.outcome

    with ThreadPoolExecutor(THREADS) as pool:
        outcomes = list(pool.map(run, range(THREADS)))
    assert sorted(outcomes) == sorted([CallOutcome.STARTED, *[CallOutcome.JOINED] * (THREADS - 1)])
    assert database.messages() == 1


def _claim_after(act: Callable[[], object]) -> Callable[[Record], Decision[Any]]:
    """A rule that runs `act` once the record is read and then claims, and does nothing at the next try."""
    acts = [act]

    def rule(record: Record) -> Decision[Any]:
        if not acts:
            return Decision(None, record)
        acts.pop()()
        return decide_run(Change(record, NOW, POLICY))

    return rule


def test_a_rule_that_changes_nothing_has_seen_the_present_record(database: Database) -> None:
    # A caller who joins a dispatch may have read the record before a notification that it did not wait for yet.
    job_id = database.uploaded()
    database.jobs.update(job_id, lambda record: decide_run(Change(record, NOW, POLICY)))
    known = database.record(job_id)
    database.begin(known.token)
    database.settle(known.token, ClaimEvent.ACCEPTED)

    joined = database.jobs.update(
        job_id, lambda record: decide_run(Change(record, NOW, POLICY)), known=known
    )
    assert joined.result.outcome is CallOutcome.REPLAYED
    assert joined.record == database.record(job_id)


def test_a_commit_writes_nothing_if_the_job_has_changed(database: Database) -> None:
    job_id = database.uploaded()

    def change() -> None:
        database.jobs.update(job_id, lambda record: _add_export(record, "meanwhile"))

    assert not database.jobs.update(job_id, _claim_after(change)).changed
    record = database.record(job_id)
    assert (record.claim, record.job.manifest.exports) == (None, ["meanwhile"])
    assert len(database.jobs.trail(job_id, 0, 100)[0]) == 2
    assert (database.messages(), list(database.jobs.due_index.listed(keys.IN_FLIGHT))) == (0, [])


def test_a_commit_writes_nothing_if_the_claim_has_changed(database: Database) -> None:
    job_id = database.uploaded()
    assert not database.jobs.update(job_id, _claim_after(lambda: database.run(job_id))).changed
    assert database.claim(job_id).epoch == 1
    assert database.messages() == 1


def test_of_two_workers_with_the_same_claim_one_begins(database: Database) -> None:
    token = database.run(database.uploaded())
    others = [lambda: database.begin(token)]

    def rule(record: Record) -> Decision[bool]:
        if others:
            assert others.pop()()
        return begin(Change(record, NOW, POLICY), token)

    assert not database.jobs.update(token.job_id, rule).result
    assert database.claim(token.job_id).sends == 1


def test_a_commit_writes_job_claim_trail_callback_and_message(database: Database) -> None:
    job_id = database.uploaded()

    def rule(record: Record) -> Decision[None]:
        run = decide_run(Change(record, NOW, POLICY))
        change = Change(run.record, NOW, POLICY, events=run.events, task=run.task)
        change.update_job(manifest=change.job.manifest.merged({"exports": ["e"]}))
        return change.decision(None, callback=("event", AppliedEvent("digest", "run-1")))

    decision = database.jobs.update(job_id, rule)
    loaded = database.jobs.get(job_id, event_id="event")
    assert loaded == decision.record
    assert loaded.revision == decision.record.revision
    assert loaded.seen == AppliedEvent("digest", "run-1")
    assert database.jobs.trail(job_id, 0, 100)[0][-1] == decision.events[-1]
    assert database.messages() == 1


def test_a_claim_is_set_only_where_there_is_none_and_does_not_expire(database: Database) -> None:
    job_id = database.uploaded()
    database.redis.set(keys.claim(job_id), b"")  # reads as no claim, but exists
    with pytest.raises(StoreContended):
        database.run(job_id)
    database.redis.delete(keys.claim(job_id))
    database.run(job_id)
    assert database.redis.ttl(keys.claim(job_id)) == -1


def test_freeing_a_claim_deletes_its_key(database: Database) -> None:
    token = database.run(database.uploaded())
    assert database.begin(token)
    assert database.settle(token, ClaimEvent.REFUSED)
    assert not database.redis.exists(keys.claim(token.job_id))
    assert database.run(token.job_id).epoch == token.epoch + 1


def test_the_indexes_have_when_a_claim_is_due_and_since_when_it_is_unknown(
    database: Database,
) -> None:
    def listed() -> tuple[float | None, float | None]:
        due = database.redis.zscore(keys.DUE, token.job_id)
        return due, database.redis.zscore(keys.UNKNOWN, token.job_id)

    token = database.run(database.uploaded())
    assert listed() == ((NOW + POLICY.claim_lease).timestamp(), None)
    assert database.begin(token, NOW + seconds(1))
    assert listed() == ((NOW + seconds(1) + POLICY.send_lease).timestamp(), None)
    assert database.settle(token, ClaimEvent.LOST, NOW + seconds(2))
    assert listed() == ((NOW + seconds(62)).timestamp(), (NOW + seconds(1)).timestamp())
    assert database.settle(token, ClaimEvent.ACCEPTED)
    assert listed() == (None, None)


def test_an_unreadable_record_does_not_hide_others(database: Database) -> None:
    token, other = database.run(database.uploaded()), database.uploaded()
    raw = database.redis.get(keys.claim(token.job_id))
    database.redis.set(keys.claim(token.job_id), raw.replace("CLAIMED", "UNHEARD_OF"))
    with pytest.raises(RecordUnreadable) as refused:
        database.jobs.load(token.job_id)
    assert refused.value.record_id == token.job_id
    page = database.projects.jobs(database.project.id, PageQuery(10))
    assert [record.job.id for record in page.items] == [other]


@pytest.mark.parametrize("corrupt", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"id": 1}'])
def test_a_corrupt_record_is_unreadable(database: Database, corrupt: bytes) -> None:
    job_id = database.new_job()
    database.redis.set(keys.job(job_id), corrupt)
    with pytest.raises(RecordUnreadable):
        database.jobs.load(job_id)
    with pytest.raises(RecordUnreadable):
        codec.load(Claim, job_id, corrupt)
    with pytest.raises(RecordUnreadable):
        codec.load(Project, database.project.id, corrupt)


def test_the_keys_of_a_job_share_one_hash_slot(database: Database) -> None:
    assert _crc16(b"123456789") == 0x31C3  # the check value of the Redis Cluster specification
    job_id = database.new_job()
    kinds = (keys.job, keys.claim, keys.trail, keys.callbacks, keys.made)
    names = [name(job_id) for name in kinds]
    assert len({_slot(name) for name in names}) == 1
    assert _slot(keys.job(job_id)) == _crc16(job_id.encode()) % 16384


@pytest.mark.parametrize("full", QUEUES)
def test_the_message_goes_to_the_shorter_of_the_users_queues(database: Database, full: str) -> None:
    database.redis.lpush(KEY_PREFIX + full, "a", "b", "c")
    for _ in range(3):
        database.run(database.uploaded())
    assert [database.redis.llen(KEY_PREFIX + queue) for queue in QUEUES] == [3, 3]


def test_an_update_gives_up_on_a_record_that_keeps_changing(database: Database) -> None:
    job_id = database.uploaded()

    def overtaken(record: Record) -> Decision[None]:
        database.jobs.update(job_id, lambda other: _add_export(other, f"{other.job.version}"))
        return _add_export(record, "late")

    with pytest.raises(StoreContended):
        database.jobs.update(job_id, overtaken)
    assert "late" not in database.record(job_id).job.manifest.exports


def test_a_cancel_frees_the_claim_in_the_same_commit(database: Database) -> None:
    token = database.run(database.uploaded())
    database.jobs.update(token.job_id, lambda record: lifecycle.cancel(Change(record, NOW, POLICY)))
    assert database.record(token.job_id).claim is None
    assert database.record(token.job_id).job.status is JobStatus.CANCELLED
    assert not database.redis.exists(keys.jobs_in("CANCELLED")), "a state without a list"
    assert not database.begin(token)


def test_a_list_of_a_state_keeps_its_newest_jobs(database: Database) -> None:
    name, most = keys.jobs_in("UPLOADED"), 100_000
    database.redis.zadd(name, {f"{number:016d}": 0 for number in range(most)})
    job_id = database.uploaded()
    assert database.redis.zcard(name) == most
    assert database.redis.zrange(name, 0, 0) == [f"{1:016d}"]
    assert database.redis.zrange(name, -1, -1)[0].endswith(job_id)


def test_a_script_that_is_flushed_before_its_call_counts_as_unavailable(database: Database) -> None:
    """So does one that was loaded at the server that a failover has just replaced."""
    job_id, lost = database.new_job(), threading.Event()

    def flush() -> None:
        with database.redis.pipeline(transaction=False) as pipeline:
            while not lost.is_set():
                for _ in range(100):
                    pipeline.script_flush()
                pipeline.execute()

    def add_exports() -> bool:
        try:
            database.jobs.update(job_id, lambda record: _add_export(record, "one"))
        except StoreUnavailable as error:
            return isinstance(error.__cause__, NoScriptError)
        return False

    flushing = threading.Thread(target=flush)
    flushing.start()
    try:
        wait_until(add_exports, 30, "a call of a script that is gone")
    finally:
        lost.set()
        flushing.join()
