"""The sweep, with the time as an argument: what it does to each claim, and when it does nothing."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from domain.audit import EventType
from domain.claim import ClaimEvent, DispatchPolicy, Phase
from domain.errors import OrchestratorDispatchFailed
from domain.lifecycle import cancel, confirm_upload
from domain.reconcile import look
from domain.record import Decision, Record
from domain.run import decide_run
from store import keys
from tasks import sweep
from tasks.queues import KEY_PREFIX
from tasks.sweep import sweep_once
from tests.support.stores import NOW, POLICY, QUEUES, Shelf, seconds

FOREVER = replace(POLICY, unknown_hold=None)
DEDUPLICATES = replace(POLICY, window=timedelta.max)


def _sweep(shelf: Shelf, now: datetime, policy: DispatchPolicy = POLICY) -> dict[str, int]:
    return dict(sweep_once(shelf.jobs, policy, now))


def test_a_claim_within_its_lease_is_left_alone(shelf: Shelf) -> None:
    shelf.run(shelf.uploaded())
    assert _sweep(shelf, NOW + POLICY.claim_lease - seconds(0.001)) == {}
    assert shelf.messages() == 1


def test_a_claim_past_its_lease_is_enqueued_again(shelf: Shelf) -> None:
    token = shelf.run(shelf.uploaded())
    shelf.redis.delete(*(KEY_PREFIX + queue for queue in QUEUES))
    assert _sweep(shelf, NOW + POLICY.claim_lease) == {"redelivered": 1}
    assert shelf.messages() == 1
    assert shelf.claim(token.job_id).phase is Phase.CLAIMED
    assert shelf.begin(token, NOW + POLICY.claim_lease)


def test_each_lease_brings_one_more_message_and_is_twice_as_long(shelf: Shelf) -> None:
    token, now, lengths = shelf.run(shelf.uploaded()), NOW, []
    for messages in range(1, 7):
        due = shelf.claim(token.job_id).lease_until
        assert due is not None
        assert _sweep(shelf, due - seconds(0.001)) == {}
        assert shelf.messages() == messages
        lengths.append((due - now).total_seconds())
        now = due
        assert _sweep(shelf, now) == {"redelivered": 1}
    assert lengths == [15, 30, 60, 120, 240, 480]


def test_a_sending_past_its_lease_is_called_unknown_and_held(shelf: Shelf) -> None:
    token = shelf.run(shelf.uploaded())
    assert shelf.begin(token)
    assert _sweep(shelf, NOW + POLICY.send_lease - seconds(0.001)) in ({}, {"rescheduled": 1})
    over = NOW + POLICY.send_lease
    assert _sweep(shelf, over) == {"called_unknown": 1}
    claim = shelf.claim(token.job_id)
    assert claim.phase is Phase.UNKNOWN
    assert claim.lease_until == over + seconds(60)
    assert list(shelf.jobs.index.listed(keys.UNKNOWN)) == [token.job_id]
    assert shelf.jobs.trail(token.job_id, 0, 100)[0][-1].event_type is EventType.UNKNOWN
    assert shelf.messages() == 1


def test_an_unknown_outcome_is_not_sent_again_by_the_sweep_but_by_the_next_run(
    shelf: Shelf,
) -> None:
    token = shelf.unknown()
    held = NOW + seconds(60)
    assert _sweep(shelf, held) == {"held": 1}
    assert _sweep(shelf, held + seconds(1000)) == {}
    assert shelf.claim(token.job_id).phase is Phase.UNKNOWN
    assert list(shelf.jobs.index.listed(keys.UNKNOWN)) == [token.job_id]
    with pytest.raises(OrchestratorDispatchFailed):
        decide_run(shelf.record(token.job_id), held - seconds(0.001), POLICY)
    again = shelf.run(token.job_id, held)
    assert (again.dispatch_id, again.epoch) == (token.dispatch_id, token.epoch + 1)
    assert shelf.messages() == 2
    assert list(shelf.jobs.index.listed(keys.UNKNOWN)) == []
    assert list(shelf.jobs.index.listed(keys.IN_FLIGHT)) == [token.job_id]


def test_an_unknown_outcome_may_be_held_for_ever(shelf: Shelf) -> None:
    token = shelf.unknown(policy=FOREVER)
    for days in (1, 1000):
        _sweep(shelf, NOW + seconds(86_400 * days), FOREVER)
        assert shelf.claim(token.job_id).phase is Phase.UNKNOWN
    with pytest.raises(OrchestratorDispatchFailed):
        decide_run(shelf.record(token.job_id), NOW + seconds(86_400_000), FOREVER)
    assert list(shelf.jobs.index.listed(keys.UNKNOWN)) == [token.job_id]


def test_an_unknown_outcome_is_sent_again_where_the_orchestrator_deduplicates(
    shelf: Shelf,
) -> None:
    token = shelf.unknown(policy=DEDUPLICATES)
    due = shelf.claim(token.job_id).lease_until
    assert due is not None
    assert due > NOW
    assert _sweep(shelf, due, DEDUPLICATES) == {"resent": 1}
    claim = shelf.claim(token.job_id)
    assert (claim.phase, claim.epoch) == (Phase.CLAIMED, token.epoch + 1)
    assert shelf.messages() == 2


def test_the_pauses_between_tries_grow_up_to_a_minute(shelf: Shelf) -> None:
    token, pauses, now = shelf.unknown(policy=DEDUPLICATES), [], NOW
    for _ in range(8):
        due = shelf.claim(token.job_id).lease_until
        assert due is not None
        pauses.append((due - now).total_seconds())
        now = due
        assert _sweep(shelf, now, DEDUPLICATES) == {"resent": 1}
        token = replace(token, epoch=token.epoch + 1)
        assert shelf.begin(token, now, DEDUPLICATES)
        assert shelf.settle(token, ClaimEvent.LOST, now, DEDUPLICATES)
    meant = [2, 4, 8, 16, 32, 60, 60, 60]
    assert all(0.75 * each <= was <= 1.25 * each for was, each in zip(pauses, meant, strict=True))


def test_a_job_that_was_cancelled_is_never_sent_again(shelf: Shelf) -> None:
    token = shelf.unknown(policy=DEDUPLICATES)
    shelf.jobs.update(token.job_id, lambda r: cancel(r, NOW, DEDUPLICATES, None))
    queued = shelf.messages()
    done = _sweep(shelf, NOW + seconds(3600), DEDUPLICATES)
    assert "resent" not in done
    assert shelf.messages() == queued


def test_an_entry_without_a_claim_is_dropped(shelf: Shelf) -> None:
    job_id = shelf.uploaded()
    shelf.redis.zadd(keys.DUE, {job_id: NOW.timestamp(), "no-such-job": NOW.timestamp()})
    assert _sweep(shelf, NOW) == {"dropped": 2}
    assert list(shelf.jobs.index.listed(keys.IN_FLIGHT)) == []


def test_a_claim_made_while_its_jobs_old_entry_is_dropped_keeps_its_own(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = shelf.uploaded()
    shelf.redis.zadd(keys.DUE, {job_id: NOW.timestamp()})

    def claim_first(record: Record, *args: Any) -> Decision[None]:
        if record.claim is None:
            shelf.run(job_id)
        return look(record, *args)

    monkeypatch.setattr(sweep, "look", claim_first)
    assert _sweep(shelf, NOW) == {"rescheduled": 1}
    assert list(shelf.jobs.index.listed(keys.IN_FLIGHT)) == [job_id]
    assert _sweep(shelf, NOW + POLICY.claim_lease) == {"redelivered": 1}


def test_an_entry_with_a_wrong_time_is_put_right(shelf: Shelf) -> None:
    token = shelf.run(shelf.uploaded())
    shelf.redis.zadd(keys.DUE, {token.job_id: NOW.timestamp() - 100})
    assert _sweep(shelf, NOW) == {"rescheduled": 1}
    assert _sweep(shelf, NOW) == {}
    assert _sweep(shelf, NOW + POLICY.claim_lease) == {"redelivered": 1}


def test_sweeps_at_once_do_each_thing_once(shelf: Shelf) -> None:
    claimed = [shelf.run(shelf.uploaded()) for _ in range(10)]
    sending = [shelf.run(shelf.uploaded()) for _ in range(10)]
    for token in sending:
        assert shelf.begin(token)
    later = NOW + POLICY.send_lease
    with ThreadPoolExecutor(4) as pool:
        done = sum(pool.map(lambda _: sweep_once(shelf.jobs, POLICY, later), range(4)), Counter())
    assert (done["redelivered"], done["called_unknown"]) == (10, 10)
    assert shelf.messages() == 30
    assert all(shelf.claim(token.job_id).messages == 2 for token in claimed)


def test_one_sweeper_has_the_turn_until_it_is_over(shelf: Shelf) -> None:
    index = shelf.jobs.index
    assert index.take_turn("one", seconds(30))
    assert not index.take_turn("two", seconds(30))
    assert 0 < shelf.redis.pttl(keys.SWEEP_LOCK) <= 30_000
    shelf.redis.delete(keys.SWEEP_LOCK)
    assert index.take_turn("two", seconds(30))


def _commands(shelf: Shelf) -> int:
    return int(shelf.redis.info("stats")["total_commands_processed"])


def test_a_sweep_with_nothing_due_costs_the_same_however_many_jobs_there_are(
    shelf: Shelf,
) -> None:
    costs = []
    for more_jobs in (0, 200):
        for _ in range(more_jobs):
            job_id = shelf.new_job()
            shelf.jobs.update(job_id, lambda r: confirm_upload(r, "s3://v", NOW, None))
            token = shelf.run(job_id)
            assert shelf.begin(token)
            assert shelf.settle(token, ClaimEvent.ACCEPTED)
        before = _commands(shelf)
        assert _sweep(shelf, NOW + seconds(10_000)) == {}
        costs.append(_commands(shelf) - before)
    assert costs[0] == costs[1]


def test_a_record_that_cannot_be_read_is_postponed_and_stops_nothing_else(shelf: Shelf) -> None:
    unreadable, other = shelf.run(shelf.uploaded()), shelf.run(shelf.uploaded())
    raw = shelf.redis.get(keys.claim(unreadable.job_id))
    shelf.redis.set(keys.claim(unreadable.job_id), raw.replace("CLAIMED", "PONDERED"))
    due = NOW + POLICY.claim_lease
    assert _sweep(shelf, due) == {"unreadable": 1, "redelivered": 1}
    assert shelf.claim(other.job_id).messages == 2
    assert _sweep(shelf, due + seconds(1)) == {}, "it is not looked at in each sweep"
    assert _sweep(shelf, due + seconds(600))["unreadable"] == 1


def test_what_is_unknown_stays_listed_however_old(shelf: Shelf) -> None:
    token = shelf.run(shelf.uploaded())
    assert shelf.begin(token)
    assert _sweep(shelf, NOW + POLICY.send_lease) == {"called_unknown": 1}
    _sweep(shelf, NOW + seconds(86_400))
    assert list(shelf.jobs.index.listed(keys.UNKNOWN)) == [token.job_id]
