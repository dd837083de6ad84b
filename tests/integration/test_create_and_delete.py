"""Records are created once per idempotency key, and deleted with everything that is kept of them."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from uuid import uuid4

import pytest

from domain import lifecycle
from domain.claim import ClaimEvent
from domain.errors import IdempotencyKeyMismatch, NotTerminal, RateLimited, ResourceNotFound
from domain.job import Project
from domain.record import Change, Decision, Record
from store import keys
from store.idempotency import IdempotencyKeys
from store.indexes import INDEXES
from tasks.sweep import sweep_once
from tests.support.stores import NOW, POLICY, Shelf

KEY = ("alice", "projects/p/jobs", "a key")
WEEK = 604_800
CAN_CANCEL = replace(POLICY, can_cancel=True)


@pytest.fixture
def idempotency_keys(shelf: Shelf) -> IdempotencyKeys:
    """The keys of the shelf's store."""
    return IdempotencyKeys(shelf.client, WEEK)


def create_job(shelf: Shelf, job_id: str) -> bool:
    """Create a job as a request with an idempotency key does; whether it is new."""
    job = lifecycle.create_job(job_id, shelf.project.id, "alice", NOW, None)
    return shelf.jobs.create(job, WEEK)


def job_at_rest(shelf: Shelf) -> str:
    """Make a job that was accepted and cancelled, with a callback; return its id."""
    token = shelf.accepted()
    shelf.jobs.update(token.job_id, lambda r: lifecycle.cancel(Change(r, NOW, CAN_CANCEL)))
    shelf.jobs.update(
        token.job_id,
        lambda r: lifecycle.cancel_notified(Change(r, NOW, POLICY), token, "done", True),
    )
    shelf.redis.hset(keys.callbacks(token.job_id), "event", "digest")
    return token.job_id


def traces(shelf: Shelf, record_id: str) -> list[str]:
    """All keys whose name or members contain a record's id."""
    read = {"zset": shelf.redis.zrange, "list": shelf.redis.lrange}

    def text(name: str) -> str:
        kind = shelf.redis.type(name)
        return f"{name} {read[kind](name, 0, -1) if kind in read else ''}"

    return [name for name in shelf.redis.keys("*") if record_id in text(name)]


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


def test_neither_key_nor_user_nor_body_is_stored_in_clear(
    shelf: Shelf, idempotency_keys: IdempotencyKeys
) -> None:
    before = set(shelf.redis.keys())
    key = ("planted-user", "place", "planted-key")
    idempotency_keys.id_for(key, {"name": "planted-name"}, "an-id", no_limit)
    (name,) = set(shelf.redis.keys()) - before
    assert "planted" not in name + shelf.redis.get(name)


def test_concurrent_requests_with_one_key_create_one_record(
    shelf: Shelf, idempotency_keys: IdempotencyKeys
) -> None:
    barrier = threading.Barrier(16)

    def create(number: int) -> tuple[str, bool]:
        barrier.wait(10)
        job_id = idempotency_keys.id_for(KEY, {}, str(uuid4()), no_limit)
        return job_id, create_job(shelf, job_id)

    with ThreadPoolExecutor(16) as pool:
        ids, are_new = zip(*pool.map(create, range(16)), strict=True)
    assert len({*ids}) == 1
    assert sorted(are_new) == [False] * 15 + [True]
    assert len(shelf.jobs.trail(ids[0], 0, 10)[0]) == 1


def test_after_a_crash_between_the_writes_a_repeat_creates_the_record(
    shelf: Shelf, idempotency_keys: IdempotencyKeys
) -> None:
    idempotency_keys.id_for(KEY, {}, "the-id", no_limit)  # and the process dies
    assert shelf.jobs.load("the-id") is None
    assert idempotency_keys.id_for(KEY, {}, "another", no_limit) == "the-id"
    assert create_job(shelf, "the-id")
    assert not create_job(shelf, "the-id")


def test_a_stalled_request_does_not_recreate_a_deleted_job(
    shelf: Shelf, idempotency_keys: IdempotencyKeys
) -> None:
    idempotency_keys.id_for(KEY, {}, "the-id", no_limit)  # and the process stalls
    assert create_job(shelf, "the-id")  # by the repeat
    shelf.delete("the-id")
    before = sorted(shelf.redis.keys())
    assert not create_job(shelf, "the-id")  # it continues
    assert shelf.jobs.load("the-id") is None
    assert sorted(shelf.redis.keys()) == before


