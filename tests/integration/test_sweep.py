"""The sweep: what it does to claims in each phase, and when it does nothing."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from domain.audit import EventType
from domain.claim import ClaimEvent, DispatchPolicy, Phase
from domain.errors import OrchestratorDispatchFailed
from domain.lifecycle import cancel, is_at_rest
from domain.reconcile import look
from domain.record import Change, Decision
from domain.run import decide_run
from store import keys
from store.overview import overview
from tasks import sweep
from tasks.queues import KEY_PREFIX
from tasks.sweep import sweep_once
from tests.support.stores import NOW, POLICY, QUEUES, Database, seconds

FOREVER = replace(POLICY, unknown_hold=None)
IDEMPOTENT = replace(POLICY, window=timedelta.max)


def _sweep(database: Database, now: datetime, policy: DispatchPolicy = POLICY) -> dict[str, int]:
    return dict(sweep_once(database.jobs, policy, now))


def test_a_claim_within_its_lease_is_not_touched(database: Database) -> None:
    database.run(database.uploaded())
    assert _sweep(database, NOW + POLICY.claim_lease - seconds(0.001)) == {}
    assert database.messages() == 1


def test_a_claim_past_its_lease_is_enqueued_again(database: Database) -> None:
    token = database.run(database.uploaded())
    database.redis.delete(*(KEY_PREFIX + queue for queue in QUEUES))
    assert _sweep(database, NOW + POLICY.claim_lease) == {"redelivered": 1}
    assert database.messages() == 1
    assert database.claim(token.job_id).phase is Phase.CLAIMED
    assert database.begin(token, NOW + POLICY.claim_lease)


def test_each_expired_lease_sends_one_message_and_the_next_is_twice_as_long(
    database: Database,
) -> None:
    token, now, lengths = database.run(database.uploaded()), NOW, []
    for messages in range(1, 7):
        due = database.claim(token.job_id).lease_until
        assert due is not None
        assert _sweep(database, due - seconds(0.001)) == {}
        assert database.messages() == messages
        lengths.append((due - now).total_seconds())
        now = due
        assert _sweep(database, now) == {"redelivered": 1}
    assert lengths == [15, 30, 60, 120, 240, 480]


def test_a_send_past_its_lease_becomes_unknown_and_is_held(database: Database) -> None:
    token = database.run(database.uploaded())
    assert database.begin(token)
    assert _sweep(database, NOW + POLICY.send_lease - seconds(0.001)) in ({}, {"rescheduled": 1})
    over = NOW + POLICY.send_lease
    assert _sweep(database, over) == {"called_unknown": 1}
    claim = database.claim(token.job_id)
    assert claim.phase is Phase.UNKNOWN
    assert claim.lease_until == over + seconds(60)
    assert list(database.jobs.due_index.listed(keys.UNKNOWN)) == [token.job_id]
    assert database.jobs.trail(token.job_id, 0, 100)[0][-1].event_type is EventType.UNKNOWN
    assert database.messages() == 1


def test_without_an_idempotency_window_only_the_next_run_resends_an_unknown_outcome(
    database: Database,
) -> None:
    token = database.unknown()
    held = NOW + seconds(60)
    assert _sweep(database, held) == {"held": 1}
    assert _sweep(database, held + seconds(1000)) == {}
    assert database.claim(token.job_id).phase is Phase.UNKNOWN
    assert list(database.jobs.due_index.listed(keys.UNKNOWN)) == [token.job_id]
    with pytest.raises(OrchestratorDispatchFailed):
        decide_run(Change(database.record(token.job_id), held - seconds(0.001), POLICY))
    again = database.run(token.job_id, held)
    assert (again.dispatch_id, again.epoch) == (token.dispatch_id, token.epoch + 1)
    assert database.messages() == 2
    assert list(database.jobs.due_index.listed(keys.UNKNOWN)) == []
    assert list(database.jobs.due_index.listed(keys.IN_FLIGHT)) == [token.job_id]


def test_an_unknown_outcome_may_be_held_for_ever(database: Database) -> None:
    token = database.unknown(policy=FOREVER)
    for days in (1, 1000):
        _sweep(database, NOW + seconds(86_400 * days), FOREVER)
        assert database.claim(token.job_id).phase is Phase.UNKNOWN
    with pytest.raises(OrchestratorDispatchFailed):
        decide_run(Change(database.record(token.job_id), NOW + seconds(86_400_000), FOREVER))
    assert list(database.jobs.due_index.listed(keys.UNKNOWN)) == [token.job_id]


def test_an_outcome_held_for_ever_is_looked_at_hourly_as_the_settings_may_have_changed(
    database: Database,
) -> None:
    database.unknown(policy=FOREVER)
    assert _sweep(database, NOW + seconds(3599), IDEMPOTENT) == {}
    assert _sweep(database, NOW + seconds(3600), FOREVER) == {"held": 1}
    assert _sweep(database, NOW + seconds(7199), IDEMPOTENT) == {}
    assert _sweep(database, NOW + seconds(7200), IDEMPOTENT) == {"resent": 1}


def test_within_the_idempotency_window_the_sweep_resends_an_unknown_outcome(
    database: Database,
) -> None:
    token = database.unknown(policy=IDEMPOTENT)
    due = database.claim(token.job_id).lease_until
    assert due is not None
    assert due > NOW
    assert _sweep(database, due, IDEMPOTENT) == {"resent": 1}
    claim = database.claim(token.job_id)
    assert (claim.phase, claim.epoch) == (Phase.CLAIMED, token.epoch + 1)
    assert database.messages() == 2


def test_the_delays_between_resends_grow_up_to_a_minute(database: Database) -> None:
    token, delays, now = database.unknown(policy=IDEMPOTENT), [], NOW
    for _ in range(8):
        due = database.claim(token.job_id).lease_until
        assert due is not None
        delays.append((due - now).total_seconds())
        now = due
        assert _sweep(database, now, IDEMPOTENT) == {"resent": 1}
        token = replace(token, epoch=token.epoch + 1)
        assert database.begin(token, now, IDEMPOTENT)
        assert database.settle(token, ClaimEvent.LOST, now, IDEMPOTENT)
    expected = [2, 4, 8, 16, 32, 60, 60, 60]
    for delay, mean in zip(delays, expected, strict=True):
        assert 0.75 * mean <= delay <= 1.25 * mean


def test_a_cancelled_job_is_never_resent(database: Database) -> None:
    token = database.unknown(policy=IDEMPOTENT)
    database.jobs.update(token.job_id, lambda r: cancel(Change(r, NOW, IDEMPOTENT)))
    queued = database.messages()
    done = _sweep(database, NOW + seconds(3600), IDEMPOTENT)
    assert "resent" not in done
    assert database.messages() == queued


def test_an_entry_without_need_is_dropped(database: Database) -> None:
    job_id = database.uploaded()
    sent = database.accepted().job_id
    database.redis.zadd(keys.DUE, dict.fromkeys([job_id, sent, "no-such-job"], NOW.timestamp()))
    assert _sweep(database, NOW) == {"dropped": 3}
    assert list(database.jobs.due_index.listed(keys.IN_FLIGHT)) == []


def test_dropping_a_stale_entry_keeps_that_of_a_concurrent_claim(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = database.uploaded()
    database.redis.zadd(keys.DUE, {job_id: NOW.timestamp()})

    def claim_first(change: Change) -> Decision[None]:
        if change.record.claim is None:
            database.run(job_id)
        return look(change)

    monkeypatch.setattr(sweep, "look", claim_first)
    assert _sweep(database, NOW) == {"rescheduled": 1}
    assert list(database.jobs.due_index.listed(keys.IN_FLIGHT)) == [job_id]
    assert _sweep(database, NOW + POLICY.claim_lease) == {"redelivered": 1}


def test_an_entry_with_a_wrong_time_is_corrected(database: Database) -> None:
    token = database.run(database.uploaded())
    database.redis.zadd(keys.DUE, {token.job_id: NOW.timestamp() - 100})
    assert _sweep(database, NOW) == {"rescheduled": 1}
    assert _sweep(database, NOW) == {}
    assert _sweep(database, NOW + POLICY.claim_lease) == {"redelivered": 1}


def test_a_wrong_time_does_not_postpone_an_unknown_outcome_beyond_its_hold(
    database: Database,
) -> None:
    database.redis.zadd(keys.DUE, {database.unknown().job_id: NOW.timestamp() - 100})
    assert _sweep(database, NOW) == {"rescheduled": 1}
    assert _sweep(database, NOW + seconds(60)) == {"held": 1}


def test_concurrent_sweeps_act_once_on_each_claim(database: Database) -> None:
    claimed = [database.run(database.uploaded()) for _ in range(10)]
    sending = [database.run(database.uploaded()) for _ in range(10)]
    for token in sending:
        assert database.begin(token)
    later = NOW + POLICY.send_lease
    with ThreadPoolExecutor(4) as pool:
        done = sum(
            pool.map(lambda _: sweep_once(database.jobs, POLICY, later), range(4)), Counter()
        )
    assert (done["redelivered"], done["called_unknown"]) == (10, 10)
    assert database.messages() == 30
    assert all(database.claim(token.job_id).messages == 2 for token in claimed)


def test_only_one_sweeper_takes_a_turn(database: Database) -> None:
    index = database.jobs.due_index
    assert index.take_turn(seconds(30))
    assert not index.take_turn(seconds(30))
    assert 0 < database.redis.pttl(keys.SWEEP_LOCK) <= 30_000
    database.redis.delete(keys.SWEEP_LOCK)
    assert index.take_turn(seconds(30))


def test_the_cost_of_an_idle_sweep_does_not_depend_on_the_number_of_jobs(
    database: Database,
) -> None:
    def commands() -> int:
        return int(database.redis.info("stats")["total_commands_processed"])

    costs = []
    for more_jobs in (0, 200):
        for _ in range(more_jobs):
            database.accepted()
        before = commands()
        assert _sweep(database, NOW + seconds(10_000)) == {}
        costs.append(commands() - before)
    assert costs[0] == costs[1]


@pytest.mark.parametrize(
    ("good", "bad"),
    [("CLAIMED", "UNHEARD_OF"), ("{", '{"messages":-5,')],
    ids=["it cannot be read", "the rules cannot take it"],
)
def test_a_damaged_record_is_postponed_and_blocks_no_other(
    database: Database, good: str, bad: str
) -> None:
    damaged, other = database.run(database.uploaded()), database.run(database.uploaded())
    raw = database.redis.get(keys.claim(damaged.job_id))
    database.redis.set(keys.claim(damaged.job_id), raw.replace(good, bad, 1))
    database.redis.zadd(keys.DUE, {damaged.job_id: 0})
    due = NOW + POLICY.claim_lease
    assert _sweep(database, due) == {"unreadable": 1, "redelivered": 1}
    assert database.claim(other.job_id).messages == 2
    assert _sweep(database, due + seconds(1)) == {}, "not in every sweep"
    assert _sweep(database, due + seconds(600))["unreadable"] == 1


def test_an_entry_of_a_job_that_is_gone_is_dropped_from_every_index(database: Database) -> None:
    job_id = database.unknown().job_id
    assert overview(database.client, [], NOW, POLICY).unknown == 1
    # As a Redis that evicts keys does.
    database.redis.delete(keys.job(job_id), keys.claim(job_id))
    assert overview(database.client, [], NOW, POLICY).phases[Phase.UNKNOWN] == 1, "until the sweep"
    assert _sweep(database, NOW + seconds(60)) == {"dropped": 1}
    seen = overview(database.client, [], NOW, POLICY)
    assert (seen.unknown, seen.in_flight, seen.oldest_unknown_age) == (0, 0, 0)


@pytest.mark.parametrize("is_cancelled", [False, True], ids=["ask", "cancel"])
@pytest.mark.parametrize("event", [ClaimEvent.ACCEPTED, ClaimEvent.LOST])
def test_messages_that_no_worker_takes_do_not_fill_the_queue(
    database: Database, event: ClaimEvent, is_cancelled: bool
) -> None:
    policy = replace(POLICY, engine="here", first_report=seconds(60))
    policy = replace(policy, can_cancel=is_cancelled, can_be_asked=not is_cancelled)
    token = database.run(database.uploaded(), policy=policy)
    assert database.begin(token, policy=policy)
    assert database.settle(token, event, policy=policy)
    if is_cancelled:
        database.jobs.update(token.job_id, lambda record: cancel(Change(record, NOW, policy)))
    database.redis.delete(*(KEY_PREFIX + queue for queue in QUEUES))
    for number in range(360):
        _sweep(database, NOW + seconds(10 * number), policy)
    assert 5 <= database.messages() <= 10, "in an hour"


def test_a_cancel_that_is_given_up_frees_the_job(database: Database) -> None:
    policy = replace(POLICY, engine="here", can_cancel=True)
    other, day = replace(policy, engine="there"), NOW + timedelta(hours=24)
    token = database.run(database.uploaded(), policy=policy)
    assert database.begin(token, policy=policy)
    assert database.settle(token, ClaimEvent.ACCEPTED, policy=policy)
    database.jobs.update(token.job_id, lambda record: cancel(Change(record, NOW, policy)))
    assert _sweep(database, day, other) == {"freed": 1}
    assert is_at_rest(database.record(token.job_id))
