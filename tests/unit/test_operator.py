"""What an operator may say of a dispatch."""

from dataclasses import replace
from datetime import timedelta

import pytest

from cli.dispatches import pause_line as pause_in_a_line
from domain.audit import Actor, EventType, OperatorAct
from domain.claim import ClaimEvent, Phase, RunState
from domain.claim_rules import settle_by_operator
from domain.errors import (
    CannotBeAsked,
    FsmTerminalImmutable,
    FsmTransitionInvalid,
    OrchestratorDispatchFailed,
)
from domain.job import Failure
from domain.job_fsm import TRANSITIONS, JobStatus
from domain.lifecycle import fail
from domain.pause import Pause
from domain.reconcile import answered, ask_by_operator, has_answered, word_of_engine
from domain.record import TaskKind
from tests.unit.records import NOW, POLICY, a_claim, a_record, a_retry_claim, seconds

SENT, RELEASE = ClaimEvent.SETTLED_SENT, ClaimEvent.SETTLED_RELEASE


def said(reason: str) -> OperatorAct:
    """What an operator gives as the reason."""
    return OperatorAct("olga", reason)


def test_an_unknown_run_is_settled_as_sent_and_the_job_moves_on() -> None:
    record = a_record(JobStatus.UPLOADED, a_claim(Phase.UNKNOWN, sent_at=NOW))
    change = settle_by_operator(record, SENT, said("seen in the orchestrator's log"), NOW, POLICY)
    assert change.changed
    assert change.record.job.status is JobStatus.AUDIO_EXTRACTING
    assert {(event.actor, event.operator, event.reason) for event in change.events} == {
        (Actor.OPERATOR, "olga", "seen in the orchestrator's log")
    }


def test_an_unknown_run_is_released_and_the_job_stays_where_it_is() -> None:
    record = a_record(JobStatus.UPLOADED, a_claim(Phase.UNKNOWN, sent_at=NOW))
    change = settle_by_operator(record, RELEASE, said("it never arrived"), NOW, POLICY)
    assert change.changed
    assert change.record.claim is None
    assert change.record.job.status is JobStatus.UPLOADED


@pytest.mark.parametrize("phase", [Phase.CLAIMED, Phase.SENDING])
def test_what_a_worker_still_holds_is_not_an_operators(phase: Phase) -> None:
    record = a_record(JobStatus.UPLOADED, a_claim(phase))
    assert not settle_by_operator(record, RELEASE, said("impatient"), NOW, POLICY).changed


def test_an_accepted_run_is_not_released() -> None:
    record = a_record(JobStatus.AUDIO_EXTRACTING, a_claim(Phase.SENT))
    assert not settle_by_operator(record, RELEASE, said("wrong"), NOW, POLICY).changed


def test_an_accepted_retry_that_never_called_back_is_released() -> None:
    record = a_record(JobStatus.FAILED, a_retry_claim(Phase.SENT))
    assert settle_by_operator(record, RELEASE, said("the workflow died"), NOW, POLICY).changed


def test_a_retry_that_called_back_and_failed_again_is_not_released() -> None:
    """Its client_request_id would otherwise dispatch a second time."""
    record = a_record(JobStatus.FAILED, a_retry_claim(Phase.SENT, resumed=True))
    assert not settle_by_operator(record, RELEASE, said("wrong"), NOW, POLICY).changed


def test_a_run_that_failed_is_not_released() -> None:
    record = a_record(JobStatus.FAILED, a_claim(Phase.SENT))
    assert not settle_by_operator(record, RELEASE, said("wrong"), NOW, POLICY).changed


ASKED = replace(POLICY, can_be_asked=True, window=timedelta.max, engine="it")


