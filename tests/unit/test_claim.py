"""The claim's protocol: every phase with every event, and the claim after each step."""

import itertools
from dataclasses import replace
from datetime import timedelta

import pytest

from domain.audit import Actor
from domain.claim import IN_FLIGHT, ClaimEvent, FencingToken, Phase
from domain.claim_rules import begin, resend
from domain.job_fsm import JobStatus
from domain.reconcile import LONGEST_CLAIM_LEASE, look
from domain.record import Change, TaskKind
from domain.run import hold_is_over
from tests.unit.records import JOB_ID, NOW, POLICY, a_claim, a_record, seconds

TABLE = """
CLAIMED  begin           -> SENDING
CLAIMED  accepted        -> SENT
CLAIMED  lease_over      -> CLAIMED
CLAIMED  unqueued        -> RELEASED
CLAIMED  cancelled       -> RELEASED
CLAIMED  proved          -> SENT
CLAIMED  found           -> SENT
CLAIMED  window_over     -> UNKNOWN
SENDING  accepted        -> SENT
SENDING  refused         -> RELEASED
SENDING  not_started     -> RELEASED
SENDING  lost            -> UNKNOWN
SENDING  lease_over      -> UNKNOWN
SENDING  proved          -> SENT
SENDING  found           -> SENT
UNKNOWN  accepted        -> SENT
UNKNOWN  refused         -> RELEASED
UNKNOWN  not_started     -> RELEASED
UNKNOWN  lost            -> UNKNOWN
UNKNOWN  resend          -> CLAIMED
UNKNOWN  proved          -> SENT
UNKNOWN  found           -> SENT
UNKNOWN  abandoned       -> RELEASED
UNKNOWN  settled_sent    -> SENT
UNKNOWN  settled_release -> RELEASED
SENT     settled_release -> RELEASED
RELEASED proved          -> SENT
"""
EXPECTED = {(words[0], words[1]): words[3] for words in map(str.split, TABLE.strip().splitlines())}
PAIRS = list(itertools.product(Phase, ClaimEvent))
OUTCOMES = set(ClaimEvent) - {ClaimEvent.BEGIN, ClaimEvent.RESEND}


@pytest.mark.parametrize(("phase", "event"), PAIRS)
def test_an_event_leads_to_the_phase_of_the_table(phase: Phase, event: ClaimEvent) -> None:
    assert a_claim(phase).next_phase(event) == EXPECTED.get((phase, event))


def test_a_claim_without_a_known_outcome_is_in_flight() -> None:
    in_flight = {phase for phase in Phase if a_claim(phase).in_flight}
    assert in_flight == IN_FLIGHT == {"CLAIMED", "SENDING", "UNKNOWN"}


@pytest.mark.parametrize(("phase", "event"), [(p, e) for p, e in PAIRS if e in OUTCOMES])
def test_an_outcome_settles_the_claim_or_changes_nothing(phase: Phase, event: ClaimEvent) -> None:
    claim, after = a_claim(phase, sent_at=NOW), EXPECTED.get((phase, event))
    settled = claim.after(event, NOW + seconds(5), POLICY, "why")
    if after in (None, phase):
        assert settled is None
        return
    assert (settled.phase, settled.reason) == (after, "why")
    assert (settled.dispatch_id, settled.epoch) == (claim.dispatch_id, claim.epoch)
    is_open = after == "UNKNOWN"
    assert settled.settled_at == (None if is_open else NOW + seconds(5))
    assert settled.lease_until == (NOW + seconds(65) if is_open else None)


@pytest.mark.parametrize("phase", Phase)
def test_only_a_claimed_dispatch_is_begun_and_the_intent_is_stored(phase: Phase) -> None:
    record = a_record(JobStatus.UPLOADED, a_claim(phase, sends=2))
    decision = begin(Change(record, NOW, POLICY), record.token)
    assert decision.changed == decision.result == (phase is Phase.CLAIMED)
    begun = decision.record.claim
    if decision.changed:
        assert (begun.phase, begun.sent_at, begun.sends) == (Phase.SENDING, NOW, 3)
        assert begun.lease_until == NOW + POLICY.send_lease


