"""A job's life outside its dispatch: creation, upload confirmation, edits, cancel, rest."""

from dataclasses import replace

import pytest

from domain.audit import Actor, EventType
from domain.claim import IN_FLIGHT, Claim, Phase
from domain.errors import (
    FsmTerminalImmutable,
    FsmTransitionInvalid,
    JobAlreadyRunning,
    NotTerminal,
    VideoUriConflict,
)
from domain.job import Manifest
from domain.job_fsm import TERMINAL_STATUSES, JobStatus
from domain.lifecycle import (
    cancel,
    cancel_notified,
    confirm_upload,
    create_job,
    delete,
    edit,
)
from domain.record import Change, TaskKind
from tests.unit.records import (
    JOB_ID,
    NOW,
    POLICY,
    a_claim,
    a_record,
    a_retry_claim,
    seconds,
    statuses_but,
)

CAN_CANCEL = replace(POLICY, can_cancel=True)
LATER = NOW + seconds(9)


def test_a_new_job_is_created_with_the_first_event_of_its_trail() -> None:
    decision = create_job(JOB_ID, "p", "alice", NOW, "c")
    job, (event,) = decision.record.job, decision.events
    assert (job.status, job.owner, job.version) == (JobStatus.CREATED, "alice", 1)
    assert decision.record.claim is None
    assert (event.event_type, event.actor) == (EventType.JOB_CREATED, Actor.EDITOR)
    assert (event.from_status, event.to_status) == (None, JobStatus.CREATED)
    assert event.correlation_id == "c"


@pytest.mark.parametrize("status", [JobStatus.CREATED, JobStatus.UPLOADING])
def test_a_confirmed_upload_takes_the_job_to_uploaded(status: JobStatus) -> None:
    record = a_record(status, manifest=Manifest())
    decision = confirm_upload(Change(record, LATER, POLICY), "s3://v")
    assert (decision.result, decision.changed) == (False, True)
    job = decision.record.job
    assert (job.status, job.manifest.video_uri) == (JobStatus.UPLOADED, "s3://v")
    assert (job.updated_at, job.version) == (LATER, record.job.version + 1)
    assert [event.event_type for event in decision.events] == [EventType.UPLOAD_CONFIRMED]


@pytest.mark.parametrize("status", JobStatus)
def test_confirming_the_same_uri_is_a_replay_and_another_is_refused(status: JobStatus) -> None:
    decision = confirm_upload(Change(a_record(status), LATER, POLICY), "s3://v")
    assert (decision.result, decision.changed) == (True, False)
    with pytest.raises(VideoUriConflict) as refused:
        confirm_upload(Change(a_record(status), LATER, POLICY), "s3://w")
    uris = {"current_video_uri": "s3://v", "submitted_video_uri": "s3://w"}
    assert refused.value.details == uris


@pytest.mark.parametrize("status", statuses_but(JobStatus.CREATED, JobStatus.UPLOADING))
def test_an_upload_is_confirmed_only_before_uploaded(status: JobStatus) -> None:
    kind = FsmTerminalImmutable if status in TERMINAL_STATUSES else FsmTransitionInvalid
    with pytest.raises(kind):
        confirm_upload(Change(a_record(status, manifest=Manifest()), LATER, POLICY), "s3://v")


@pytest.mark.parametrize("status", JobStatus)
def test_every_job_that_has_not_ended_can_be_cancelled(status: JobStatus) -> None:
    if status in TERMINAL_STATUSES:
        with pytest.raises(FsmTerminalImmutable) as refused:
            cancel(Change(a_record(status), LATER, POLICY))
        assert refused.value.details["attempted_status"] == JobStatus.CANCELLED
        return
    decision = cancel(Change(a_record(status), LATER, POLICY, "c"))
    assert decision.record.job.status is JobStatus.CANCELLED
    (event,) = decision.events
    assert (event.event_type, event.actor) == (EventType.JOB_CANCELLED, Actor.EDITOR)
    assert (event.from_status, event.correlation_id) == (status, "c")


@pytest.mark.parametrize("phase", [Phase.SENDING, Phase.SENT, Phase.UNKNOWN])
def test_a_cancel_keeps_a_claim_that_may_have_been_received_and_tells_the_orchestrator(
    phase: Phase,
) -> None:
    decision = cancel(Change(a_record(JobStatus.UPLOADED, a_claim(phase)), LATER, CAN_CANCEL))
    claim = decision.record.claim
    assert (claim.phase, claim.cancel_due) == (phase, True)
    assert claim.lease_until is not None
    assert decision.task is TaskKind.TELL_CANCELLED


def test_a_cancel_tells_the_orchestrator_of_a_dispatch_that_an_earlier_epoch_may_have_sent() -> (
    None
):
    resent = a_claim(Phase.CLAIMED, epoch=2, sends=1)
    decision = cancel(Change(a_record(JobStatus.UPLOADED, resent), LATER, CAN_CANCEL))
    assert decision.record.claim.phase is Phase.UNKNOWN, "the earlier send may still arrive"
    assert decision.task is TaskKind.TELL_CANCELLED


