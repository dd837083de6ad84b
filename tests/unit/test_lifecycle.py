"""A job's life outside its dispatch: made, confirmed, cancelled."""

import pytest

from domain.change import Errand
from domain.claim import Phase
from domain.errors import FsmTerminalImmutable, FsmTransitionInvalid, VideoUriConflict
from domain.job_fsm import TERMINAL_STATUSES, JobStatus
from domain.lifecycle import cancel, cancel_notified, confirm_upload, create_job
from domain.models import Manifest
from domain.trail import Actor, EventType
from tests.unit.records import JOB_ID, NOW, POLICY, a_claim, a_record, seconds, statuses_but

LATER = NOW + seconds(9)


def test_a_job_is_born_in_created_with_the_first_line_of_its_trail() -> None:
    change = create_job(JOB_ID, "p", "alice", NOW, "c")
    job = change.record.job
    assert (job.status, job.owner, job.version) == (JobStatus.CREATED, "alice", 1)
    assert change.record.claim is None
    (line,) = change.trail
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
    assert decision.answer is False
    assert decision.change is not None
    job = decision.change.record.job
    assert (job.status, job.manifest.video_uri) == (JobStatus.UPLOADED, "s3://v")
    assert (job.updated_at, job.version) == (LATER, record.job.version + 1)
    assert [line.event_type for line in decision.change.trail] == [EventType.UPLOAD_CONFIRMED]


@pytest.mark.parametrize("status", JobStatus)
def test_the_confirmed_uri_again_changes_nothing_and_another_is_refused(status: JobStatus) -> None:
    decision = confirm_upload(a_record(status), "s3://v", LATER, None)
    assert (decision.answer, decision.change) == (True, None)
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
    assert decision.change is not None
    assert decision.answer is decision.change.record
    assert decision.answer.job.status is JobStatus.CANCELLED
    (line,) = decision.change.trail
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
    change = cancel(a_record(JobStatus.UPLOADED, claim), LATER, POLICY, None).change
    assert change is not None
    assert (change.record.claim, change.errand) == (claim, Errand.TELL_CANCELLED)


def test_a_claim_that_was_not_sent_is_freed_in_the_same_change() -> None:
    change = cancel(a_record(JobStatus.UPLOADED, a_claim()), LATER, POLICY, None).change
    assert change is not None
    assert (change.record.claim, change.errand) == (None, None)
    released = change.record.job.released
    assert released is not None
    assert (released.phase, released.reason) == (Phase.RELEASED, "cancelled")
    kinds = [line.event_type for line in change.trail]
    assert kinds == [EventType.JOB_CANCELLED, EventType.RELEASED]


def test_what_came_of_telling_the_orchestrator_is_a_line_and_no_change_of_the_job() -> None:
    record = a_record(JobStatus.CANCELLED, a_claim(Phase.SENT))
    change = cancel_notified(record, "refused", LATER)
    (line,) = change.trail
    assert (line.event_type, line.reason) == (EventType.CANCEL_NOTIFIED, "refused")
    assert (change.record.job, change.record.claim) == (record.job, record.claim)


def test_a_cancel_tells_the_orchestrator_of_a_dispatch_that_an_earlier_epoch_may_have_sent() -> (
    None
):
    resent = a_claim(Phase.CLAIMED, epoch=2, sends=1)
    change = cancel(a_record(JobStatus.UPLOADED, resent), LATER, POLICY, None).change
    assert change is not None
    assert change.record.claim is None
    assert change.errand is Errand.TELL_CANCELLED
