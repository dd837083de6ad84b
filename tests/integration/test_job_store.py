"""The store of jobs: compare-and-set, all or nothing, and what stands where in Redis."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from domain import dispatch_steps as steps
from domain import lifecycle
from domain.change import Change, Decision, Draft, Record
from domain.claim import ClaimEvent, Phase
from domain.dispatching import Role, decide_run
from domain.job_fsm import JobStatus
from store import keys
from store.errors import StoreContended
from store.jobs import JobStore, Snapshot
from tasks.broker import KEY_PREFIX
from tasks.outbox import RidingOutbox
from tests.support.stores import LANES, NOW, POLICY, Shelf, make_link, seconds

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


def _export(record: Record, name: str) -> Change:
    draft = Draft(record, NOW)
    draft.update_job(manifest=record.job.manifest.merged({"exports": [name]}))
    return draft.change()


def test_no_change_of_many_threads_is_lost(shelf: Shelf) -> None:
    job_id = shelf.new_job()

    def work(thread: int) -> None:
        for number in range(CHANGES):
            name = f"{thread}-{number}"
            assert shelf.jobs.apply(job_id, lambda record, name=name: _export(record, name))

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    job = shelf.record(job_id).job
    assert len(set(job.manifest.exports)) == THREADS * CHANGES
    assert job.version == 1 + THREADS * CHANGES


def test_of_many_runs_at_once_one_claims_and_the_others_join(shelf: Shelf) -> None:
    job_id, barrier = shelf.uploaded(), threading.Barrier(THREADS)

    def run(_: int) -> Role:
        first: list[bool] = [True]

        def decide(snapshot: Snapshot | None) -> Decision[Any]:
            assert snapshot is not None
            if first:  # all have read the same before anybody commits
                first.clear()
                barrier.wait(5)
            return decide_run(snapshot.record, NOW, POLICY)

        role: Role = shelf.jobs.change(job_id, decide).role
        return role

    with ThreadPoolExecutor(THREADS) as pool:
        roles = list(pool.map(run, range(THREADS)))
    assert sorted(roles) == sorted([Role.FIRST, *[Role.JOINER] * (THREADS - 1)])
    assert shelf.messages() == 1


def test_a_commit_on_what_was_changed_since_writes_nothing_at_all(shelf: Shelf) -> None:
    job_id = shelf.uploaded()
    stale = shelf.jobs.load(job_id)
    assert stale is not None
    shelf.jobs.apply(job_id, lambda record: _export(record, "meanwhile"))
    before = (shelf.jobs.load(job_id), shelf.jobs.trail(job_id, 0, 100), shelf.messages())
    change = decide_run(stale.record, NOW, POLICY).change
    assert change is not None
    assert shelf.jobs.commit(stale, change) is None
    assert (shelf.jobs.load(job_id), shelf.jobs.trail(job_id, 0, 100), shelf.messages()) == before


def test_a_commit_on_a_claim_that_changed_since_writes_nothing(shelf: Shelf) -> None:
    token = shelf.run(shelf.uploaded())
    stale = shelf.jobs.load(token.job_id)
    assert stale is not None
    assert shelf.begin(token)
    change = steps.settle(stale.record, token, ClaimEvent.UNQUEUED, "unqueued", NOW, POLICY)
    assert change is not None
    assert shelf.jobs.commit(stale, change) is None
    assert shelf.claim(token.job_id).phase is Phase.SENDING


def test_a_commit_writes_job_claim_trail_callback_and_message_together(shelf: Shelf) -> None:
    job_id = shelf.uploaded()
    snapshot = shelf.jobs.load(job_id)
    assert snapshot is not None
    change = decide_run(snapshot.record, NOW, POLICY).change
    assert change is not None
    draft = Draft(change.record, NOW, trail=list(change.trail))
    draft.update_job(manifest=draft.job.manifest.merged({"exports": ["e"]}))
    whole = draft.change(errand=change.errand, callback=("event", "digest"))
    assert shelf.jobs.commit(snapshot, whole)
    loaded = shelf.jobs.load(job_id, event_id="event")
    assert loaded is not None
    assert loaded.record == whole.record
    assert loaded.seen_digest == "digest"
    assert shelf.jobs.trail(job_id, 0, 100)[0][-1] == change.trail[-1]
    assert shelf.messages() == 1


def test_the_claim_is_set_only_if_none_stands_and_has_no_expiry(shelf: Shelf) -> None:
    job_id = shelf.uploaded()
    before = shelf.jobs.load(job_id)
    token = shelf.run(job_id)
    assert before is not None
    again = decide_run(before.record, NOW, POLICY).change
    assert again is not None
    assert shelf.jobs.commit(before, again) is None
    assert shelf.claim(job_id).epoch == token.epoch
    assert shelf.redis.ttl(keys.claim(job_id)) == -1


def test_a_freed_claim_leaves_no_key_behind(shelf: Shelf) -> None:
    token = shelf.run(shelf.uploaded())
    assert shelf.begin(token)
    assert shelf.settle(token, ClaimEvent.REFUSED)
    assert not shelf.redis.exists(keys.claim(token.job_id))
    assert shelf.run(token.job_id).epoch == token.epoch + 1


def test_the_index_entry_is_written_before_the_claim(shelf: Shelf) -> None:
    job_id = shelf.uploaded()
    seen = _monitored(shelf, lambda: shelf.run(job_id))
    entry = next(n for n, line in enumerate(seen) if "ZADD" in line and keys.IN_FLIGHT in line)
    claim = next(n for n, line in enumerate(seen) if '"SET"' in line and keys.claim(job_id) in line)
    assert entry < claim


def test_a_crash_between_the_entry_and_the_claim_leaves_only_the_entry(shelf: Shelf) -> None:
    job_id = shelf.uploaded()
    stale = shelf.jobs.load(job_id)
    shelf.jobs.apply(job_id, lambda record: _export(record, "meanwhile"))
    assert stale is not None
    change = decide_run(stale.record, NOW, POLICY).change
    assert change is not None
    assert shelf.jobs.commit(stale, change) is None
    assert shelf.jobs.index.in_flight(0, 10) == [job_id]
    assert shelf.record(job_id).claim is None


def test_a_settled_claim_leaves_the_index(shelf: Shelf) -> None:
    token = shelf.run(shelf.uploaded())
    assert shelf.begin(token)
    assert shelf.settle(token, ClaimEvent.ACCEPTED)
    shelf.jobs.index.flush()
    assert shelf.jobs.index.sizes() == (0, 0)


def test_a_late_drop_of_another_process_leaves_a_later_claims_entry(shelf: Shelf) -> None:
    token = shelf.run(shelf.uploaded())
    assert shelf.begin(token)
    other = JobStore(make_link(shelf.url), RidingOutbox(LANES))

    def refused(record: Record) -> Change | None:
        return steps.settle(record, token, ClaimEvent.REFUSED, "refused", NOW, POLICY)

    assert other.apply(token.job_id, refused)
    shelf.run(token.job_id, NOW + seconds(1))
    other.index.flush()
    assert shelf.jobs.index.in_flight(0, 10) == [token.job_id]


def test_the_keys_of_a_job_share_one_hash_slot(shelf: Shelf) -> None:
    assert _crc16(b"123456789") == 0x31C3  # the check value of the Redis Cluster specification
    job_id = shelf.new_job()
    names = [name(job_id) for name in (keys.job, keys.claim, keys.trail, keys.callbacks)]
    assert len({_slot(name) for name in names}) == 1
    assert _slot(keys.job(job_id)) == _crc16(job_id.encode()) % 16384


@pytest.mark.parametrize("full", LANES)
def test_the_message_goes_to_the_shorter_of_the_users_lanes(shelf: Shelf, full: str) -> None:
    shelf.redis.lpush(KEY_PREFIX + full, "a", "b", "c")
    for _ in range(3):
        shelf.run(shelf.uploaded())
    assert [shelf.redis.llen(KEY_PREFIX + lane) for lane in LANES] == [3, 3]


def test_a_record_that_never_stands_still_is_given_up_in_bounded_time(shelf: Shelf) -> None:
    job_id = shelf.uploaded()

    def disturbed(record: Record) -> Change:
        shelf.jobs.apply(job_id, lambda other: _export(other, f"{other.job.version}"))
        return _export(record, "mine")

    with pytest.raises(StoreContended):
        shelf.jobs.apply(job_id, disturbed)
    assert "mine" not in shelf.record(job_id).job.manifest.exports


def test_a_cancel_frees_the_claim_in_the_same_commit(shelf: Shelf) -> None:
    token = shelf.run(shelf.uploaded())
    shelf.jobs.apply(
        token.job_id, lambda record: lifecycle.cancel(record, NOW, POLICY, None).change
    )
    assert shelf.record(token.job_id).claim is None
    assert shelf.record(token.job_id).job.status is JobStatus.CANCELLED
    assert not shelf.begin(token)


def _monitored(shelf: Shelf, act: Any) -> list[str]:
    """What Redis was told, in its order, while `act` ran."""
    with shelf.redis.monitor() as monitor:
        act()
        shelf.redis.echo("the end")
        lines = []
        for command in monitor.listen():
            line = command["command"]
            lines.append(" ".join(f'"{word}"' for word in line.split(" ")))
            if line.startswith("ECHO"):
                return lines
    raise AssertionError("monitor ended")
