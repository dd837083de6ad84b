"""The callback's rules: replay before all, then execution, order and step, and what each commits."""

from typing import Any

import pytest

from domain.callbacks import StatusCallback, apply_callback
from domain.change import Decision, Record
from domain.claim import Claim, Phase
from domain.errors import (
    CallbackOutOfOrder,
    EventIdPayloadMismatch,
    ExecutionSuperseded,
    FsmTerminalImmutable,
    FsmTransitionInvalid,
)
from domain.job_fsm import TERMINAL_STATUSES, TRANSITIONS, JobStatus
from domain.models import Failure
from domain.trail import EventType
from tests.unit.records import (
    JOB_ID,
    NOW,
    POLICY,
    TERMS,
    a_claim,
    a_record,
    a_retry_claim,
    seconds,
    statuses_but,
)

S = JobStatus
SENT = a_claim(Phase.SENT, execution_id="one")


def a_callback(status: JobStatus, **fields: Any) -> StatusCallback:
    values = {"event_id": "e", "digest": "d", "occurred_at": NOW, "correlation_id": "c"}
    return StatusCallback(status=status, **(values | fields))


def applied(record: Record, status: JobStatus, **fields: Any) -> Record:
    """The record after a callback that must be applied."""
    decision = decide(record, status, **fields)
    assert decision.error is None
    assert decision.change is not None
    assert decision.change.callback == ("e", "d")
    assert decision.answer.record is decision.change.record
    return decision.change.record


def decide(
    record: Record, status: JobStatus, seen: str | None = None, **fields: Any
) -> Decision[Any]:
    return apply_callback(record, seen, a_callback(status, **fields), NOW + seconds(9), POLICY)


def test_the_same_payload_again_changes_nothing_whatever_the_job_has_become() -> None:
    late = a_record(S.CANCELLED, SENT, latest_occurred_at=NOW + seconds(99))
    decision = decide(late, S.AUDIO_READY, seen="d", execution_id="another")
    assert (decision.answer.replayed, decision.change, decision.error) == (True, None, None)


def test_another_payload_under_the_same_event_id_is_refused() -> None:
    with pytest.raises(EventIdPayloadMismatch) as refused:
        decide(a_record(S.CANCELLED), S.AUDIO_READY, seen="other")
    assert refused.value.details == {"event_id": "e"}


def test_what_occurred_before_the_latest_is_out_of_order_and_the_same_moment_is_not() -> None:
    record = a_record(S.AUDIO_EXTRACTING, SENT, latest_occurred_at=NOW)
    with pytest.raises(CallbackOutOfOrder):
        decide(record, S.AUDIO_READY, occurred_at=NOW - seconds(0.000001))
    after = applied(record, S.AUDIO_READY, occurred_at=NOW)
    assert after.job.latest_occurred_at == NOW


@pytest.mark.parametrize("current", statuses_but(S.UPLOADED, S.FAILED))
@pytest.mark.parametrize("attempted", S)
def test_a_step_is_judged_by_the_states(current: JobStatus, attempted: JobStatus) -> None:
    record = a_record(current, SENT)
    if attempted in TRANSITIONS[current]:
        assert applied(record, attempted).job.status is attempted
        return
    kind = FsmTerminalImmutable if current in TERMINAL_STATUSES else FsmTransitionInvalid
    with pytest.raises(kind):
        decide(record, attempted)


@pytest.mark.parametrize("phase", [each for each in Phase if each is not Phase.SENT])
@pytest.mark.parametrize("attempted", S)
def test_a_callback_proves_the_dispatch_of_an_uploaded_job(
    phase: Phase, attempted: JobStatus
) -> None:
    record = a_record(S.UPLOADED, a_claim(phase, reason="refused"))
    if attempted not in TRANSITIONS[S.AUDIO_EXTRACTING]:
        with pytest.raises(FsmTransitionInvalid):
            decide(record, attempted)
        return
    after = applied(record, attempted, execution_id="one")
    assert after.claim is not None
    assert (after.claim.phase, after.claim.dispatch_id) == (Phase.SENT, f"run-{JOB_ID}")
    assert (after.claim.reason, after.claim.execution_id) == (None, "one")
    assert after.job.status is attempted


def test_a_callback_that_is_further_leaves_both_steps_on_the_trail() -> None:
    change = decide(a_record(S.UPLOADED, a_claim(Phase.SENDING)), S.AUDIO_READY).change
    assert change is not None
    steps = [(line.event_type, line.from_status, line.to_status) for line in change.trail]
    assert steps == [
        (EventType.PROVED, S.UPLOADED, S.UPLOADED),
        (EventType.STATUS_CHANGED, S.UPLOADED, S.AUDIO_EXTRACTING),
        (EventType.STATUS_CHANGED, S.AUDIO_EXTRACTING, S.AUDIO_READY),
    ]