def test_a_project_id_stays_used_when_the_project_is_gone(shelf: Shelf) -> None:
    project = Project(id="the-id", name="P", owner="alice", created_at=NOW)
    assert shelf.projects.create(project, WEEK)
    assert not shelf.projects.create(project, WEEK)
    shelf.redis.delete(keys.project("the-id"))
    assert not shelf.projects.create(project, WEEK)
    assert shelf.projects.load("the-id") is None


def test_a_key_expires_and_the_marker_of_its_id_not_before(
    shelf: Shelf, idempotency_keys: IdempotencyKeys
) -> None:
    before = set(shelf.redis.keys())
    idempotency_keys.id_for(KEY, {}, "the-id", no_limit)
    (key,) = set(shelf.redis.keys()) - before
    assert WEEK - 60 < shelf.redis.ttl(key) <= WEEK
    shelf.redis.expire(key, WEEK - 100)
    create_job(shelf, "the-id")
    assert shelf.redis.ttl(keys.made("the-id")) > shelf.redis.ttl(key)
    shelf.redis.expire(key, 0)
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


def test_creating_without_a_key_leaves_no_marker(shelf: Shelf) -> None:
    assert not shelf.redis.exists(keys.made(shelf.new_job()), keys.made(shelf.project.id))


def test_deleting_a_job_leaves_no_trace(shelf: Shelf) -> None:
    kept, job_id = shelf.uploaded(), job_at_rest(shelf)
    # Job, claim, trail, callbacks, three lists, two messages.
    assert len(traces(shelf, job_id)) == 9
    queues = [name for name in traces(shelf, job_id) if "broker" in name]
    shelf.redis.delete(*queues)
    for index in INDEXES:
        shelf.redis.zadd(index, {job_id: 1})
    shelf.jobs.update(job_id, lifecycle.delete)
    assert traces(shelf, job_id) == []
    assert shelf.jobs.load(job_id) is None
    with pytest.raises(ResourceNotFound):
        shelf.jobs.update(job_id, lifecycle.delete)
    assert len(traces(shelf, kept)) == 6


def test_a_refused_delete_changes_nothing(shelf: Shelf) -> None:
    job_id = shelf.uploaded()
    before = traces(shelf, job_id)
    with pytest.raises(NotTerminal):
        shelf.jobs.update(job_id, lifecycle.delete)
    assert traces(shelf, job_id) == before


def test_delete_applies_the_rule_again_if_the_job_has_changed(shelf: Shelf) -> None:
    job_id, seen = job_at_rest(shelf), []

    def rule(record: Record) -> Decision[None]:
        seen.append(record.job.name)
        if len(seen) == 1:
            shelf.jobs.update(
                job_id, lambda r: lifecycle.edit(Change(r, NOW, POLICY), {"name": "new"})
            )
        return lifecycle.delete(record)

    shelf.jobs.update(job_id, rule)
    assert seen == [None, "new"]
    assert shelf.jobs.load(job_id) is None


def test_late_steps_for_a_deleted_job_change_nothing(shelf: Shelf) -> None:
    job_id = job_at_rest(shelf)
    record = shelf.record(job_id)
    token = record.token
    shelf.jobs.update(job_id, lifecycle.delete)
    for name in traces(shelf, job_id):
        shelf.redis.delete(name)  # the message of the cancel
    for late in (lambda: shelf.begin(token), lambda: shelf.settle(token, ClaimEvent.ACCEPTED)):
        with pytest.raises(ResourceNotFound):
            late()
    with pytest.raises(ResourceNotFound):  # from a record read before
        shelf.jobs.update(
            job_id, lambda r: lifecycle.edit(Change(r, NOW, POLICY), {"name": "n"}), known=record
        )
    shelf.redis.zadd(keys.DUE, {job_id: 1})
    assert sweep_once(shelf.jobs, POLICY, NOW) == {"dropped": 1}
    assert traces(shelf, job_id) == []
