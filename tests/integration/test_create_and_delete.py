"""Records are created once per idempotency key, and deleted with everything that is kept of them."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from uuid import uuid4

import pytest

from domain import lifecycle
from domain.claim import ClaimEvent, Phase
from domain.errors import IdempotencyKeyMismatch, NotTerminal, RateLimited, ResourceNotFound
from domain.job import Project
from domain.record import Change, Decision, Record
from store import keys
from store.idempotency import IdempotencyKeys
from store.indexes import INDEXES
from tasks.sweep import sweep_once
from tests.support.stores import NOW, POLICY, Database

KEY = ("alice", "projects/p/jobs", "a key")
WEEK = 604_800
CAN_CANCEL = replace(POLICY, can_cancel=True)


@pytest.fixture
def idempotency_keys(database: Database) -> IdempotencyKeys:
    """The keys of the database's store."""
    return IdempotencyKeys(database.client, WEEK)


def create_job(database: Database, job_id: str) -> bool:
    """Create a job as a request with an idempotency key does; whether it is new."""
    job = lifecycle.create_job(job_id, database.project.id, "alice", NOW, None)
    return database.jobs.create(job, WEEK)


def job_at_rest(database: Database) -> str:
    """Make a job that was accepted and cancelled, with a callback; return its id."""
    token = database.accepted()
    database.jobs.update(token.job_id, lambda r: lifecycle.cancel(Change(r, NOW, CAN_CANCEL)))
    database.jobs.update(
        token.job_id,
        lambda r: lifecycle.cancel_notified(Change(r, NOW, POLICY), token, "done", True),
    )
    database.redis.hset(keys.callbacks(token.job_id), "event", "digest")
    return token.job_id


def traces(database: Database, record_id: str) -> list[str]:
    """All keys whose name or members contain a record's id."""
    read = {"zset": database.redis.zrange, "list": database.redis.lrange}

    def text(name: str) -> str:
        kind = database.redis.type(name)
        return f"{name} {read[kind](name, 0, -1) if kind in read else ''}"

    return [name for name in database.redis.keys("*") if record_id in text(name)]


def no_limit() -> None:
    """Where no write limit is set."""


def test_a_key_maps_to_one_id_and_one_body(idempotency_keys: IdempotencyKeys) -> None:
    body = {"name": "a", "metadata": {"x": "1"}}
    assert idempotency_keys.id_for(KEY, body, "first", no_limit) == "first"
    assert idempotency_keys.id_for(KEY, dict(reversed(body.items())), "second", no_limit) == "first"
    with pytest.raises(IdempotencyKeyMismatch):
        idempotency_keys.id_for(KEY, {"name": "b"}, "third", no_limit)
    others = [("bob", *KEY[1:]), (KEY[0], "projects", KEY[2]), (*KEY[:2], "another")]
    for number, other in enumerate(others):
        new_id = f"other-{number}"
        assert idempotency_keys.id_for(other, {"name": "b"}, new_id, no_limit) == new_id


def test_of_two_first_uses_of_a_key_the_one_stored_first_counts(
    idempotency_keys: IdempotencyKeys,
) -> None:
    def other() -> None:
        assert idempotency_keys.id_for(KEY, {}, "first", no_limit) == "first"

    assert idempotency_keys.id_for(KEY, {}, "second", other) == "first"


def test_neither_key_nor_user_nor_body_is_stored_in_clear(
    database: Database, idempotency_keys: IdempotencyKeys
) -> None:
    before = set(database.redis.keys())
    key = ("planted-user", "place", "planted-key")
    idempotency_keys.id_for(key, {"name": "planted-name"}, "an-id", no_limit)
    (name,) = set(database.redis.keys()) - before
    assert "planted" not in name + database.redis.get(name)


def test_concurrent_requests_with_one_key_create_one_record(
    database: Database, idempotency_keys: IdempotencyKeys
) -> None:
    barrier = threading.Barrier(16)

    def create(number: int) -> tuple[str, bool]:
        barrier.wait(10)
        job_id = idempotency_keys.id_for(KEY, {}, str(uuid4()), no_limit)
        return job_id, create_job(database, job_id)

    with ThreadPoolExecutor(16) as pool:
        ids, are_new = zip(*pool.map(create, range(16)), strict=True)
    assert len({*ids}) == 1
    assert sorted(are_new) == [False] * 15 + [True]
    assert len(database.jobs.trail(ids[0], 0, 10)[0]) == 1


def test_after_a_crash_between_the_writes_a_repeat_creates_the_record(
    database: Database, idempotency_keys: IdempotencyKeys
) -> None:
    idempotency_keys.id_for(KEY, {}, "the-id", no_limit)  # and the process dies
    assert database.jobs.load("the-id") is None
    assert idempotency_keys.id_for(KEY, {}, "another", no_limit) == "the-id"
    assert create_job(database, "the-id")
    assert not create_job(database, "the-id")


def test_a_stalled_request_does_not_recreate_a_deleted_job(
    database: Database, idempotency_keys: IdempotencyKeys
) -> None:
    idempotency_keys.id_for(KEY, {}, "the-id", no_limit)  # and the process stalls
    assert create_job(database, "the-id")  # by the repeat
    database.delete("the-id")
    before = sorted(database.redis.keys())
    assert not create_job(database, "the-id")  # it continues
    assert database.jobs.load("the-id") is None
    assert sorted(database.redis.keys()) == before


