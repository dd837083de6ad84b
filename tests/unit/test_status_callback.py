"""The rules of callbacks: replay, dispatch, execution, order and step, and what is committed."""

from dataclasses import replace
from typing import Any

import pytest

from domain.audit import EventType
from domain.claim import Claim, Phase
from domain.errors import (
    CallbackOutOfOrder,
    EventIdPayloadMismatch,
    ExecutionSuperseded,
    FsmTerminalImmutable,
    FsmTransitionInvalid,
    ManifestFull,
)
from domain.job import Failure, Manifest
from domain.job_fsm import TERMINAL_STATUSES, TRANSITIONS, JobStatus
from domain.record import AppliedEvent, Change, Decision, Record
from domain.run import run_dispatch_id
from domain.status_callback import StatusCallback, apply_callback
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
    assert (decision.error, decision.changed, decision.result) == (None, True, False)
    event_id, event = decision.callback
    assert (event_id, event.digest) == ("e", "d")
    return decision.record


RUN = run_dispatch_id(JOB_ID)


def decide(
    record: Record, status: JobStatus, seen: AppliedEvent | None = None, **fields: Any
) -> Decision[Any]:
    read = replace(record, seen=seen)
    return apply_callback(Change(read, NOW + seconds(9), POLICY), a_callback(status, **fields))


def test_a_step_is_logged_at_its_own_time_and_a_repeat_does_not_renew_the_state() -> None:
    entered, now = NOW - seconds(60), NOW + seconds(9)
    record = a_record(S.TRANSCRIBING, SENT, status_since=entered)
    repeated = decide(record, S.TRANSCRIBING)
    assert repeated.record.job.status_since == entered
    (event,) = repeated.events
    assert (event.occurred_at, event.recorded_at) == (NOW, now)
    assert applied(record, S.TRANSCRIPT_READY).job.status_since == now


def test_the_same_payload_again_is_a_replay_in_any_state() -> None:
    late = a_record(S.CANCELLED, SENT, latest_occurred_at=NOW + seconds(99))
    decision = decide(late, S.AUDIO_READY, seen=AppliedEvent("d", RUN), execution_id="another")
    assert (decision.result, decision.changed, decision.error) == (True, False, None)


def test_another_payload_under_the_same_event_id_is_refused() -> None:
    with pytest.raises(EventIdPayloadMismatch) as refused:
        decide(a_record(S.CANCELLED), S.AUDIO_READY, seen=AppliedEvent("other", RUN))
    assert refused.value.details == {"event_id": "e"}


def test_an_event_that_an_earlier_release_applied_is_a_replay() -> None:
    decision = decide(a_record(S.AUDIO_EXTRACTING, SENT), S.AUDIO_READY, seen=AppliedEvent("x", ""))
    assert (decision.result, decision.changed) == (True, False)


def test_a_callback_that_names_another_dispatch_is_refused() -> None:
    retry = a_retry_claim(Phase.UNKNOWN)
    record = a_record(S.FAILED, retry, past_claims=(SENT,))
    with pytest.raises(ExecutionSuperseded):
        decide(record, S.AUDIO_READY, dispatch_id=RUN)
    assert applied(record, S.TRANSCRIBING, dispatch_id=retry.dispatch_id).claim is not None


def test_a_callback_may_name_the_run_of_a_job_that_has_no_claim() -> None:
    assert applied(a_record(S.UPLOADED), S.AUDIO_EXTRACTING, dispatch_id=RUN).claim is not None
    with pytest.raises(ExecutionSuperseded):
        decide(a_record(S.UPLOADED), S.AUDIO_EXTRACTING, dispatch_id="run-another")


def test_an_event_id_is_unique_within_its_dispatch() -> None:
    retry = a_retry_claim(Phase.SENT)
    record = a_record(S.FAILED, retry, past_claims=(SENT,))
    under_the_run = AppliedEvent("d", RUN)
    assert applied(record, S.TRANSCRIBING, seen=under_the_run, dispatch_id=retry.dispatch_id)
    with pytest.raises(EventIdPayloadMismatch):
        decide(record, S.TRANSCRIBING, seen=under_the_run)
    again = decide(record, S.TRANSCRIBING, seen=under_the_run, dispatch_id=RUN)
    assert (again.result, again.changed) == (True, False)


