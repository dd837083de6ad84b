"""Run and retry: which call claims, joins or replays, and what a waiting call returns."""

import re
from dataclasses import replace
from datetime import timedelta

import pytest

from domain.audit import EventType
from domain.claim import Claim, ClaimEvent, FencingToken, Phase
from domain.claim_rules import begin, settle, still_wanted
from domain.errors import (
    ClientRequestMismatch,
    FsmTerminalImmutable,
    FsmTransitionInvalid,
    JobAlreadyRunning,
    OrchestratorDispatchFailed,
    RetriedTooOften,
    RetryNotAllowedState,
)
from domain.job import Manifest
from domain.job_fsm import RUNNING_STATUSES, TERMINAL_STATUSES, JobStatus
from domain.reconcile import look
from domain.record import Change, Decision, Record, TaskKind
from domain.retry import decide_retry, retry_dispatch_id
from domain.run import CallOutcome, DispatchResult, decide_run, outcome_of, run_dispatch_id
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

UPLOADED, FAILED = JobStatus.UPLOADED, JobStatus.FAILED
RUN = FencingToken(JOB_ID, f"run-{JOB_ID}", 1)


def retry(
    record: Record, request_id: str = "r1", profile: str = "standard"
) -> Decision[DispatchResult]:
    return decide_retry(Change(record, NOW, POLICY, "c"), request_id, profile)


def test_a_dispatch_id_is_derived_and_valid_for_every_engine() -> None:
    ids = [run_dispatch_id(JOB_ID), *(retry_dispatch_id(JOB_ID, text) for text in ("r1", "ü/\n"))]
    assert len(set(ids)) == 3
    assert all(re.fullmatch("[a-z][a-z0-9-]{0,62}", dispatch_id) for dispatch_id in ids)
    assert retry_dispatch_id(JOB_ID, "r1") == ids[1]


def test_the_first_run_claims_the_dispatch_and_enqueues_it() -> None:
    decision = decide_run(Change(a_record(UPLOADED), NOW, POLICY, "c"))
    assert decision.result.outcome is CallOutcome.STARTED
    assert decision.changed
    claim = decision.record.claim
    assert (claim.phase, claim.epoch, claim.dispatch_id) == (Phase.CLAIMED, 1, RUN.dispatch_id)
    assert (claim.lease_until, claim.correlation_id) == (NOW + POLICY.claim_lease, "c")
    assert decision.task is TaskKind.DISPATCH
    assert [event.event_type for event in decision.events] == [EventType.CLAIMED]


def test_a_new_claim_has_a_new_epoch() -> None:
    decision = decide_run(Change(a_record(UPLOADED, a_claim(Phase.RELEASED, epoch=4)), NOW, POLICY))
    assert decision.result.claim.epoch == 5


@pytest.mark.parametrize("status", statuses_but(UPLOADED))
def test_a_run_starts_from_uploaded_only(status: JobStatus) -> None:
    kind = FsmTerminalImmutable if status in TERMINAL_STATUSES else FsmTransitionInvalid
    with pytest.raises(kind) as refused:
        decide_run(Change(a_record(status), NOW, POLICY))
    assert refused.value.details["attempted_status"] == JobStatus.AUDIO_EXTRACTING


@pytest.mark.parametrize("uri", [None, ""])
def test_a_run_needs_a_video(uri: str | None) -> None:
    with pytest.raises(FsmTransitionInvalid):
        decide_run(Change(a_record(UPLOADED, manifest=Manifest(video_uri=uri)), NOW, POLICY))


@pytest.mark.parametrize("status", statuses_but(*TERMINAL_STATUSES))
def test_an_accepted_run_is_replayed_until_the_job_has_ended(status: JobStatus) -> None:
    decision = decide_run(Change(a_record(status, a_claim(Phase.SENT)), NOW, POLICY))
    assert (decision.result.outcome, decision.changed) == (CallOutcome.REPLAYED, False)


@pytest.mark.parametrize("phase", [Phase.CLAIMED, Phase.SENDING])
def test_a_run_under_way_is_joined(phase: Phase) -> None:
    decision = decide_run(Change(a_record(UPLOADED, a_claim(phase)), NOW, POLICY))
    assert (decision.result.outcome, decision.changed) == (CallOutcome.JOINED, False)