def test_a_cancel_begins_its_own_tries_and_ends_the_wait_for_a_last_report() -> None:
    claim = a_claim(Phase.SENT, sends=1, asks=7, ended_at=NOW)
    record = cancel(Change(a_record(JobStatus.GENERATING, claim), NOW, CAN_CANCEL)).record
    assert (record.claim.asks, record.claim.ended_at) == (0, None)


def test_an_orchestrator_that_cannot_cancel_is_not_told() -> None:
    decision = cancel(Change(a_record(JobStatus.UPLOADED, a_claim(Phase.SENT)), LATER, POLICY))
    assert decision.task is None
    assert not decision.record.claim.cancel_due


def test_a_cancel_releases_a_claim_that_was_not_sent() -> None:
    decision = cancel(Change(a_record(JobStatus.UPLOADED, a_claim()), LATER, POLICY))
    assert (decision.record.claim, decision.task) == (None, None)
    assert decision.record.released.reason == "cancelled"
    kinds = [event.event_type for event in decision.events]
    assert kinds == [EventType.JOB_CANCELLED, EventType.RELEASED]


def test_the_outcome_of_a_cancel_is_an_event_and_leaves_the_job_as_it_is() -> None:
    record = a_record(JobStatus.CANCELLED, a_claim(Phase.SENT, cancel_due=True))
    decision = cancel_notified(Change(record, LATER, POLICY), record.token, "refused", True)
    (event,) = decision.events
    assert (event.event_type, event.reason) == (EventType.CANCEL_NOTIFIED, "refused")
    job, claim = decision.record.job, decision.record.claim
    assert job == record.job
    assert (claim.cancel_due, claim.lease_until) == (False, None)


def test_a_cancel_stays_due_until_it_is_received_and_only_the_first_failure_is_an_event() -> None:
    record = a_record(JobStatus.CANCELLED, a_claim(Phase.SENT, cancel_due=True))
    events = []
    for _ in range(3):
        decision = cancel_notified(Change(record, LATER, POLICY), record.token, "no_answer", False)
        events += decision.events
        record = decision.record
        assert record.claim.cancel_due
        assert record.claim.lease_until > LATER
    assert len(events) == 1


def test_a_late_outcome_of_a_cancel_that_was_received_changes_nothing() -> None:
    record = a_record(JobStatus.CANCELLED, a_claim(Phase.SENT, asks=1))
    assert not cancel_notified(
        Change(record, LATER, POLICY), record.token, "no_answer", False
    ).changed


@pytest.mark.parametrize("status", JobStatus)
def test_only_a_job_that_has_ended_is_at_rest(status: JobStatus) -> None:
    sent = a_claim(Phase.SENT)
    if status in TERMINAL_STATUSES:
        for claim in (None, sent, a_retry_claim(resumed=True), a_claim(Phase.RELEASED)):
            delete(a_record(status, claim))
        return
    for claim in (None, a_claim(), sent):
        with pytest.raises(NotTerminal) as refused:
            delete(a_record(status, claim))
        assert refused.value.details == {"current_status": status}


@pytest.mark.parametrize(
    "claim",
    [*map(a_claim, sorted(IN_FLIGHT)), *map(a_retry_claim, sorted(IN_FLIGHT)), a_retry_claim()],
)
def test_a_job_with_an_open_dispatch_is_not_at_rest(claim: Claim) -> None:
    for status in (JobStatus.FAILED, JobStatus.CANCELLED):
        with pytest.raises(JobAlreadyRunning) as refused:
            delete(a_record(status, claim))
        assert refused.value.details == {"current_status": status}


def test_a_job_with_a_due_cancel_is_not_at_rest() -> None:
    record = cancel(
        Change(a_record(JobStatus.EDITING, a_claim(Phase.SENT)), NOW, CAN_CANCEL)
    ).record
    for is_received in (False, False, True):
        with pytest.raises(JobAlreadyRunning):
            delete(record)
        record = cancel_notified(
            Change(record, LATER, POLICY), record.token, "an outcome", is_received
        ).record
    delete(record)
    for policy, claim in ((POLICY, a_claim(Phase.SENT)), (CAN_CANCEL, None)):
        delete(cancel(Change(a_record(JobStatus.EDITING, claim), NOW, policy)).record)


def test_a_job_is_at_rest_when_its_retry_ended_badly_without_a_callback() -> None:
    delete(a_record(JobStatus.FAILED, a_retry_claim(is_dead=True)))


@pytest.mark.parametrize("status", JobStatus)
def test_an_edit_changes_only_the_fields_that_it_names(status: JobStatus) -> None:
    record = a_record(status, a_claim(Phase.SENT), name="old", metadata={"a": "1"})
    for own in ({"name": "new"}, {"name": None}, {"metadata": {}}, {"metadata": {"b": "2"}}):
        decision = edit(Change(record, LATER, POLICY), own)
        changed = record.job.model_copy(update={**own, "updated_at": LATER, "version": 2})
        assert (decision.record.job, decision.record.claim) == (changed, record.claim)
        assert (decision.changed, decision.events, decision.task) == (True, (), None)


@pytest.mark.parametrize("own", [{}, {"name": "old"}, {"metadata": {"a": "1"}}])
def test_an_edit_to_the_same_values_changes_nothing(own: dict[str, object]) -> None:
    record = a_record(JobStatus.DONE, name="old", metadata={"a": "1"})
    assert not edit(Change(record, LATER, POLICY), own).changed
