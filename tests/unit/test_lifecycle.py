"""A job's life outside its dispatch: made, confirmed, cancelled."""

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
    edit,
    ensure_at_rest,
)
from domain.record import TaskKind
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

TELLS = replace(POLICY, can_cancel=True)
LATER = NOW + seconds(9)


def test_a_job_is_born_in_created_with_the_first_line_of_its_trail() -> None:
    change = create_job(JOB_ID, "p", "alice", NOW, "c")
    job = change.record.job
    assert (job.status, job.owner, job.version) == (JobStatus.CREATED, "alice", 1)
    assert change.record.claim is None
    (line,) = change.events
    assert (line.event_type, line.from_status, line.to_status, line.actor, line.correlation_id) == (
        EventType.JOB_CREATED,
        None,
        JobStatus.CREATED,
        Actor.EDITOR,
        "c",
    )


@pytest.mark.parametrize("status", [JobStatus.CREATED, JobStatus.UPLOADING])
def test_a_confirmed_upload_takes_the_job_to_uploaded(status: JobStatus) -> None:
    record = a_record(status, manifest=Manifest())
    decision = confirm_upload(record, "s3://v", LATER, None)
    assert decision.result is False
    assert decision.changed
    job = decision.record.job
    assert (job.status, job.manifest.video_uri) == (JobStatus.UPLOADED, "s3://v")
    assert (job.updated_at, job.version) == (LATER, record.job.version + 1)
    assert [line.event_type for line in decision.events] == [EventType.UPLOAD_CONFIRMED]


@pytest.mark.parametrize("status", JobStatus)
def test_the_confirmed_uri_again_changes_nothing_and_another_is_refused(status: JobStatus) -> None:
    decision = confirm_upload(a_record(status), "s3://v", LATER, None)
    assert (decision.result, decision.changed) == (True, False)
    with pytest.raises(VideoUriConflict) as refused:
        confirm_upload(a_record(status), "s3://w", LATER, None)
    assert refused.value.details == {
        "current_video_uri": "s3://v",
        "submitted_video_uri": "s3://w",
    }


@pytest.mark.parametrize("status", statuses_but(JobStatus.CREATED, JobStatus.UPLOADING))
def test_a_job_without_video_is_confirmed_only_before_it_goes_on(status: JobStatus) -> None:
    kind = FsmTerminalImmutable if status in TERMINAL_STATUSES else FsmTransitionInvalid
    with pytest.raises(kind):
        confirm_upload(a_record(status, manifest=Manifest()), "s3://v", LATER, None)


@pytest.mark.parametrize("status", JobStatus)
def test_whatever_is_not_terminal_is_cancelled(status: JobStatus) -> None:
    if status in TERMINAL_STATUSES:
        with pytest.raises(FsmTerminalImmutable) as refused:
            cancel(a_record(status), LATER, POLICY, None)
        assert refused.value.details["attempted_status"] == JobStatus.CANCELLED
        return
    decision = cancel(a_record(status), LATER, POLICY, "c")
    assert decision.changed
    assert decision.record.job.status is JobStatus.CANCELLED
    (line,) = decision.events
    assert (line.event_type, line.from_status, line.actor) == (
        EventType.JOB_CANCELLED,
        status,
        Actor.EDITOR,
    )


@pytest.mark.parametrize("phase", [Phase.SENDING, Phase.SENT, Phase.UNKNOWN])
def test_a_claim_that_may_have_been_received_stays_and_the_orchestrator_is_told(
    phase: Phase,
) -> None:
    claim = a_claim(phase)
    change = cancel(a_record(JobStatus.UPLOADED, claim), LATER, TELLS, None)
    kept = change.record.claim
    assert kept is not None
    assert (kept.phase, kept.cancel_due) == (phase, True)
    assert kept.lease_until is not None
    assert change.task is TaskKind.TELL_CANCELLED


def test_an_orchestrator_that_knows_no_cancel_is_not_told() -> None:
    change = cancel(a_record(JobStatus.UPLOADED, a_claim(Phase.SENT)), LATER, POLICY, None)
    assert change.task is None
    assert change.record.claim is not None
    assert not change.record.claim.cancel_due


def test_a_claim_that_was_not_sent_is_freed_in_the_same_change() -> None:
    change = cancel(a_record(JobStatus.UPLOADED, a_claim()), LATER, POLICY, None)
    assert change.changed
    assert (change.record.claim, change.task) == (None, None)
    released = change.record.released
    assert released is not None
    assert (released.phase, released.reason) == (Phase.RELEASED, "cancelled")
    kinds = [line.event_type for line in change.events]
    assert kinds == [EventType.JOB_CANCELLED, EventType.RELEASED]