def test_after_the_hold_the_next_run_sends_an_unknown_dispatch_again() -> None:
    record = a_record(UPLOADED, a_claim(Phase.UNKNOWN, lease_until=NOW + seconds(60)))
    with pytest.raises(OrchestratorDispatchFailed) as refused:
        decide_run(Change(record, NOW, POLICY))
    assert refused.value.details == {"reason": "outcome_unknown"}
    assert refused.value.retry_after == 61
    decision = decide_run(Change(record, NOW + seconds(60), POLICY))
    assert decision.changed
    assert (decision.result.outcome, decision.result.claim.epoch) == (CallOutcome.STARTED, 2)
    assert decision.task is TaskKind.DISPATCH
    assert not look(Change(record, NOW + seconds(61), POLICY)).changed, "the sweep does not send it"


def test_a_run_is_sent_again_at_once_to_an_engine_that_recognises_it() -> None:
    policy = replace(POLICY, window=timedelta.max)
    record = a_record(UPLOADED, a_claim(Phase.UNKNOWN, sends=1, first_sent_at=NOW))
    assert decide_run(Change(record, NOW, policy)).result.claim.dispatch_id == RUN.dispatch_id


@pytest.mark.parametrize("status", statuses_but(FAILED))
def test_only_a_failed_job_is_retried(status: JobStatus) -> None:
    kind, details = RetryNotAllowedState, {"attempted_status": JobStatus.REGENERATING}
    if status in RUNNING_STATUSES:
        kind, details = JobAlreadyRunning, {}
    with pytest.raises(kind) as refused:
        retry(a_record(status))
    assert refused.value.details == {"current_status": status, **details}


@pytest.mark.parametrize(
    ("artifacts", "resume"),
    [
        ("video audio transcript draft", "DRAFT_READY"),
        ("video audio transcript", "TRANSCRIPT_READY"),
        ("video audio", "AUDIO_READY"),
        ("video", "UPLOADED"),
    ],
)
def test_a_retry_resumes_from_the_furthest_artifact(artifacts: str, resume: str) -> None:
    uris = {f"{name}_uri": f"s3://{name}" for name in artifacts.split()}
    terms = retry(a_record(FAILED, manifest=Manifest(**uris))).result.claim.retry
    assert terms.resume_from_status == resume
    assert terms.checkpoint_ref == f"s3://{artifacts.rsplit(maxsplit=1)[-1]}"


def test_an_empty_uri_is_no_artifact_to_resume_from() -> None:
    record = a_record(FAILED, manifest=Manifest(audio_uri="", video_uri="s3://v"))
    assert retry(record).result.claim.retry.resume_from_status is UPLOADED


def test_a_job_without_artifacts_cannot_be_retried() -> None:
    with pytest.raises(RetryNotAllowedState):
        retry(a_record(FAILED, manifest=Manifest()))


def test_after_a_retry_the_run_before_it_is_still_replayed() -> None:
    run = a_claim(Phase.SENT)
    record = retry(a_record(FAILED, run)).record
    assert record.job.past_claims == (run,)
    assert record.claim.epoch == 2
    running = record.job.model_copy(update={"status": JobStatus.TRANSCRIBING})
    replay = decide_run(Change(Record(running, record.claim), NOW, POLICY)).result
    assert (replay.outcome, replay.claim) == (CallOutcome.REPLAYED, run)


@pytest.mark.parametrize(
    ("claim", "is_open"),
    [
        (a_claim(Phase.SENT), False),
        (a_claim(Phase.UNKNOWN), True),
        (a_retry_claim(Phase.CLAIMED), True),
        (a_retry_claim(Phase.SENDING), True),
        (a_retry_claim(Phase.UNKNOWN), True),
        (a_retry_claim(Phase.SENT), True),
        (a_retry_claim(Phase.SENT, resumed=True), False),
        (a_retry_claim(Phase.RELEASED), False),
    ],
)
def test_no_retry_starts_while_another_dispatch_is_open(claim: Claim, is_open: bool) -> None:
    if is_open:
        with pytest.raises(JobAlreadyRunning):
            retry(a_record(FAILED, claim), "another")
    else:
        assert retry(a_record(FAILED, claim), "another").result.outcome is CallOutcome.STARTED