def test_a_workflow_that_nobody_dispatched_gets_the_claim_of_the_run() -> None:
    after = applied(a_record(S.UPLOADED), S.AUDIO_EXTRACTING)
    assert after.claim is not None
    assert (after.claim.dispatch_id, after.claim.phase) == (f"run-{JOB_ID}", Phase.SENT)


@pytest.mark.parametrize(
    ("claim", "may_leave"),
    [
        (None, False),
        (SENT, False),
        (a_retry_claim(Phase.CLAIMED), False),
        (a_retry_claim(Phase.CLAIMED, sends=1), True),
        (a_retry_claim(Phase.SENDING, sends=1), True),
        (a_retry_claim(Phase.UNKNOWN, sends=1), True),
        (a_retry_claim(Phase.SENT, sends=1), True),
        (a_retry_claim(Phase.SENT, sends=1, resumed=True), False),
        (a_retry_claim(Phase.RELEASED, sends=1, reason="refused"), True),
        (a_retry_claim(Phase.RELEASED, sends=1, reason="settled_release"), True),
        (a_retry_claim(Phase.RELEASED, sends=2, reason="not_started"), True),
        (a_retry_claim(Phase.RELEASED, sends=1, reason="not_started"), False),
        (a_retry_claim(Phase.RELEASED, reason="unqueued"), False),
    ],
)
def test_failed_is_left_by_the_first_callback_of_a_retry_that_may_have_been_received(
    claim: Claim | None, may_leave: bool
) -> None:
    record = a_record(S.FAILED, claim, failure=Failure(code="x"))
    if not may_leave:
        with pytest.raises(FsmTerminalImmutable):
            decide(record, S.TRANSCRIBING)
        return
    after = applied(record, S.TRANSCRIBING)
    assert after.claim is not None
    assert (after.claim.phase, after.claim.resumed) == (Phase.SENT, True)
    assert (after.job.status, after.job.failure) == (S.TRANSCRIBING, None)


@pytest.mark.parametrize("attempted", S)
def test_the_first_callback_of_a_retry_is_a_step_from_its_checkpoint(attempted: JobStatus) -> None:
    record = a_record(S.FAILED, a_retry_claim())
    if attempted in TRANSITIONS[S.AUDIO_READY]:
        assert applied(record, attempted).job.status is attempted
    else:
        with pytest.raises(FsmTransitionInvalid):
            decide(record, attempted)


@pytest.mark.parametrize("attempted", [S.AUDIO_EXTRACTING, S.FAILED, S.AUDIO_READY])
def test_a_retry_from_the_start_may_fail_at_once(attempted: JobStatus) -> None:
    terms = TERMS.model_copy(update={"resume_from_status": S.UPLOADED})
    record = a_record(S.FAILED, a_retry_claim(retry=terms))
    if attempted is S.AUDIO_READY:
        with pytest.raises(FsmTransitionInvalid):
            decide(record, attempted)
    else:
        after = applied(record, attempted)
        assert after.job.status is attempted
        assert after.claim is not None
        assert after.claim.resumed


def test_a_superseded_execution_leaves_one_line_and_nothing_else() -> None:
    record = a_record(S.AUDIO_EXTRACTING, SENT)
    decision = decide(
        record, S.AUDIO_READY, execution_id="two", artifact_updates={"audio_uri": "a"}
    )
    assert isinstance(decision.error, ExecutionSuperseded)
    assert decision.error.details == {"execution_id": "one"}
    assert decision.change is not None
    assert decision.change.callback is None
    assert decision.change.record.job == record.job
    assert [line.event_type for line in decision.change.trail] == [EventType.SUPERSEDED]
    again = decide(decision.change.record, S.AUDIO_READY, execution_id="two")
    assert isinstance(again.error, ExecutionSuperseded)
    assert again.change is None


def test_the_execution_before_a_retry_is_superseded_also_before_the_retry_reports() -> None:
    record = a_record(S.FAILED, a_retry_claim(), earlier={SENT.dispatch_id: SENT})
    decision = decide(record, S.TRANSCRIBING, execution_id="one")
    assert isinstance(decision.error, ExecutionSuperseded)
    assert applied(record, S.TRANSCRIBING, execution_id="two").claim is not None


def test_everything_a_callback_brings_is_in_one_change() -> None:
    updates = {"audio_uri": "a", "video_uri": "w", "exports": ["x"], "own": "o"}
    failure = Failure(code="c", message="m", stage="s")
    record = a_record(S.AUDIO_EXTRACTING, SENT)
    after = applied(record, S.FAILED, artifact_updates=updates, failure=failure)
    manifest = after.job.manifest.model_dump()
    assert manifest == {
        "video_uri": "s3://v",
        "audio_uri": "a",
        "transcript_uri": None,
        "draft_uri": None,
        "exports": ["x"],
        "own": "o",
    }
    assert (after.job.failure, after.job.latest_occurred_at) == (failure, NOW)
    assert after.job.version == record.job.version + 1
