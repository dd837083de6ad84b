"""Created once per key, whatever comes between the writes; deleted with all that is kept."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from uuid import uuid4

import pytest

from domain import lifecycle
from domain.claim import ClaimEvent
from domain.errors import IdempotencyKeyMismatch, NotTerminal, RateLimited, ResourceNotFound
from domain.job import Project
from domain.record import Decision, Record
from store import keys
from store.idempotency import IdempotencyKeys
from store.indexes import INDEXES
from tasks.sweep import sweep_once
from tests.support.stores import NOW, POLICY, Shelf

KEY = ("alice", "projects/p/jobs", "the caller's own")
WEEK = 604_800
TELLS = replace(POLICY, can_cancel=True)


@pytest.fixture
def remembered(shelf: Shelf) -> IdempotencyKeys:
    """The keys of the shelf's store."""
    return IdempotencyKeys(shelf.client, WEEK)


def a_new_job(shelf: Shelf, job_id: str) -> Decision[None]:
    """What a process would write."""
    return lifecycle.create_job(job_id, shelf.project.id, "alice", NOW, None)


def a_new_project(project_id: str) -> Project:
    """What a process would write."""
    return Project(id=project_id, name="P", owner="alice", created_at=NOW)


def finished(shelf: Shelf) -> str:
    """A job that was accepted, cancelled, and that the orchestrator was told of, with a callback."""
    token = shelf.run(shelf.uploaded())
    assert shelf.begin(token)
    assert shelf.settle(token, ClaimEvent.ACCEPTED)
    shelf.jobs.update(token.job_id, lambda r: lifecycle.cancel(r, NOW, TELLS, None))
    shelf.jobs.update(
        token.job_id, lambda r: lifecycle.cancel_notified(r, token, "done", True, NOW)
    )
    shelf.redis.hset(keys.callbacks(token.job_id), "event", "digest")
    return token.job_id


def uncounted() -> None:
    """What is called before a key is remembered, where no limit is set."""


def traces(shelf: Shelf, record_id: str) -> list[str]:
    """Everything in the store that names a record."""
    found = []
    for name in shelf.redis.keys("*"):
        held = {
            "zset": lambda n: shelf.redis.zrange(n, 0, -1),
            "list": lambda n: shelf.redis.lrange(n, 0, -1),
        }
        members = held.get(shelf.redis.type(name), lambda n: [])(name)
        found += [name] if record_id in name or any(record_id in each for each in members) else []
    return found


def test_a_key_stands_for_one_id_and_one_body(remembered: IdempotencyKeys) -> None:
    body = {"name": "a", "metadata": {"x": "1"}}
    assert remembered.id_for(KEY, body, "first", uncounted) == "first"
    assert remembered.id_for(KEY, dict(reversed(body.items())), "second", uncounted) == "first"
    with pytest.raises(IdempotencyKeyMismatch):
        remembered.id_for(KEY, {"name": "b"}, "third", uncounted)
    others = [("bob", *KEY[1:]), (KEY[0], "projects", KEY[2]), (*KEY[:2], "another")]
    for number, other in enumerate(others):
        assert (
            remembered.id_for(other, {"name": "b"}, f"other-{number}", uncounted)
            == f"other-{number}"
        )


def test_neither_key_nor_caller_nor_body_is_stored(
    shelf: Shelf, remembered: IdempotencyKeys
) -> None:
    before = set(shelf.redis.keys())
    remembered.id_for(
        ("planted-user", "place", "planted-key"), {"name": "planted-name"}, "an-id", uncounted
    )
    (name,) = set(shelf.redis.keys()) - before
    assert "planted" not in name + shelf.redis.get(name)


def test_of_many_callers_with_one_key_one_makes_the_record(
    shelf: Shelf, remembered: IdempotencyKeys
) -> None:
    barrier = threading.Barrier(16)

    def create(number: int) -> tuple[str, bool]:
        barrier.wait(10)
        job_id = remembered.id_for(KEY, {}, str(uuid4()), uncounted)
        return job_id, shelf.jobs.create(a_new_job(shelf, job_id), WEEK)

    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(create, range(16)))
    assert len({job_id for job_id, _ in made}) == 1
    assert sorted(is_new for _, is_new in made) == [False] * 15 + [True]
    assert len(shelf.jobs.trail(made[0][0], 0, 10)[0]) == 1


def test_a_process_that_dies_between_the_writes_leaves_it_to_the_repeat(
    shelf: Shelf, remembered: IdempotencyKeys
) -> None:
    remembered.id_for(KEY, {}, "the-id", uncounted)  # and it dies
    assert shelf.jobs.load("the-id") is None
    assert remembered.id_for(KEY, {}, "another", uncounted) == "the-id"
    assert shelf.jobs.create(a_new_job(shelf, "the-id"), WEEK)
    assert not shelf.jobs.create(a_new_job(shelf, "the-id"), WEEK)


