"""What an operator may do to a dispatch: settle it, have it asked about, fail its job."""

from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from cli.dispatches import pause_line
from domain.audit import Actor, EventType, OperatorAct
from domain.claim import Claim, ClaimEvent, Phase, RunState
from domain.claim_rules import settle_by_operator
from domain.errors import (
    CannotBeAsked,
    FsmTerminalImmutable,
    FsmTransitionInvalid,
    JobAlreadyRunning,
    OrchestratorDispatchFailed,
)
from domain.job import Failure
from domain.job_fsm import TRANSITIONS, JobStatus
from domain.lifecycle import fail
from domain.pause import Pause
from domain.reconcile import answered, ask_by_operator, engine_answer, has_answered
from domain.record import Change, TaskKind
from domain.retry import decide_retry, operator_request_id
from domain.status_callback import StatusCallback, apply_callback
from tests.unit.records import NOW, POLICY, a_claim, a_record, a_retry_claim, seconds

SENT, RELEASE = ClaimEvent.SETTLED_SENT, ClaimEvent.SETTLED_RELEASE
UPLOADED, FAILED = JobStatus.UPLOADED, JobStatus.FAILED
ACT = OperatorAct("olga", "a reason")
ASKED = replace(POLICY, can_be_asked=True, window=timedelta.max, engine="it")


def test_an_unknown_run_is_settled_as_sent_and_the_job_moves_on() -> None:
    record = a_record(UPLOADED, a_claim(Phase.UNKNOWN, sent_at=NOW))
    decision = settle_by_operator(Change(record, NOW, POLICY, act=ACT), SENT)
    assert decision.record.claim.phase is Phase.SENT
    assert decision.record.job.status is JobStatus.AUDIO_EXTRACTING
    by = {(event.actor, event.operator, event.reason) for event in decision.events}
    assert by == {(Actor.OPERATOR, "olga", "a reason")}


@pytest.mark.parametrize(
    ("status", "claim", "is_released"),
    [
        (UPLOADED, a_claim(Phase.UNKNOWN, sent_at=NOW), True),
        (FAILED, a_retry_claim(Phase.SENT), True),
        # Otherwise its client_request_id would dispatch a second time.
        (FAILED, a_retry_claim(Phase.SENT, resumed=True), False),
        (FAILED, a_claim(Phase.SENT), False),
        (JobStatus.AUDIO_EXTRACTING, a_claim(Phase.SENT), False),
        # A worker holds it.
        (UPLOADED, a_claim(Phase.CLAIMED), False),
        (UPLOADED, a_claim(Phase.SENDING), False),
    ],
)
def test_only_an_unknown_dispatch_or_a_retry_that_never_called_back_is_released(
    status: JobStatus, claim: Claim, is_released: bool
) -> None:
    decision = settle_by_operator(Change(a_record(status, claim), NOW, POLICY, act=ACT), RELEASE)
    assert decision.changed is is_released
    assert decision.record.claim == (None if is_released else claim)
    assert decision.record.job.status is status


@pytest.mark.parametrize("phase", Phase)
def test_an_operator_has_the_engine_asked_about_a_dispatch_that_no_worker_holds(
    phase: Phase,
) -> None:
    record = a_record(UPLOADED, a_claim(phase, sent_at=NOW, sends=1, engine="it"))
    if phase in (Phase.UNKNOWN, Phase.SENT):
        decision = ask_by_operator(Change(record, NOW, ASKED, act=ACT))
        (event,) = decision.events
        assert (event.event_type, event.operator) == (EventType.ASKED, "olga")
        again = ask_by_operator(Change(decision.record, NOW, ASKED, act=ACT))
        assert not again.changed, "the ask that is under way is joined"
        return
    with pytest.raises(CannotBeAsked):
        ask_by_operator(Change(record, NOW, ASKED, act=ACT))


def test_only_a_dispatch_that_was_sent_to_this_engine_is_asked_about() -> None:
    unsent = a_record(UPLOADED, a_claim(Phase.UNKNOWN, sends=0))
    sent = a_record(UPLOADED, a_claim(Phase.UNKNOWN, sent_at=NOW, sends=1))
    for record, policy in ((unsent, ASKED), (sent, POLICY), (a_record(UPLOADED), ASKED)):
        with pytest.raises(CannotBeAsked):
            ask_by_operator(Change(record, NOW, policy, act=ACT))


@pytest.mark.parametrize("status", JobStatus)
def test_an_operator_fails_a_job_from_every_state_that_can_fail(status: JobStatus) -> None:
    record = a_record(status, a_claim(Phase.SENT, sent_at=NOW, sends=1))
    if FAILED not in TRANSITIONS[status]:
        with pytest.raises((FsmTerminalImmutable, FsmTransitionInvalid)):
            fail(Change(record, NOW, POLICY, act=ACT))
        return
    decision = fail(Change(record, NOW, replace(POLICY, can_cancel=True), act=ACT))
    job = decision.record.job
    failure = Failure(code="FAILED_BY_OPERATOR", message="a reason")
    assert (job.status, job.failure) == (FAILED, failure)
    assert decision.record.claim.cancel_due
    assert decision.task is TaskKind.TELL_CANCELLED