def test_a_retry_begins_a_new_order() -> None:
    ahead = {"latest_occurred_at": NOW + seconds(99)}
    record = a_record(S.FAILED, a_retry_claim(Phase.SENT), **ahead)
    after = applied(record, S.TRANSCRIBING)
    assert after.job.latest_occurred_at == NOW
    with pytest.raises(CallbackOutOfOrder):
        decide(
            a_record(S.TRANSCRIBING, a_retry_claim(Phase.SENT, resumed=True), **ahead),
            S.TRANSCRIPT_READY,
        )


def test_an_earlier_callback_is_out_of_order_and_one_of_the_same_moment_is_not() -> None:
    record = a_record(S.AUDIO_EXTRACTING, SENT, latest_occurred_at=NOW)
    with pytest.raises(CallbackOutOfOrder):
        decide(record, S.AUDIO_READY, occurred_at=NOW - seconds(0.000001))
    after = applied(record, S.AUDIO_READY, occurred_at=NOW)
    assert after.job.latest_occurred_at == NOW


@pytest.mark.parametrize("current", statuses_but(S.UPLOADED, S.FAILED))
@pytest.mark.parametrize("attempted", S)
def test_a_callback_takes_a_step_of_the_table(current: JobStatus, attempted: JobStatus) -> None:
    record = a_record(current, SENT)
    if attempted in TRANSITIONS[current]:
        assert applied(record, attempted).job.status is attempted
        return
    kind = FsmTerminalImmutable if current in TERMINAL_STATUSES else FsmTransitionInvalid
    with pytest.raises(kind):
        decide(record, attempted)


@pytest.mark.parametrize("phase", sorted(set(Phase) - {Phase.SENT}))
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
    assert (after.claim.phase, after.claim.dispatch_id) == (Phase.SENT, f"run-{JOB_ID}")
    assert (after.claim.reason, after.claim.execution_id) == (None, "one")
    assert after.job.status is attempted


def test_a_callback_that_overtakes_the_dispatchs_answer_takes_both_steps() -> None:
    change = decide(a_record(S.UPLOADED, a_claim(Phase.SENDING)), S.AUDIO_READY)
    steps = [(event.event_type, event.from_status, event.to_status) for event in change.events]
    assert steps == [
        (EventType.PROVED, S.UPLOADED, S.UPLOADED),
        (EventType.STATUS_CHANGED, S.UPLOADED, S.AUDIO_EXTRACTING),
        (EventType.STATUS_CHANGED, S.AUDIO_EXTRACTING, S.AUDIO_READY),
    ]


def test_a_workflow_that_was_started_by_other_means_gets_the_claim_of_the_run() -> None:
    after = applied(a_record(S.UPLOADED), S.AUDIO_EXTRACTING)
    assert (after.claim.dispatch_id, after.claim.phase) == (f"run-{JOB_ID}", Phase.SENT)