@pytest.mark.parametrize("phase", Phase)
def test_only_an_unknown_dispatch_is_sent_again_with_its_id_and_the_next_epoch(
    phase: Phase,
) -> None:
    claim = a_claim(phase, reason="outcome_unknown", sends=1, messages=3)
    change = Change(a_record(JobStatus.UPLOADED, claim), NOW, POLICY)
    assert resend(change, claim, Actor.SYSTEM) == (phase is Phase.UNKNOWN)
    again = change.record.claim
    if phase is Phase.UNKNOWN:
        assert (again.dispatch_id, again.epoch) == (claim.dispatch_id, 2)
        assert (again.phase, again.messages, again.sends) == (Phase.CLAIMED, 1, 1)
        assert (again.reason, again.lease_until) == (None, NOW + POLICY.claim_lease)


@pytest.mark.parametrize(
    ("age", "status", "engine", "is_allowed"),
    [
        (59, JobStatus.UPLOADED, "here", True),
        (60, JobStatus.UPLOADED, "here", False),
        (59, JobStatus.UPLOADED, "there", False),
        (59, JobStatus.CANCELLED, "here", False),
    ],
)
def test_a_resend_needs_an_engine_that_recognises_it_and_a_job_that_wants_it(
    age: float, status: JobStatus, engine: str, is_allowed: bool
) -> None:
    claim = a_claim(Phase.UNKNOWN, sends=1, first_sent_at=NOW, engine="here")
    policy = replace(POLICY, window=seconds(60), engine=engine)
    change = Change(a_record(status, claim), NOW + seconds(age), policy)
    assert resend(change, claim, Actor.SYSTEM) is is_allowed


@pytest.mark.parametrize("phase", Phase)
def test_only_the_message_of_a_claimed_dispatch_is_sent_again(phase: Phase) -> None:
    record = a_record(JobStatus.UPLOADED, a_claim(phase, lease_until=NOW))
    task = look(Change(record, NOW, POLICY)).task
    assert (task is TaskKind.DISPATCH) == (phase is Phase.CLAIMED)


def test_the_lease_doubles_with_each_message_up_to_a_limit() -> None:
    record, now, leases = a_record(JobStatus.UPLOADED, a_claim(lease_until=NOW)), NOW, []
    for number in range(2, 12):
        record = look(Change(record, now, POLICY)).record
        assert record.claim.messages == number
        leases.append(record.claim.lease_until - now)
        now = record.claim.lease_until
    assert leases[:4] == [seconds(30), seconds(60), seconds(120), seconds(240)]
    assert leases[-1] == LONGEST_CLAIM_LEASE == timedelta(minutes=10)
    assert leases == sorted(leases)


@pytest.mark.parametrize(
    ("phase", "event"),
    [
        (Phase.CLAIMED, ClaimEvent.UNQUEUED),
        (Phase.CLAIMED, ClaimEvent.CANCELLED),
        (Phase.SENDING, ClaimEvent.REFUSED),
        (Phase.SENDING, ClaimEvent.NOT_STARTED),
    ],
)
def test_a_negative_outcome_does_not_release_a_claim_with_an_earlier_send(
    phase: Phase, event: ClaimEvent
) -> None:
    sends = 2 if phase is Phase.SENDING else 1
    held = a_claim(phase, sends=sends, epoch=2).after(event, NOW, POLICY, "refused")
    assert (held.phase, held.reason) == (Phase.UNKNOWN, "outcome_unknown")
    released = a_claim(phase, sends=sends - 1, epoch=2).after(event, NOW, POLICY, "refused")
    assert released.phase is Phase.RELEASED


@pytest.mark.parametrize("event", [ClaimEvent.REFUSED, ClaimEvent.NOT_STARTED])
def test_a_late_negative_outcome_of_the_only_send_releases_an_unknown_claim(
    event: ClaimEvent,
) -> None:
    assert a_claim(Phase.UNKNOWN, sends=1).after(event, NOW, POLICY).phase is Phase.RELEASED


def test_a_claim_that_names_no_engine_was_sent_to_a_webhook() -> None:
    asked, old = replace(POLICY, can_be_asked=True, engine="here"), {"sent_at": NOW}
    assert a_claim(Phase.UNKNOWN, sends=1, **old).is_elsewhere(asked)
    assert not a_claim(sends=0).is_elsewhere(asked)
    assert not a_claim(Phase.UNKNOWN, sends=1, **old).is_elsewhere(replace(POLICY, engine="here"))