def test_a_pause_is_printed_in_one_line_whatever_its_operators_name() -> None:
    line = pause_line(Pause(paused_at=NOW, by="olga\x1b[2J\u202e", reason="a\nb"))
    assert line.isprintable()
    assert "by olga" in line


@pytest.mark.parametrize("phase", [Phase.SENT, Phase.UNKNOWN])
@pytest.mark.parametrize("behind", [0, 5])
def test_an_answer_counts_although_its_clock_is_behind(phase: Phase, behind: int) -> None:
    claim = a_retry_claim(phase, sent_at=NOW, settled_at=NOW, sends=1, engine="it")
    ask = ask_by_operator(Change(a_record(FAILED, claim), NOW, ASKED, act=ACT))
    then = NOW - seconds(behind)
    after = answered(Change(ask.record, then, ASKED), ask.record, RunState.RUNNING)
    assert has_answered(after.record, ask.result)
    assert engine_answer(after.record, ask.result) is RunState.RUNNING


@pytest.mark.parametrize("ahead", [0, 5])
def test_an_earlier_answer_whose_clock_was_ahead_does_not_answer_a_new_ask(ahead: int) -> None:
    claim = a_retry_claim(Phase.SENT, sent_at=NOW, settled_at=NOW, sends=1, engine="it")
    ask = ask_by_operator(Change(a_record(FAILED, claim), NOW, ASKED, act=ACT))
    later = NOW + seconds(ahead)
    known = answered(Change(ask.record, later, ASKED), ask.record, RunState.RUNNING).record
    again = ask_by_operator(Change(known, NOW + seconds(1), ASKED, act=ACT))
    after = answered(
        Change(again.record, NOW + seconds(2), ASKED), again.record, RunState.NO_ANSWER
    )
    assert has_answered(after.record, again.result)
    with pytest.raises(OrchestratorDispatchFailed):
        engine_answer(after.record, again.result)


def test_a_dispatch_that_was_sent_again_was_not_found() -> None:
    claim = a_claim(Phase.UNKNOWN, sent_at=NOW, first_sent_at=NOW, sends=1, engine="it")
    ask = ask_by_operator(Change(a_record(UPLOADED, claim), NOW, ASKED, act=ACT))
    resent = answered(
        Change(ask.record, NOW + seconds(1), ASKED), ask.record, RunState.NOT_FOUND
    ).record
    assert resent.claim.epoch == claim.epoch + 1
    assert has_answered(resent, ask.result)
    assert engine_answer(resent, ask.result) is RunState.NOT_FOUND


def test_a_callback_during_an_ask_ends_it_without_an_answer() -> None:
    claim = a_claim(Phase.SENT, sent_at=NOW, settled_at=NOW, sends=1, engine="it")
    ask = ask_by_operator(Change(a_record(JobStatus.AUDIO_EXTRACTING, claim), NOW, ASKED, act=ACT))
    report = StatusCallback("e", "d", JobStatus.AUDIO_READY, NOW, "c")
    reported = apply_callback(Change(ask.record, NOW + seconds(1), ASKED), report).record
    assert has_answered(reported, ask.result)
    assert engine_answer(reported, ask.result) is None


def test_the_request_id_of_an_operators_retry_stays_until_the_retry_resumes() -> None:
    ended = a_claim(Phase.SENT, sends=1)
    failed = a_record(FAILED, ended)
    first = operator_request_id(failed)
    retry = a_retry_claim(Phase.SENT, sends=1)
    assert operator_request_id(a_record(FAILED, retry, past_claims=(ended,))) == first
    for over in ({"resumed": True}, {"is_dead": True}):
        again = a_record(FAILED, retry.model_copy(update=over), past_claims=(ended,))
        assert operator_request_id(again) != first


@pytest.mark.parametrize(
    ("change", "is_barred"),
    [({}, True), ({"engine": "other"}, False), ({"can_cancel": False}, False)],
)
def test_only_a_cancel_that_can_still_be_told_bars_a_retry(
    change: dict[str, Any], is_barred: bool
) -> None:
    policy = replace(ASKED, can_cancel=True)
    running = a_claim(Phase.SENT, sent_at=NOW, sends=1, engine="it")
    failed = fail(
        Change(a_record(JobStatus.AUDIO_EXTRACTING, running), NOW, policy, act=ACT)
    ).record
    with pytest.raises(JobAlreadyRunning) if is_barred else nullcontext():
        decide_retry(Change(failed, NOW, replace(policy, **change)), "one", "standard")