def test_what_came_of_telling_the_orchestrator_is_a_line_and_no_change_of_the_job() -> None:
    record = a_record(JobStatus.CANCELLED, a_claim(Phase.SENT, cancel_due=True))
    change = cancel_notified(record, record.token, "refused", True, LATER)
    (line,) = change.events
    assert (line.event_type, line.reason) == (EventType.CANCEL_NOTIFIED, "refused")
    assert change.record.job == record.job
    assert change.record.claim is not None
    assert (change.record.claim.cancel_due, change.record.claim.lease_until) == (False, None)


def test_a_cancel_stays_due_until_it_is_told_and_the_trail_has_the_first_try_alone() -> None:
    record = a_record(JobStatus.CANCELLED, a_claim(Phase.SENT, cancel_due=True))
    lines = []
    for _ in range(3):
        change = cancel_notified(record, record.token, "no_answer", False, LATER)
        lines += change.events
        record = change.record
        assert record.claim is not None
        assert record.claim.cancel_due
        assert record.claim.lease_until is not None
        assert record.claim.lease_until > LATER
    assert len(lines) == 1


@pytest.mark.parametrize("status", JobStatus)
def test_only_a_job_that_has_ended_is_at_rest(status: JobStatus) -> None:
    if status in TERMINAL_STATUSES:
        ensure_at_rest(a_record(status))
        ensure_at_rest(a_record(status, a_claim(Phase.SENT)))
        ensure_at_rest(a_record(status, a_retry_claim(resumed=True)))
        ensure_at_rest(a_record(status, a_claim(Phase.RELEASED)))
        return
    for claim in (None, a_claim(), a_claim(Phase.SENT)):
        with pytest.raises(NotTerminal) as refused:
            ensure_at_rest(a_record(status, claim))
        assert refused.value.details == {"current_status": status}


@pytest.mark.parametrize(
    "claim",
    [*map(a_claim, sorted(IN_FLIGHT)), *map(a_retry_claim, sorted(IN_FLIGHT)), a_retry_claim()],
)
def test_a_job_whose_dispatch_may_still_bring_something_is_not_at_rest(claim: Claim) -> None:
    for status in (JobStatus.FAILED, JobStatus.CANCELLED):
        with pytest.raises(JobAlreadyRunning) as refused:
            ensure_at_rest(a_record(status, claim))
        assert refused.value.details == {"current_status": status}


def test_a_job_whose_cancel_is_still_to_be_told_is_not_at_rest() -> None:
    record = cancel(a_record(JobStatus.EDITING, a_claim(Phase.SENT)), NOW, TELLS, None).record
    for is_told in (False, False, True):
        with pytest.raises(JobAlreadyRunning):
            ensure_at_rest(record)
        record = cancel_notified(record, record.token, "an outcome", is_told, LATER).record
    ensure_at_rest(record)
    for policy, claim in ((POLICY, a_claim(Phase.SENT)), (TELLS, None)):
        ensure_at_rest(cancel(a_record(JobStatus.EDITING, claim), NOW, policy, None).record)


def test_a_retry_that_ended_badly_there_without_a_callback_is_at_rest() -> None:
    ensure_at_rest(a_record(JobStatus.FAILED, a_retry_claim(is_dead=True)))


@pytest.mark.parametrize("status", JobStatus)
def test_an_edit_changes_what_it_names_and_nothing_else_in_any_state(status: JobStatus) -> None:
    record = a_record(status, a_claim(Phase.SENT), name="old", metadata={"a": "1"})
    for own in ({"name": "new"}, {"name": None}, {"metadata": {}}, {"metadata": {"b": "2"}}):
        decision = edit(record, own, LATER)
        changed = record.job.model_copy(update={**own, "updated_at": LATER, "version": 2})
        assert (decision.record.job, decision.record.claim) == (changed, record.claim)
        assert (decision.changed, decision.events, decision.task) == (True, (), None)


def test_an_edit_that_changes_nothing_writes_nothing() -> None:
    record = a_record(JobStatus.DONE, name="old", metadata={"a": "1"})
    for own in ({}, {"name": "old"}, {"metadata": {"a": "1"}}):
        assert not edit(record, own, LATER).changed


def test_a_cancel_tells_the_orchestrator_of_a_dispatch_that_an_earlier_epoch_may_have_sent() -> (
    None
):
    resent = a_claim(Phase.CLAIMED, epoch=2, sends=1)
    change = cancel(a_record(JobStatus.UPLOADED, resent), LATER, TELLS, None)
    assert change.changed
    assert change.record.claim is not None
    assert change.record.claim.phase is Phase.UNKNOWN, "the earlier send may still arrive"
    assert change.task is TaskKind.TELL_CANCELLED
