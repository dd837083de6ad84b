"""A pause of dispatching: no dispatch is posted, and no message is multiplied or lost."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from domain import claim_rules
from domain.claim import Claim, ClaimEvent, DispatchPolicy, FencingToken, Phase, RunState
from domain.lifecycle import cancel
from domain.pause import Pause
from domain.reconcile import answered
from domain.record import Change, Decision, Record
from domain.run import decide_run
from store import keys
from store.errors import DispatchingPaused
from tasks.sweep import sweep_once
from tests.support.stores import NOW, POLICY, Database, seconds

IDEMPOTENT = replace(POLICY, window=timedelta.max)
ASKABLE = replace(IDEMPOTENT, can_be_asked=True, engine="an-engine")
HOUR = timedelta(hours=1)
MANY = 700  # more than one sweep handles


def _pause(database: Database, now: datetime = NOW) -> None:
    database.jobs.pauses.begin("olga", "the orchestrator is upgraded", now)


def _resume(database: Database, now: datetime) -> None:
    assert database.jobs.pauses.end("omar", now) is not None


def _sweep(database: Database, now: datetime, policy: DispatchPolicy = POLICY) -> dict[str, int]:
    return dict(sweep_once(database.jobs, policy, now))


def _policy(database: Database, policy: DispatchPolicy) -> DispatchPolicy:
    return replace(policy, pause=database.jobs.pauses.latest())


def test_a_pause_records_who_when_and_why_and_repeating_changes_nothing(database: Database) -> None:
    pauses = database.jobs.pauses
    assert pauses.latest() is None
    assert pauses.end("omar", NOW) is None
    first = pauses.begin("olga", "the orchestrator is upgraded", NOW)
    assert first == Pause(paused_at=NOW, by="olga", reason="the orchestrator is upgraded")
    assert pauses.begin("omar", "another reason", NOW + HOUR) == first == pauses.latest()
    ended = pauses.end("omar", NOW + HOUR)
    assert ended == first.model_copy(update={"resumed_at": NOW + HOUR, "resumed_by": "omar"})
    assert pauses.latest() == ended
    assert pauses.end("pia", NOW + 2 * HOUR) is None
    assert pauses.latest() == ended
    second = pauses.begin("pia", "again", NOW + 3 * HOUR)
    assert pauses.latest() == second
    assert second.is_on
    assert database.redis.ttl("takeone:pause") == -1, "only an operator ends it"


@pytest.mark.parametrize("bad", ["x", "{}", '{"paused_at": "later"}'])
def test_an_unreadable_pause_is_on_and_can_be_ended(database: Database, bad: str) -> None:
    waiting = database.run(database.uploaded())
    database.redis.set(keys.PAUSE, bad)
    with pytest.raises(DispatchingPaused):
        database.begin(waiting)
    assert _sweep(database, NOW + HOUR) == {"rescheduled": 1}
    pauses = database.jobs.pauses
    assert pauses.current() == pauses.begin("olga", "a second one", NOW)
    assert pauses.end("omar", NOW) is not None
    assert pauses.current() is None
    database.redis.set(keys.LAST_PAUSE, bad)
    assert pauses.latest() is None
    assert database.begin(waiting, NOW + HOUR)


def test_of_concurrent_pauses_or_resumes_one_takes_effect(database: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        begun = list(pool.map(lambda n: database.jobs.pauses.begin(f"{n}", "why", NOW), range(8)))
        ended = list(pool.map(lambda n: database.jobs.pauses.end(f"{n}", NOW), range(8)))
    assert len({pause.by for pause in begun}) == 1
    assert len([pause for pause in ended if pause]) == 1


def test_no_post_begins_while_dispatching_is_paused(database: Database) -> None:
    token = database.run(database.uploaded())
    _pause(database)
    before = database.record(token.job_id)
    with pytest.raises(DispatchingPaused):
        database.begin(token)
    assert database.record(token.job_id).revision == before.revision
    assert not database.begin(replace(token, epoch=9)), "a late message is refused as usual"
    _resume(database, NOW + HOUR)
    assert database.begin(token, NOW + HOUR)


def test_a_pause_between_a_workers_read_and_its_commit_prevents_the_post(
    database: Database,
) -> None:
    token = database.run(database.uploaded())

    def rule(record: Record) -> Decision[bool]:
        _pause(database)
        return claim_rules.begin(Change(record, NOW, POLICY), token)

    with pytest.raises(DispatchingPaused):
        database.jobs.update(token.job_id, rule)
    assert database.claim(token.job_id).phase is Phase.CLAIMED


def test_a_post_that_had_begun_is_settled_during_a_pause(database: Database) -> None:
    token, lost = database.run(database.uploaded()), database.run(database.uploaded())
    assert database.begin(token)
    assert database.begin(lost)
    _pause(database)
    assert database.settle(token, ClaimEvent.ACCEPTED)
    assert _sweep(database, NOW + POLICY.send_lease) == {"called_unknown": 1}


def test_putting_back_a_claim_enqueues_one_message(database: Database) -> None:
    token = database.run(database.uploaded())
    claim, queued = database.claim(token.job_id), database.messages()

    def put_back(held: FencingToken) -> bool:
        rule = lambda record: claim_rules.put_back(Change(record, NOW, POLICY), held)  # noqa: E731
        return database.jobs.update(token.job_id, rule).changed

    assert put_back(token)
    assert database.messages() == queued + 1
    assert database.claim(token.job_id) == claim
    assert not put_back(replace(token, epoch=9))
    assert database.begin(token)
    assert not put_back(token)
    assert database.messages() == queued + 1


def test_a_long_pause_with_many_claims_adds_no_messages_and_delays_nothing_else(
    database: Database,
) -> None:
    tokens = [database.run(database.uploaded()) for _ in range(MANY)]
    dying = database.run(database.uploaded())
    assert database.begin(dying)
    queued = database.messages()
    _pause(database)
    looks = 0
    for second in range(0, 3600, 20):
        looks += _sweep(database, NOW + seconds(second)).get("rescheduled", 0)
    assert looks <= 60 * MANY, "at most one look a minute at each claim"
    assert database.messages() == queued
    assert database.claim(dying.job_id).phase is Phase.UNKNOWN
    over = NOW + HOUR
    _resume(database, over)
    for second in range(15):
        _sweep(database, over + seconds(second))
    assert database.messages() == queued, "leases restart when dispatching resumes"
    claims = [database.claim(token.job_id) for token in tokens]
    assert all((claim.phase, claim.messages) == (Phase.CLAIMED, 1) for claim in claims)
    assert database.begin(tokens[0], over + seconds(14))


def test_a_message_lost_during_a_pause_is_sent_again_afterwards(database: Database) -> None:
    token = database.run(database.uploaded())
    database.redis.delete(*database.redis.keys("takeone:broker:*"))
    _pause(database)
    for second in range(0, 600, 5):
        _sweep(database, NOW + seconds(second))
    assert database.messages() == 0
    over = NOW + seconds(600)
    _resume(database, over)
    done = [_sweep(database, over + seconds(second)) for second in range(76)]
    sent_again = [second for second, counts in enumerate(done) if "redelivered" in counts]
    assert sent_again[0] >= POLICY.claim_lease.total_seconds()
    assert database.messages() == len(sent_again)
    assert database.begin(token, over + seconds(76))


def test_a_pause_that_was_ended_by_a_clock_a_day_ahead_delays_no_lost_message(
    database: Database,
) -> None:
    token = database.run(database.uploaded())
    _pause(database)
    _resume(database, NOW + timedelta(days=1))
    assert _sweep(database, NOW + POLICY.claim_lease) == {"redelivered": 1}
    assert database.claim(token.job_id).messages == 2


def test_a_claim_that_was_redelivered_before_a_pause_keeps_its_longer_lease(
    database: Database,
) -> None:
    token, now = database.run(database.uploaded()), NOW
    for _ in range(3):
        due = database.claim(token.job_id).lease_until
        assert due is not None
        now = due
        assert _sweep(database, now) == {"redelivered": 1}
    _pause(database, now)
    _resume(database, now + HOUR)
    lease = 8 * POLICY.claim_lease
    assert _sweep(database, now + HOUR) == {"rescheduled": 1}
    assert database.claim(token.job_id).lease_until == now + HOUR + lease
    assert _sweep(database, now + HOUR + lease) == {"redelivered": 1}


def test_the_sweep_resends_after_a_pause_and_not_during_it(database: Database) -> None:
    token = database.unknown(policy=IDEMPOTENT)
    queued = database.messages()
    _pause(database)
    for minute in range(1, 60):
        done = _sweep(database, NOW + timedelta(minutes=minute), IDEMPOTENT)
        assert done in ({}, {"rescheduled": 1})
    assert (database.messages(), database.claim(token.job_id).phase) == (queued, Phase.UNKNOWN)
    _resume(database, NOW + HOUR)
    assert _sweep(database, NOW + HOUR + seconds(60), IDEMPOTENT) == {"resent": 1}


def test_during_a_pause_an_engine_is_asked_but_not_found_resends_nothing(
    database: Database,
) -> None:
    token = database.unknown(policy=ASKABLE)
    _pause(database)
    due = database.claim(token.job_id).lease_until
    assert due is not None
    assert _sweep(database, due, ASKABLE) == {"asked": 1}
    asked = database.record(token.job_id)
    policy = _policy(database, ASKABLE)
    answer = answered(Change(asked, due, policy), asked, RunState.NOT_FOUND)
    assert answer.task is None
    kept = _claim(answer)
    assert kept.phase is Phase.UNKNOWN
    assert kept.lease_until is not None
    assert kept.lease_until > due, "it is asked again"
    assert _claim(answered(Change(asked, due, policy), asked, RunState.RUNNING)).phase is Phase.SENT
    _resume(database, due)
    again = answered(Change(asked, due, _policy(database, ASKABLE)), asked, RunState.NOT_FOUND)
    assert _claim(again).phase is Phase.CLAIMED


def _claim(decision: Decision[None]) -> Claim:
    assert decision.record.claim is not None
    return decision.record.claim


def test_asks_and_cancels_use_the_follow_up_queue_during_a_pause(database: Database) -> None:
    policy = replace(ASKABLE, can_cancel=True)
    token = database.unknown(policy=policy)
    _pause(database)
    queued = database.redis.llen("takeone:broker:takeone.follow-ups")
    database.jobs.update(token.job_id, lambda record: decide_run(Change(record, NOW, ASKABLE)))
    database.jobs.update(token.job_id, lambda record: cancel(Change(record, NOW, policy)))
    assert database.redis.llen("takeone:broker:takeone.follow-ups") == queued + 2


def test_a_cancel_during_a_pause_frees_a_waiting_claim(database: Database) -> None:
    token = database.run(database.uploaded())
    _pause(database)
    database.jobs.update(token.job_id, lambda record: cancel(Change(record, NOW, POLICY)))
    assert database.record(token.job_id).claim is None
    _resume(database, NOW + HOUR)
    assert not database.begin(token, NOW + HOUR)