@pytest.mark.parametrize(
    ("status", "refusal"),
    [(FAILED, JobAlreadyRunning), (JobStatus.CANCELLED, RetryNotAllowedState)],
)
def test_a_failed_job_is_not_retried_before_its_run_was_stopped(
    status: JobStatus, refusal: type[Exception]
) -> None:
    record = a_record(status, a_claim(Phase.SENT, cancel_due=True))
    with pytest.raises(refusal):
        decide_retry(Change(record, NOW, replace(POLICY, can_cancel=True)), "r1", "standard")


def test_a_job_is_retried_at_most_100_times_not_counting_released_retries() -> None:
    past = tuple(a_retry_claim(dispatch_id=f"retry-{number}", resumed=True) for number in range(99))
    released = a_retry_claim(Phase.RELEASED, dispatch_id="retry-released")
    last = retry(a_record(FAILED, past_claims=(*past, released)))
    assert last.result.outcome is CallOutcome.STARTED
    full = a_record(FAILED, past_claims=(*past, a_claim(Phase.SENT)))
    with pytest.raises(RetriedTooOften) as refused:
        retry(full)
    statuses = {"current_status": FAILED, "attempted_status": JobStatus.REGENERATING}
    assert refused.value.details == statuses


def test_accepted_claims_are_kept_for_good_and_of_the_released_only_the_latest() -> None:
    run, first = a_claim(Phase.SENT), a_retry_claim(Phase.RELEASED, dispatch_id="retry-1")
    record = a_record(FAILED, a_retry_claim(Phase.SENDING, epoch=3), past_claims=(run, first))
    refused = settle(
        Change(record, NOW, POLICY), record.token, ClaimEvent.REFUSED, "refused"
    ).record
    kept = [(claim.phase, claim.epoch) for claim in refused.job.past_claims]
    assert kept == [(Phase.SENT, 1), (Phase.RELEASED, 3)]


@pytest.mark.parametrize("status", JobStatus)
def test_an_accepted_retry_is_replayed_in_every_state_and_only_with_the_same_body(
    status: JobStatus,
) -> None:
    claim = a_retry_claim(dispatch_id=retry_dispatch_id(JOB_ID, "r1"), resumed=True)
    assert retry(a_record(status, claim)).result.outcome is CallOutcome.REPLAYED
    with pytest.raises(ClientRequestMismatch):
        retry(a_record(status, claim), profile="fast")


def test_a_released_retry_may_be_repeated_with_another_body() -> None:
    claim = a_retry_claim(Phase.RELEASED, dispatch_id=retry_dispatch_id(JOB_ID, "r1"))
    assert retry(a_record(FAILED, claim), profile="fast").result.outcome is CallOutcome.STARTED


def test_a_waiting_call_returns_the_accepted_claim() -> None:
    sent = a_claim(Phase.SENT)
    record = a_record(JobStatus.AUDIO_EXTRACTING, sent)
    assert outcome_of(record, a_claim(), NOW) is sent


@pytest.mark.parametrize("phase", [Phase.CLAIMED, Phase.SENDING])
def test_a_call_waits_while_the_dispatch_is_under_way(phase: Phase) -> None:
    assert outcome_of(a_record(UPLOADED, a_claim(phase)), a_claim(), NOW) is None


def test_a_call_waits_while_the_engine_is_asked_and_fails_when_its_wait_is_over() -> None:
    asked = a_record(UPLOADED, a_claim(Phase.UNKNOWN, asked_at=NOW))
    assert outcome_of(asked, a_claim(), NOW) is None
    with pytest.raises(OrchestratorDispatchFailed) as failed:
        outcome_of(asked, a_claim(), NOW, is_last=True)
    assert failed.value.details == {"reason": "outcome_unknown"}


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        (a_claim(Phase.RELEASED, reason="refused"), "refused"),
        (a_claim(Phase.RELEASED, reason="not_started", epoch=2), "not_started"),
        (a_claim(Phase.UNKNOWN, lease_until=None), "outcome_unknown"),
    ],
)
def test_a_waiting_call_fails_with_the_reason_of_its_dispatch(claim: Claim, reason: str) -> None:
    with pytest.raises(OrchestratorDispatchFailed) as failed:
        outcome_of(a_record(UPLOADED, claim), a_claim(), NOW)
    assert failed.value.details == {"reason": reason}


