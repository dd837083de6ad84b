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
from tests.support.stores import NOW, POLICY, Shelf, seconds

IDEMPOTENT = replace(POLICY, window=timedelta.max)
ASKABLE = replace(IDEMPOTENT, can_be_asked=True, engine="an-engine")
HOUR = timedelta(hours=1)
MANY = 700  # more than one sweep handles


def _pause(shelf: Shelf, now: datetime = NOW) -> None:
    shelf.jobs.pauses.begin("olga", "the orchestrator is upgraded", now)


def _resume(shelf: Shelf, now: datetime) -> None:
    assert shelf.jobs.pauses.end("omar", now) is not None


def _sweep(shelf: Shelf, now: datetime, policy: DispatchPolicy = POLICY) -> dict[str, int]:
    return dict(sweep_once(shelf.jobs, policy, now))


def _policy(shelf: Shelf, policy: DispatchPolicy) -> DispatchPolicy:
    return replace(policy, pause=shelf.jobs.pauses.latest())


def test_a_pause_records_who_when_and_why_and_repeating_changes_nothing(shelf: Shelf) -> None:
    pauses = shelf.jobs.pauses
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
    assert shelf.redis.ttl("takeone:pause") == -1, "only an operator ends it"


@pytest.mark.parametrize("bad", ["x", "{}", '{"paused_at": "later"}'])
def test_an_unreadable_pause_is_on_and_can_be_ended(shelf: Shelf, bad: str) -> None:
    waiting = shelf.run(shelf.uploaded())
    shelf.redis.set(keys.PAUSE, bad)
    with pytest.raises(DispatchingPaused):
        shelf.begin(waiting)
    assert _sweep(shelf, NOW + HOUR) == {"rescheduled": 1}
    pauses = shelf.jobs.pauses
    assert pauses.current() == pauses.begin("olga", "a second one", NOW)
    assert pauses.end("omar", NOW) is not None
    assert pauses.current() is None
    shelf.redis.set(keys.LAST_PAUSE, bad)
    assert pauses.latest() is None
    assert shelf.begin(waiting, NOW + HOUR)


def test_of_concurrent_pauses_or_resumes_one_takes_effect(shelf: Shelf) -> None:
    with ThreadPoolExecutor(8) as pool:
        begun = list(pool.map(lambda n: shelf.jobs.pauses.begin(f"{n}", "why", NOW), range(8)))
        ended = list(pool.map(lambda n: shelf.jobs.pauses.end(f"{n}", NOW), range(8)))
    assert len({pause.by for pause in begun}) == 1
    assert len([pause for pause in ended if pause]) == 1


def test_no_post_begins_while_dispatching_is_paused(shelf: Shelf) -> None:
    token = shelf.run(shelf.uploaded())
    _pause(shelf)
    before = shelf.record(token.job_id)
    with pytest.raises(DispatchingPaused):
        shelf.begin(token)
    assert shelf.record(token.job_id).revision == before.revision
    assert not shelf.begin(replace(token, epoch=9)), "a late message is refused as usual"
    _resume(shelf, NOW + HOUR)
    assert shelf.begin(token, NOW + HOUR)


def test_a_pause_between_a_workers_read_and_its_commit_prevents_the_post(shelf: Shelf) -> None:
    token = shelf.run(shelf.uploaded())

    def rule(record: Record) -> Decision[bool]:
        _pause(shelf)
        return claim_rules.begin(Change(record, NOW, POLICY), token)

    with pytest.raises(DispatchingPaused):
        shelf.jobs.update(token.job_id, rule)
    assert shelf.claim(token.job_id).phase is Phase.CLAIMED


def test_a_post_that_had_begun_is_settled_during_a_pause(shelf: Shelf) -> None:
    token, lost = shelf.run(shelf.uploaded()), shelf.run(shelf.uploaded())
    assert shelf.begin(token)
    assert shelf.begin(lost)
    _pause(shelf)
    assert shelf.settle(token, ClaimEvent.ACCEPTED)
    assert _sweep(shelf, NOW + POLICY.send_lease) == {"called_unknown": 1}


def test_putting_back_a_claim_enqueues_one_message(shelf: Shelf) -> None:
    token = shelf.run(shelf.uploaded())
    claim, queued = shelf.claim(token.job_id), shelf.messages()

    def put_back(held: FencingToken) -> bool:
        rule = lambda record: claim_rules.put_back(Change(record, NOW, POLICY), held)  # noqa: E731
        return shelf.jobs.update(token.job_id, rule).changed

    assert put_back(token)
    assert shelf.messages() == queued + 1
    assert shelf.claim(token.job_id) == claim
    assert not put_back(replace(token, epoch=9))
    assert shelf.begin(token)
    assert not put_back(token)
    assert shelf.messages() == queued + 1


def test_a_long_pause_with_many_claims_adds_no_messages_and_delays_nothing_else(
    shelf: Shelf,
) -> None:
    tokens = [shelf.run(shelf.uploaded()) for _ in range(MANY)]
    dying = shelf.run(shelf.uploaded())
    assert shelf.begin(dying)
    queued = shelf.messages()
    _pause(shelf)
    looks = 0
    for second in range(0, 3600, 20):
        looks += _sweep(shelf, NOW + seconds(second)).get("rescheduled", 0)
    assert looks <= 60 * MANY, "at most one look a minute at each claim"
    assert shelf.messages() == queued
    assert shelf.claim(dying.job_id).phase is Phase.UNKNOWN
    over = NOW + HOUR
    _resume(shelf, over)
    for second in range(15):
        _sweep(shelf, over + seconds(second))
    assert shelf.messages() == queued, "leases restart when dispatching resumes"
    claims = [shelf.claim(token.job_id) for token in tokens]
    assert all((claim.phase, claim.messages) == (Phase.CLAIMED, 1) for claim in claims)
    assert shelf.begin(tokens[0], over + seconds(14))


