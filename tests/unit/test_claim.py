"""The claim's protocol: every phase with every event, and what each step leaves in the claim."""

import itertools
from dataclasses import replace
from datetime import timedelta

import pytest

from domain import claim as protocol
from domain.claim import IN_FLIGHT, LONGEST_CLAIM_LEASE, NEXT_PHASE, ClaimEvent, Phase
from tests.unit.records import NOW, POLICY, a_claim, seconds

TABLE = """
CLAIMED  begin           -> SENDING
CLAIMED  lease_over      -> CLAIMED
CLAIMED  unqueued        -> RELEASED
CLAIMED  cancelled       -> RELEASED
CLAIMED  proved          -> SENT
SENDING  accepted        -> SENT
SENDING  refused         -> RELEASED
SENDING  not_started     -> RELEASED
SENDING  lost            -> UNKNOWN
SENDING  lease_over      -> UNKNOWN
SENDING  proved          -> SENT
UNKNOWN  accepted        -> SENT
UNKNOWN  refused         -> RELEASED
UNKNOWN  not_started     -> RELEASED
UNKNOWN  lost            -> UNKNOWN
UNKNOWN  resend          -> CLAIMED
UNKNOWN  proved          -> SENT
UNKNOWN  settled_sent    -> SENT
UNKNOWN  settled_release -> RELEASED
SENT     settled_release -> RELEASED
RELEASED proved          -> SENT
"""
EXPECTED = {(words[0], words[1]): words[3] for words in map(str.split, TABLE.strip().splitlines())}
PAIRS = list(itertools.product(Phase, ClaimEvent))
OUTCOMES = set(ClaimEvent) - {ClaimEvent.BEGIN, ClaimEvent.RESEND}


@pytest.mark.parametrize(("phase", "event"), PAIRS)
def test_an_event_leads_where_the_protocol_says_and_nowhere_else(
    phase: Phase, event: ClaimEvent
) -> None:
    assert protocol.next_phase(a_claim(phase), event) == EXPECTED.get((phase, event))
    assert ((phase, event) in NEXT_PHASE) == ((phase, event) in EXPECTED)


def test_what_is_in_flight_is_what_has_no_known_outcome() -> None:
    assert {"CLAIMED", "SENDING", "UNKNOWN"} == IN_FLIGHT
    assert [a_claim(phase).in_flight for phase in Phase] == [True, True, False, True, False]


@pytest.mark.parametrize(("phase", "event"), [(p, e) for p, e in PAIRS if e in OUTCOMES])
def test_an_outcome_settles_the_claim_or_changes_nothing(phase: Phase, event: ClaimEvent) -> None:
    claim, after = a_claim(phase, sent_at=NOW), EXPECTED.get((phase, event))
    settled = protocol.settle(claim, event, NOW + seconds(5), POLICY, "why")
    if after in (None, phase):
        assert settled is None
        return
    assert settled is not None
    assert (settled.phase, settled.reason) == (after, "why")
    assert (settled.dispatch_id, settled.epoch) == (claim.dispatch_id, claim.epoch)
    is_open = after == "UNKNOWN"
    assert settled.settled_at == (None if is_open else NOW + seconds(5))
    assert settled.lease_until == (NOW + seconds(65) if is_open else None)


@pytest.mark.parametrize("phase", Phase)
def test_only_a_claimed_dispatch_is_begun_and_the_intent_is_written_first(phase: Phase) -> None:
    begun = protocol.begin(a_claim(phase, sends=2), NOW, POLICY)
    if phase is not Phase.CLAIMED:
        assert begun is None
        return
    assert begun is not None
    assert (begun.phase, begun.sent_at, begun.sends) == (Phase.SENDING, NOW, 3)
    assert begun.lease_until == NOW + POLICY.send_lease


@pytest.mark.parametrize("phase", Phase)
def test_only_an_unknown_dispatch_is_sent_again_under_its_id_and_the_next_epoch(
    phase: Phase,
) -> None:
    claim = a_claim(phase, reason="outcome_unknown", sends=1, messages=3)
    again = protocol.resend(claim, 2, NOW, POLICY)
    if phase is not Phase.UNKNOWN:
        assert again is None
        return
    assert again is not None
    assert (again.dispatch_id, again.epoch) == (claim.dispatch_id, 2)
    assert (again.phase, again.messages, again.sends) == (Phase.CLAIMED, 1, 1)
    assert (again.reason, again.lease_until) == (None, NOW + POLICY.claim_lease)


@pytest.mark.parametrize("phase", Phase)
def test_only_a_claimed_dispatch_is_delivered_again(phase: Phase) -> None:
    again = protocol.redeliver(a_claim(phase), NOW, POLICY)
    assert (again is not None) == (phase is Phase.CLAIMED)


def test_each_further_message_waits_twice_as_long_up_to_a_limit() -> None:
    claim, leases = a_claim(), []
    for number in range(2, 12):
        again = protocol.redeliver(claim, NOW, POLICY)
        assert again is not None
        assert again.lease_until is not None
        assert again.messages == number
        leases.append(again.lease_until - NOW)
        claim = again
    assert leases[:4] == [seconds(30), seconds(60), seconds(120), seconds(240)]
    assert leases[-1] == LONGEST_CLAIM_LEASE == timedelta(minutes=10)
    assert leases == sorted(leases)


def test_an_unknown_outcome_may_be_held_for_ever() -> None:
    policy = replace(POLICY, unknown_hold=None)
    lost = protocol.settle(a_claim(Phase.SENDING), ClaimEvent.LOST, NOW, policy)
    assert lost is not None
    assert lost.lease_until is None
    assert not protocol.may_resend(lost, NOW + timedelta(days=36_500))


def test_a_hold_ends_on_time_and_not_before() -> None:
    lost = protocol.settle(a_claim(Phase.SENDING), ClaimEvent.LOST, NOW, POLICY)
    assert lost is not None
    assert not protocol.may_resend(lost, NOW + seconds(59.999))
    assert protocol.may_resend(lost, NOW + seconds(60))


@pytest.mark.parametrize(("sends", "pause"), [(1, 2), (2, 4), (5, 32), (6, 60), (100, 60)])
def test_an_orchestrator_that_deduplicates_is_sent_again_after_growing_pauses(
    sends: int, pause: int
) -> None:
    policy = replace(POLICY, deduplicates=True)
    lost = protocol.settle(a_claim(Phase.SENDING, sends=sends), ClaimEvent.LOST, NOW, policy)
    assert lost is not None
    assert lost.lease_until == NOW + seconds(pause)


def test_a_token_is_both_the_dispatch_and_its_epoch() -> None:
    claim = a_claim(epoch=3)
    assert protocol.holds(claim, claim.dispatch_id, 3)
    assert not protocol.holds(claim, claim.dispatch_id, 2)
    assert not protocol.holds(claim, "run-another", 3)
    assert not protocol.holds(None, claim.dispatch_id, 3)
