"""What an operator may say of a dispatch."""

import pytest

from domain.audit import Actor, OperatorAct
from domain.claim import ClaimEvent, Phase
from domain.claim_rules import settle_by_operator
from domain.job_fsm import JobStatus
from tests.unit.records import NOW, POLICY, a_claim, a_record, a_retry_claim

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