def test_a_message_lost_during_a_pause_is_sent_again_afterwards(shelf: Shelf) -> None:
    token = shelf.run(shelf.uploaded())
    shelf.redis.delete(*shelf.redis.keys("takeone:broker:*"))
    _pause(shelf)
    for second in range(0, 600, 5):
        _sweep(shelf, NOW + seconds(second))
    assert shelf.messages() == 0
    over = NOW + seconds(600)
    _resume(shelf, over)
    done = [_sweep(shelf, over + seconds(second)) for second in range(76)]
    sent_again = [second for second, counts in enumerate(done) if "redelivered" in counts]
    assert sent_again[0] >= POLICY.claim_lease.total_seconds()
    assert shelf.messages() == len(sent_again)
    assert shelf.begin(token, over + seconds(76))


def test_a_pause_that_was_ended_by_a_clock_a_day_ahead_delays_no_lost_message(shelf: Shelf) -> None:
    token = shelf.run(shelf.uploaded())
    _pause(shelf)
    _resume(shelf, NOW + timedelta(days=1))
    assert _sweep(shelf, NOW + POLICY.claim_lease) == {"redelivered": 1}
    assert shelf.claim(token.job_id).messages == 2


def test_a_claim_that_was_redelivered_before_a_pause_keeps_its_longer_lease(shelf: Shelf) -> None:
    token, now = shelf.run(shelf.uploaded()), NOW
    for _ in range(3):
        due = shelf.claim(token.job_id).lease_until
        assert due is not None
        now = due
        assert _sweep(shelf, now) == {"redelivered": 1}
    _pause(shelf, now)
    _resume(shelf, now + HOUR)
    lease = 8 * POLICY.claim_lease
    assert _sweep(shelf, now + HOUR) == {"rescheduled": 1}
    assert shelf.claim(token.job_id).lease_until == now + HOUR + lease
    assert _sweep(shelf, now + HOUR + lease) == {"redelivered": 1}


def test_the_sweep_resends_after_a_pause_and_not_during_it(shelf: Shelf) -> None:
    token = shelf.unknown(policy=IDEMPOTENT)
    queued = shelf.messages()
    _pause(shelf)
    for minute in range(1, 60):
        done = _sweep(shelf, NOW + timedelta(minutes=minute), IDEMPOTENT)
        assert done in ({}, {"rescheduled": 1})
    assert (shelf.messages(), shelf.claim(token.job_id).phase) == (queued, Phase.UNKNOWN)
    _resume(shelf, NOW + HOUR)
    assert _sweep(shelf, NOW + HOUR + seconds(60), IDEMPOTENT) == {"resent": 1}


def test_during_a_pause_an_engine_is_asked_but_not_found_resends_nothing(shelf: Shelf) -> None:
    token = shelf.unknown(policy=ASKABLE)
    _pause(shelf)
    due = shelf.claim(token.job_id).lease_until
    assert due is not None
    assert _sweep(shelf, due, ASKABLE) == {"asked": 1}
    asked = shelf.record(token.job_id)
    policy = _policy(shelf, ASKABLE)
    answer = answered(Change(asked, due, policy), asked, RunState.NOT_FOUND)
    assert answer.task is None
    kept = _claim(answer)
    assert kept.phase is Phase.UNKNOWN
    assert kept.lease_until is not None
    assert kept.lease_until > due, "it is asked again"
    assert _claim(answered(Change(asked, due, policy), asked, RunState.RUNNING)).phase is Phase.SENT
    _resume(shelf, due)
    again = answered(Change(asked, due, _policy(shelf, ASKABLE)), asked, RunState.NOT_FOUND)
    assert _claim(again).phase is Phase.CLAIMED


def _claim(decision: Decision[None]) -> Claim:
    assert decision.record.claim is not None
    return decision.record.claim


def test_asks_and_cancels_use_the_follow_up_queue_during_a_pause(shelf: Shelf) -> None:
    policy = replace(ASKABLE, can_cancel=True)
    token = shelf.unknown(policy=policy)
    _pause(shelf)
    queued = shelf.redis.llen("takeone:broker:takeone.follow-ups")
    shelf.jobs.update(token.job_id, lambda record: decide_run(Change(record, NOW, ASKABLE)))
    shelf.jobs.update(token.job_id, lambda record: cancel(Change(record, NOW, policy)))
    assert shelf.redis.llen("takeone:broker:takeone.follow-ups") == queued + 2


def test_a_cancel_during_a_pause_frees_a_waiting_claim(shelf: Shelf) -> None:
    token = shelf.run(shelf.uploaded())
    _pause(shelf)
    shelf.jobs.update(token.job_id, lambda record: cancel(Change(record, NOW, POLICY)))
    assert shelf.record(token.job_id).claim is None
    _resume(shelf, NOW + HOUR)
    assert not shelf.begin(token, NOW + HOUR)