def test_a_resend_does_not_invent_what_an_earlier_release_did_not_note() -> None:
    """A window that the settings add later would count from a time that is not the first send's."""
    record = a_record(JobStatus.UPLOADED, a_claim(sends=2, sent_at=NOW, epoch=3))
    policy = replace(POLICY, engine="here")
    begun = begin(Change(record, NOW + seconds(5), policy), record.token).record.claim
    assert (begun.sends, begun.first_sent_at, begun.engine) == (3, None, None)


def test_a_settled_claim_and_a_resent_one_are_not_being_asked_about() -> None:
    asked = a_claim(Phase.UNKNOWN, sends=1, first_sent_at=NOW, asked_at=NOW, asks=3)
    found = asked.after(ClaimEvent.FOUND, NOW, POLICY)
    assert (found.asked_at, found.asks) == (None, 0)
    policy = replace(POLICY, window=timedelta.max)
    change = Change(a_record(JobStatus.UPLOADED, asked), NOW, policy)
    assert resend(change, asked, Actor.SYSTEM)
    assert (change.record.claim.asked_at, change.record.claim.asks) == (None, 0)


def test_what_cannot_be_sent_again_is_looked_at_once_an_hour() -> None:
    hour, claim = NOW + timedelta(hours=1), a_claim(Phase.UNKNOWN, sends=1, engine="here")
    asked = replace(POLICY, can_be_asked=True, window=timedelta.max)
    assert claim.next_try(NOW, replace(asked, engine="there")) == hour
    late = replace(POLICY, window=seconds(60), engine="here")
    closed = a_claim(Phase.UNKNOWN, sends=1, first_sent_at=NOW - seconds(60), engine="here")
    assert closed.next_try(NOW, late) == hour


def test_a_hold_counts_from_when_the_outcome_became_unknown() -> None:
    sending = a_claim(Phase.SENDING, sends=1, sent_at=NOW)
    lost = sending.after(ClaimEvent.LEASE_OVER, NOW + POLICY.send_lease, POLICY)
    over = NOW + POLICY.send_lease + seconds(60)
    assert not hold_is_over(lost, over - seconds(1), POLICY)
    assert hold_is_over(lost, over, POLICY)


def test_an_unknown_outcome_may_be_held_for_ever() -> None:
    policy = replace(POLICY, unknown_hold=None)
    lost = a_claim(Phase.SENDING).after(ClaimEvent.LOST, NOW, policy)
    assert lost.lease_until is None
    assert not hold_is_over(lost, NOW + timedelta(days=36_500), policy)


def test_a_hold_ends_on_time() -> None:
    lost = a_claim(Phase.SENDING).after(ClaimEvent.LOST, NOW, POLICY)
    assert not hold_is_over(lost, NOW + seconds(59.999), POLICY)
    assert hold_is_over(lost, NOW + seconds(60), POLICY)


@pytest.mark.parametrize(("sends", "pause"), [(1, 2), (2, 4), (5, 32), (6, 60), (100, 60)])
def test_resends_to_an_engine_that_recognises_them_have_growing_pauses_with_jitter(
    sends: int, pause: int
) -> None:
    policy = replace(POLICY, window=timedelta.max)
    fields = {"sends": sends, "first_sent_at": NOW}
    claims = [a_claim(Phase.SENDING, dispatch_id=f"run-{n}", **fields) for n in range(20)]
    lost = [claim.after(ClaimEvent.LOST, NOW, policy) for claim in claims]
    pauses = {(claim.lease_until - NOW).total_seconds() for claim in lost}
    assert 0.75 * pause <= min(pauses) < max(pauses) <= 1.25 * pause
    assert len(pauses) > 10, "not in lockstep"


def test_a_token_names_the_dispatch_and_its_epoch() -> None:
    claim = a_claim(epoch=3)
    assert claim.holds(FencingToken(JOB_ID, claim.dispatch_id, 3))
    assert not claim.holds(FencingToken(JOB_ID, claim.dispatch_id, 2))
    assert not claim.holds(FencingToken(JOB_ID, "run-another", 3))