@pytest.mark.parametrize(
    ("claim", "resumes"),
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
def test_the_first_callback_of_a_retry_that_may_have_been_received_resumes_the_job(
    claim: Claim | None, resumes: bool
) -> None:
    record = a_record(S.FAILED, claim, failure=Failure(code="x"))
    if not resumes:
        with pytest.raises(FsmTerminalImmutable):
            decide(record, S.TRANSCRIBING)
        return
    after = applied(record, S.TRANSCRIBING)
    assert (after.claim.phase, after.claim.resumed) == (Phase.SENT, True)
    assert (after.job.status, after.job.failure) == (S.TRANSCRIBING, None)


@pytest.mark.parametrize(
    ("released", "resumes"),
    [
        ({"reason": "refused"}, True),
        ({"reason": "not_started"}, False),
        ({"reason": "refused", "dispatch_id": "retry-another"}, False),
    ],
)
def test_a_retry_that_was_claimed_again_resumes_if_its_released_claim_may_have_been_received(
    released: dict[str, Any], resumes: bool
) -> None:
    before = a_retry_claim(Phase.RELEASED, sends=1, **released)
    again = a_retry_claim(Phase.CLAIMED, epoch=3)
    record = a_record(S.FAILED, again, past_claims=(before,))
    if resumes:
        assert applied(record, S.TRANSCRIBING).claim.phase is Phase.SENT
    else:
        with pytest.raises(FsmTerminalImmutable):
            decide(record, S.TRANSCRIBING)


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
        assert after.claim.resumed


def test_a_superseded_execution_leaves_one_event_and_nothing_else() -> None:
    record = a_record(S.AUDIO_EXTRACTING, SENT)
    decision = decide(
        record, S.AUDIO_READY, execution_id="two", artifact_updates={"audio_uri": "a"}
    )
    assert isinstance(decision.error, ExecutionSuperseded)
    assert decision.error.details == {"execution_id": "one"}
    assert decision.changed
    assert decision.callback is None
    assert decision.record.job == record.job
    assert [event.event_type for event in decision.events] == [EventType.SUPERSEDED]
    again = decide(decision.record, S.AUDIO_READY, execution_id="two")
    assert isinstance(again.error, ExecutionSuperseded)
    assert not again.changed


def test_only_eight_superseded_executions_are_noted_but_all_are_refused() -> None:
    record = a_record(S.AUDIO_EXTRACTING, SENT)
    for number in range(20):
        decision = decide(record, S.AUDIO_READY, execution_id=f"other-{number}")
        assert isinstance(decision.error, ExecutionSuperseded)
        assert (decision.changed, len(decision.events)) == ((True, 1) if number < 8 else (False, 0))
        record = decision.record


def test_a_retry_supersedes_the_execution_before_it_before_its_own_first_callback() -> None:
    record = a_record(S.FAILED, a_retry_claim(), past_claims=(SENT,))
    decision = decide(record, S.TRANSCRIBING, execution_id="one")
    assert isinstance(decision.error, ExecutionSuperseded)
    assert applied(record, S.TRANSCRIBING, execution_id="two").claim is not None


def test_everything_in_a_callback_is_applied_in_one_change() -> None:
    updates = {"audio_uri": "a", "video_uri": "w", "exports": ["x"], "own": "o"}
    failure = Failure(code="c", message="m", stage="s")
    record = a_record(S.AUDIO_EXTRACTING, SENT)
    after = applied(record, S.FAILED, artifact_updates=updates, failure=failure)
    manifest = after.job.manifest.model_dump(exclude_none=True)
    assert manifest == {**updates, "video_uri": "s3://v"}
    assert (after.job.failure, after.job.latest_occurred_at) == (failure, NOW)
    assert after.job.version == record.job.version + 1


def test_a_manifest_beyond_the_limits_may_change_and_shrink_but_not_grow() -> None:
    exports = [f"s3://{number}" for number in range(300)]
    record = a_record(
        S.AUDIO_EXTRACTING, SENT, manifest=Manifest(exports=exports, own="o" * 70_000)
    )
    assert applied(record, S.AUDIO_READY, artifact_updates={"own": "p" * 70_000})
    assert applied(record, S.AUDIO_READY, artifact_updates={"own": "short", "audio_uri": "a"})
    with pytest.raises(ManifestFull) as refused:
        decide(record, S.AUDIO_READY, artifact_updates={"own": "short", "exports": ["s3://new"]})
    assert refused.value.details == {"bound": "exports", "most": 256}


def test_repeats_are_counted_in_a_row_and_reports_for_each_dispatch() -> None:
    record = a_record(S.AUDIO_EXTRACTING, SENT, reports=7, repeats=3)
    assert counts(applied(record, S.AUDIO_EXTRACTING)) == (8, 4)
    assert counts(applied(record, S.AUDIO_READY)) == (8, 0)
    retried = a_record(S.FAILED, a_retry_claim(), reports=1_000, repeats=200)
    assert counts(applied(retried, S.TRANSCRIBING)) == (1, 0)


def counts(record: Record) -> tuple[int, int]:
    return record.job.reports, record.job.repeats


def test_after_1000_reports_a_job_can_only_end() -> None:
    record = a_record(S.EXPORTING, SENT, reports=1_000)
    for attempted in TERMINAL_STATUSES:
        assert applied(record, attempted).job.status is attempted
    with pytest.raises(FsmTransitionInvalid) as refused:
        decide(record, S.EDITING)
    assert refused.value.details["allowed_next_statuses"] == [S.DONE, S.FAILED, S.CANCELLED]