def test_a_project_id_stays_used_when_the_project_is_gone(database: Database) -> None:
    project = Project(id="the-id", name="P", owner="alice", created_at=NOW)
    assert database.projects.create(project, WEEK)
    assert not database.projects.create(project, WEEK)
    database.redis.delete(keys.project("the-id"))
    assert not database.projects.create(project, WEEK)
    assert database.projects.load("the-id") is None


def test_a_record_whose_marker_has_expired_is_not_created_again(database: Database) -> None:
    assert create_job(database, "the-id")
    database.redis.delete(keys.made("the-id"))
    assert not create_job(database, "the-id")


def test_a_key_expires_and_the_marker_of_its_id_not_before(
    database: Database, idempotency_keys: IdempotencyKeys
) -> None:
    before = set(database.redis.keys())
    idempotency_keys.id_for(KEY, {}, "the-id", no_limit)
    (key,) = set(database.redis.keys()) - before
    assert WEEK - 60 < database.redis.ttl(key) <= WEEK
    database.redis.expire(key, WEEK - 100)
    create_job(database, "the-id")
    assert database.redis.ttl(keys.made("the-id")) > database.redis.ttl(key)
    database.redis.expire(key, 0)
    assert idempotency_keys.id_for(KEY, {"name": "b"}, "another", no_limit) == "another"


def test_the_write_limit_keeps_a_new_key_unknown_and_does_not_apply_to_a_replay(
    idempotency_keys: IdempotencyKeys,
) -> None:
    def limit_reached() -> None:
        raise RateLimited(1)

    with pytest.raises(RateLimited):
        idempotency_keys.id_for(KEY, {"name": "a"}, "first", limit_reached)
    assert idempotency_keys.id_for(KEY, {"name": "b"}, "second", no_limit) == "second"
    assert idempotency_keys.id_for(KEY, {"name": "b"}, "third", limit_reached) == "second"


def test_creating_without_a_key_leaves_no_marker(database: Database) -> None:
    assert not database.redis.exists(keys.made(database.new_job()), keys.made(database.project.id))


def test_deleting_a_job_leaves_no_trace(database: Database) -> None:
    kept, job_id = database.uploaded(), job_at_rest(database)
    # Job, claim, trail, callbacks, three lists, two messages.
    assert len(traces(database, job_id)) == 9
    queues = [name for name in traces(database, job_id) if "broker" in name]
    database.redis.delete(*queues)
    for index in INDEXES:
        database.redis.zadd(index, {job_id: 1})
    database.jobs.update(job_id, lifecycle.delete)
    assert traces(database, job_id) == []
    assert database.jobs.load(job_id) is None
    with pytest.raises(ResourceNotFound):
        database.jobs.update(job_id, lifecycle.delete)
    assert len(traces(database, kept)) == 6


def test_a_refused_delete_changes_nothing(database: Database) -> None:
    job_id = database.uploaded()
    before = traces(database, job_id)
    with pytest.raises(NotTerminal):
        database.jobs.update(job_id, lifecycle.delete)
    assert traces(database, job_id) == before


def test_delete_applies_the_rule_again_if_the_job_has_changed(database: Database) -> None:
    job_id, seen = job_at_rest(database), []

    def rule(record: Record) -> Decision[None]:
        seen.append(record.job.name)
        if len(seen) == 1:
            database.jobs.update(
                job_id, lambda r: lifecycle.edit(Change(r, NOW, POLICY), {"name": "new"})
            )
        return lifecycle.delete(record)

    database.jobs.update(job_id, rule)
    assert seen == [None, "new"]
    assert database.jobs.load(job_id) is None


def test_delete_applies_the_rule_again_if_the_claim_has_changed(database: Database) -> None:
    token, seen = database.run(database.uploaded()), []

    def rule(record: Record) -> Decision[None]:
        seen.append(record.claim and record.claim.phase)
        if len(seen) == 1:
            assert database.begin(token)
        return lifecycle.delete(record, forced=True)

    database.jobs.update(token.job_id, rule)
    assert seen == [Phase.CLAIMED, Phase.SENDING]


def test_late_steps_for_a_deleted_job_change_nothing(database: Database) -> None:
    job_id = job_at_rest(database)
    record = database.record(job_id)
    token = record.token
    database.jobs.update(job_id, lifecycle.delete)
    for name in traces(database, job_id):
        database.redis.delete(name)  # the message of the cancel
    for late in (
        lambda: database.begin(token),
        lambda: database.settle(token, ClaimEvent.ACCEPTED),
    ):
        with pytest.raises(ResourceNotFound):
            late()
    with pytest.raises(ResourceNotFound):  # from a record read before
        database.jobs.update(
            job_id, lambda r: lifecycle.edit(Change(r, NOW, POLICY), {"name": "n"}), known=record
        )
    database.redis.zadd(keys.DUE, {job_id: 1})
    assert sweep_once(database.jobs, POLICY, NOW) == {"dropped": 1}
    assert traces(database, job_id) == []