@pytest.mark.parametrize("phase", list(Phase))
def test_an_operator_has_asked_about_what_no_worker_holds(phase: Phase) -> None:
    record = a_record(JobStatus.UPLOADED, a_claim(phase, sent_at=NOW, sends=1, engine="it"))
    if phase in (Phase.UNKNOWN, Phase.SENT):
        change = ask_by_operator(record, said("its owner asks"), NOW, ASKED)
        assert [(each.event_type, each.operator) for each in change.events] == [
            (EventType.ASKED, "olga")
        ]
        again = ask_by_operator(change.record, said("another"), NOW, ASKED)
        assert not again.changed, "the ask that is under way is joined"
        return
    with pytest.raises(CannotBeAsked):
        ask_by_operator(record, said("impatient"), NOW, ASKED)


def test_only_what_was_sent_to_this_engine_is_asked_about() -> None:
    unsent = a_record(JobStatus.UPLOADED, a_claim(Phase.UNKNOWN, sends=0))
    sent = a_record(JobStatus.UPLOADED, a_claim(Phase.UNKNOWN, sent_at=NOW, sends=1))
    for record, policy in ((unsent, ASKED), (sent, POLICY), (a_record(JobStatus.UPLOADED), ASKED)):
        with pytest.raises(CannotBeAsked):
            ask_by_operator(record, said("impatient"), NOW, policy)


@pytest.mark.parametrize("status", list(JobStatus))
def test_an_operator_fails_what_the_table_lets_fail(status: JobStatus) -> None:
    record = a_record(status, a_claim(Phase.SENT, sent_at=NOW, sends=1))
    if JobStatus.FAILED not in TRANSITIONS[status]:
        with pytest.raises((FsmTerminalImmutable, FsmTransitionInvalid)):
            fail(record, said("stuck"), NOW, POLICY)
        return
    change = fail(record, said("stuck"), NOW, replace(POLICY, can_cancel=True))
    job, claim = change.record.job, change.record.claim
    assert (job.status, job.failure) == (
        JobStatus.FAILED,
        Failure(code="FAILED_BY_OPERATOR", message="stuck"),
    )
    assert claim is not None
    assert claim.cancel_due
    assert change.task is TaskKind.TELL_CANCELLED


def test_a_pause_is_said_in_one_line_whatever_its_operator_is_called() -> None:
    pause = Pause(paused_at=NOW, by="olga\x1b[2J\u202e", reason="a\nb")
    line = pause_in_a_line(pause)
    assert line.isprintable()
    assert "by olga" in line


@pytest.mark.parametrize("phase", [Phase.SENT, Phase.UNKNOWN])
@pytest.mark.parametrize("behind", [0, 5])
def test_an_answer_by_a_clock_that_is_behind_is_an_answer(phase: Phase, behind: int) -> None:
    claim = a_retry_claim(phase, sent_at=NOW, settled_at=NOW, sends=1, engine="it")
    asking = ask_by_operator(a_record(JobStatus.FAILED, claim), said("?"), NOW, ASKED)
    then = NOW - seconds(behind)
    after = answered(asking.record, asking.record, RunState.RUNNING, then, ASKED)
    assert has_answered(after.record, asking.result)
    assert word_of_engine(after.record, asking.result) is RunState.RUNNING


@pytest.mark.parametrize("ahead", [0, 5])
def test_no_answer_is_not_taken_for_the_word_before_by_a_clock_that_is_ahead(ahead: int) -> None:
    claim = a_retry_claim(Phase.SENT, sent_at=NOW, settled_at=NOW, sends=1, engine="it")
    asking = ask_by_operator(a_record(JobStatus.FAILED, claim), said("?"), NOW, ASKED)
    later = NOW + seconds(ahead)
    known = answered(asking.record, asking.record, RunState.RUNNING, later, ASKED).record
    again = ask_by_operator(known, said("?"), NOW + seconds(1), ASKED)
    after = answered(again.record, again.record, RunState.NO_ANSWER, NOW + seconds(2), ASKED)
    assert has_answered(after.record, again.result)
    with pytest.raises(OrchestratorDispatchFailed):
        word_of_engine(after.record, again.result)