def test_an_earlier_failure_does_not_fail_a_later_call() -> None:
    released = a_claim(Phase.RELEASED, reason="refused")
    record = a_record(UPLOADED, a_claim(epoch=2), past_claims=(released,))
    assert outcome_of(record, a_claim(epoch=2), NOW) is None


@pytest.mark.parametrize("phase", Phase)
def test_a_waiting_call_fails_when_the_job_is_cancelled(phase: Phase) -> None:
    with pytest.raises(FsmTerminalImmutable):
        outcome_of(a_record(JobStatus.CANCELLED, a_claim(phase)), a_claim(), NOW)


def test_a_worker_begins_once_with_the_right_token_while_the_job_wants_it() -> None:
    record = a_record(UPLOADED, a_claim())
    change = begin(Change(record, NOW, POLICY), RUN)
    assert change.changed
    assert still_wanted(change.record, RUN, NOW, POLICY)
    assert not begin(Change(change.record, NOW, POLICY), RUN).changed
    for other in (replace(RUN, epoch=2), replace(RUN, dispatch_id="run-x")):
        assert not begin(Change(record, NOW, POLICY), other).changed
    assert not begin(Change(a_record(JobStatus.CANCELLED, a_claim()), NOW, POLICY), RUN).changed
    assert not begin(Change(a_record(UPLOADED), NOW, POLICY), RUN).changed


def test_an_acceptance_moves_the_job_of_a_run_but_not_of_a_retry() -> None:
    change = Change(a_record(UPLOADED, a_claim(Phase.SENDING)), NOW, POLICY)
    accepted = settle(change, RUN, ClaimEvent.ACCEPTED, None)
    assert accepted.record.job.status is JobStatus.AUDIO_EXTRACTING
    record = a_record(FAILED, a_retry_claim(Phase.SENDING))
    accepted = settle(Change(record, NOW, POLICY), record.token, ClaimEvent.ACCEPTED, None)
    assert accepted.changed
    assert accepted.record.job.status is FAILED


@pytest.mark.parametrize("event", [ClaimEvent.ACCEPTED, ClaimEvent.REFUSED, ClaimEvent.LOST])
def test_a_late_answer_does_not_move_a_cancelled_job_or_a_settled_claim(event: ClaimEvent) -> None:
    cancelled = a_record(JobStatus.CANCELLED, a_claim(Phase.SENDING))
    change = settle(Change(cancelled, NOW, POLICY), RUN, event, None)
    assert change.changed
    assert change.record.job.status is JobStatus.CANCELLED
    proved = a_record(JobStatus.AUDIO_READY, a_claim(Phase.SENT))
    assert not settle(Change(proved, NOW, POLICY), RUN, event, None).changed


def test_the_sweep_acts_on_a_due_claim_and_does_not_dispatch_a_cancelled_job() -> None:
    due = NOW + POLICY.claim_lease
    assert not look(Change(a_record(UPLOADED, a_claim()), due - seconds(0.001), POLICY)).changed
    again = look(Change(a_record(UPLOADED, a_claim()), due, POLICY))
    assert again.task is TaskKind.DISPATCH
    freed = look(Change(a_record(JobStatus.CANCELLED, a_claim()), due, POLICY))
    assert (freed.record.claim, freed.task) == (None, None)
    dead = look(Change(a_record(UPLOADED, a_claim(Phase.SENDING)), due, POLICY))
    assert (dead.record.claim.phase, dead.task) == (Phase.UNKNOWN, None)


@pytest.mark.parametrize("phase", [Phase.CLAIMED, Phase.SENDING, Phase.UNKNOWN])
def test_an_acceptance_of_an_older_epoch_counts_and_a_refusal_does_not(phase: Phase) -> None:
    record = a_record(UPLOADED, a_claim(phase, epoch=2, sends=1))
    accepted = settle(Change(record, NOW, POLICY), RUN, ClaimEvent.ACCEPTED, None)
    assert accepted.record.claim.phase is Phase.SENT
    assert accepted.record.job.status is JobStatus.AUDIO_EXTRACTING
    assert not settle(Change(record, NOW, POLICY), RUN, ClaimEvent.REFUSED, None).changed
    other = replace(RUN, dispatch_id="run-x")
    assert not settle(Change(record, NOW, POLICY), other, ClaimEvent.ACCEPTED, None).changed