def test_a_process_that_sleeps_between_the_writes_does_not_make_again_what_was_deleted(
    shelf: Shelf, remembered: IdempotencyKeys
) -> None:
    remembered.id_for(KEY, {}, "the-id", uncounted)  # and it sleeps
    assert shelf.jobs.create(a_new_job(shelf, "the-id"), WEEK)  # by the repeat
    shelf.jobs.delete("the-id", lambda record: None)
    before = sorted(shelf.redis.keys())
    assert not shelf.jobs.create(a_new_job(shelf, "the-id"), WEEK)  # it wakes up
    assert shelf.jobs.load("the-id") is None
    assert sorted(shelf.redis.keys()) == before


def test_that_a_project_was_made_is_known_when_it_is_gone(shelf: Shelf) -> None:
    assert shelf.projects.create(a_new_project("the-id"), WEEK)
    assert not shelf.projects.create(a_new_project("the-id"), WEEK)
    shelf.redis.delete(keys.project("the-id"))
    assert not shelf.projects.create(a_new_project("the-id"), WEEK)
    assert shelf.projects.load("the-id") is None


def test_a_key_is_remembered_for_its_time_and_the_marker_not_less(
    shelf: Shelf, remembered: IdempotencyKeys
) -> None:
    before = set(shelf.redis.keys())
    remembered.id_for(KEY, {}, "the-id", uncounted)
    (key,) = set(shelf.redis.keys()) - before
    assert WEEK - 60 < shelf.redis.ttl(key) <= WEEK
    shelf.redis.expire(key, WEEK - 100)
    shelf.jobs.create(a_new_job(shelf, "the-id"), WEEK)
    assert shelf.redis.ttl(keys.made("the-id")) > shelf.redis.ttl(key)
    shelf.redis.expire(key, 0)
    assert remembered.id_for(KEY, {"name": "b"}, "another", uncounted) == "another"


def test_a_key_that_is_refused_for_the_limit_stays_unknown_and_a_replay_is_not_asked(
    remembered: IdempotencyKeys,
) -> None:
    def full() -> None:
        raise RateLimited(1)

    with pytest.raises(RateLimited):
        remembered.id_for(KEY, {"name": "a"}, "first", full)
    assert remembered.id_for(KEY, {"name": "b"}, "second", uncounted) == "second"
    assert remembered.id_for(KEY, {"name": "b"}, "third", full) == "second"


def test_what_is_made_without_a_key_leaves_no_marker(shelf: Shelf) -> None:
    assert not shelf.redis.exists(keys.made(shelf.new_job()), keys.made(shelf.project.id))


def test_of_a_deleted_job_nothing_is_left(shelf: Shelf) -> None:
    kept, job_id = shelf.uploaded(), finished(shelf)
    assert (
        len(traces(shelf, job_id)) == 9
    )  # job, claim, trail, callbacks, three lists, two messages
    queues = [name for name in traces(shelf, job_id) if "broker" in name]
    shelf.redis.delete(*queues)
    for index in INDEXES:  # as a release that writes none, or others, leaves them
        shelf.redis.zadd(index, {job_id: 1})
    shelf.jobs.delete(job_id, lifecycle.ensure_at_rest)
    assert traces(shelf, job_id) == []
    assert shelf.jobs.load(job_id) is None
    with pytest.raises(ResourceNotFound):
        shelf.jobs.delete(job_id, lifecycle.ensure_at_rest)
    assert len(traces(shelf, kept)) == 6


def test_a_job_that_is_not_at_rest_stays_whole(shelf: Shelf) -> None:
    job_id = shelf.uploaded()
    before = traces(shelf, job_id)
    with pytest.raises(NotTerminal):
        shelf.jobs.delete(job_id, lifecycle.ensure_at_rest)
    assert traces(shelf, job_id) == before


def test_a_delete_meets_the_job_as_it_is_and_not_as_it_was_read(shelf: Shelf) -> None:
    job_id, seen = finished(shelf), []

    def rule(record: Record) -> None:
        seen.append(record.job.name)
        if len(seen) == 1:
            shelf.jobs.update(job_id, lambda r: lifecycle.edit(r, {"name": "new"}, NOW))

    shelf.jobs.delete(job_id, rule)
    assert seen == [None, "new"]
    assert shelf.jobs.load(job_id) is None


def test_what_comes_late_for_a_deleted_job_meets_nothing_and_makes_nothing(shelf: Shelf) -> None:
    job_id = finished(shelf)
    record = shelf.record(job_id)
    token = record.token
    shelf.jobs.delete(job_id, lifecycle.ensure_at_rest)
    for name in traces(shelf, job_id):
        shelf.redis.delete(name)  # the message of the cancel
    for late in (lambda: shelf.begin(token), lambda: shelf.settle(token, ClaimEvent.ACCEPTED)):
        with pytest.raises(ResourceNotFound):
            late()
    with pytest.raises(ResourceNotFound):  # one that believes to know how the job stands
        shelf.jobs.update(job_id, lambda r: lifecycle.edit(r, {"name": "n"}, NOW), known=record)
    shelf.redis.zadd(keys.DUE, {job_id: 1})
    assert sweep_once(shelf.jobs, POLICY, NOW) == {"dropped": 1}
    assert traces(shelf, job_id) == []
