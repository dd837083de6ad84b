"""Reconciliation: the effects of an engine's answer, changed settings, a cancel, silence and a pause."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from domain.audit import EventType, OperatorAct
from domain.claim import (
    ABANDONED_AFTER,
    CANCEL_AGAIN_AFTER,
    RECHECK_AFTER,
    Claim,
    ClaimEvent,
    DispatchPolicy,
    Phase,
    RunState,
)
from domain.claim_rules import begin, settle, settle_by_operator, still_wanted
from domain.errors import ExecutionSuperseded, FsmTerminalImmutable, OrchestratorDispatchFailed
from domain.job import RUN_FAILED, Failure
from domain.job_fsm import JobStatus
from domain.lifecycle import cancel, cancel_notified, fail, is_at_rest
from domain.pause import Pause
from domain.reconcile import ASK_LEASE, LAST_REPORT, answered, look
from domain.record import Change, Record, TaskKind
from domain.retry import decide_retry
from domain.run import CallOutcome, decide_run, hold_is_over
from domain.status_callback import StatusCallback, apply_callback
from orchestrators.registry import dispatch_policy
from settings import Settings
from store import keys
from store.indexes import times_in_indexes
from tests.unit.records import NOW, POLICY, a_claim, a_record, a_retry_claim, seconds

WINDOW = timedelta(hours=1)
ASKED = replace(POLICY, window=WINDOW, can_be_asked=True, engine="here", first_report=seconds(600))
TELLING = replace(ASKED, can_cancel=True)
S = RunState
UPLOADED, EXTRACTING = JobStatus.UPLOADED, JobStatus.AUDIO_EXTRACTING
FAILED, CANCELLED = JobStatus.FAILED, JobStatus.CANCELLED
ACCEPTED_RETRY = a_retry_claim(Phase.SENT, sends=1, settled_at=NOW, engine="here", lease_until=NOW)


def unknown(phase: Phase = Phase.UNKNOWN, **fields: Any) -> Claim:
    """A run that was sent once, to the engine `here`, and whose answer was lost."""
    values = {"sends": 1, "sent_at": NOW, "first_sent_at": NOW, "engine": "here"}
    return a_claim(phase, **(values | {"lease_until": NOW} | fields))


def versioned(record: Record, revision: bytes) -> Record:
    return replace(record, revision=(revision, b""))


def a_report(status: JobStatus, dispatch_id: str | None, number: int = 1) -> StatusCallback:
    return StatusCallback(
        event_id=f"event-{number}", digest=f"{number}", status=status, occurred_at=NOW,
        correlation_id="c", dispatch_id=dispatch_id, failure=Failure(code="own"),
    )  # fmt: skip


# Asks


@pytest.mark.parametrize("ahead", [0, 0.4, 40])
def test_an_ask_without_an_answer_is_repeated_when_it_is_due(ahead: float) -> None:
    """Even if the clock of the answer before it was ahead."""
    asked = look(Change(a_record(UPLOADED, unknown(run_state_at=NOW + seconds(ahead))), NOW, ASKED))
    assert asked.task is TaskKind.ASK
    due = asked.record.claim.lease_until
    assert look(Change(asked.record, due, ASKED)).task is TaskKind.ASK


def test_the_pauses_between_asks_grow_and_an_answer_ends_its_ask() -> None:
    record, now, pauses = a_record(UPLOADED, unknown()), NOW, []
    for _ in range(7):
        asked = look(Change(record, now, ASKED))
        assert asked.task is TaskKind.ASK
        record = answered(Change(asked.record, now, ASKED), asked.record, S.NO_ANSWER).record
        assert record.claim.asked_at is None
        pauses.append((record.claim.lease_until - now).total_seconds())
        now = record.claim.lease_until
    for pause, mean in zip(pauses, (2, 4, 8, 16, 32, 60, 60), strict=True):
        assert 0.75 * mean <= pause <= 1.25 * mean


def test_a_callback_ends_the_ask_under_way_and_sets_the_next_look() -> None:
    policy = replace(ASKED, silent_after=seconds(3600))
    sent = unknown(phase=Phase.SENT, settled_at=NOW, asked_at=NOW, lease_until=NOW + ASK_LEASE)
    report = a_report(JobStatus.AUDIO_READY, sent.dispatch_id)
    later = NOW + seconds(5)
    claim = apply_callback(Change(a_record(EXTRACTING, sent), later, policy), report).record.claim
    assert (claim.asked_at, claim.lease_until) == (None, later + seconds(3600))


def test_an_engine_that_can_be_asked_but_recognises_nothing_is_not_sent_to_again() -> None:
    record, policy = a_record(UPLOADED, unknown()), replace(ASKED, window=None)
    absent = answered(Change(record, NOW, policy), record, S.NOT_FOUND)
    assert (absent.task, absent.record.claim.phase) == (None, Phase.UNKNOWN)
    assert absent.record.claim.lease_until > NOW


# The window


@pytest.mark.parametrize(
    ("age", "is_allowed"),
    [
        (WINDOW - seconds(1), True), (WINDOW, False), (2 * WINDOW, False),
        # One of the clocks was wrong: how long ago the first send was is not known.
        (-seconds(60), True), (-seconds(61), False),
    ],
)  # fmt: skip
def test_the_window_limits_the_decision_to_resend_its_begin_and_its_first_byte(
    age: timedelta, is_allowed: bool
) -> None:
    now = NOW + age
    record = a_record(UPLOADED, unknown())
    decided = answered(Change(record, now, ASKED), record, S.NOT_FOUND)
    assert (decided.task is TaskKind.DISPATCH) is is_allowed
    waited = a_record(UPLOADED, unknown(phase=Phase.CLAIMED, epoch=2))
    begun = begin(Change(waited, now, ASKED), waited.token)
    assert begun.result is is_allowed
    if not is_allowed:
        assert (begun.record.claim.phase, begun.record.claim.reason) == (
            Phase.UNKNOWN,
            "window_over",
        )
    sending = a_record(UPLOADED, unknown(phase=Phase.SENDING, epoch=2, sends=2))
    assert still_wanted(sending, sending.token, now, ASKED) is is_allowed


def test_a_first_send_needs_no_window_and_without_its_time_there_is_no_resend() -> None:
    first = a_record(UPLOADED, unknown(phase=Phase.SENDING))
    assert still_wanted(first, first.token, NOW + 2 * WINDOW, ASKED)
    old = unknown(phase=Phase.CLAIMED, first_sent_at=None, sent_at=None)
    assert not begin(
        Change(a_record(UPLOADED, old), NOW, ASKED), a_record(UPLOADED, old).token
    ).result


def test_a_resend_keeps_the_time_of_the_first_send() -> None:
    record = a_record(UPLOADED, unknown(phase=Phase.CLAIMED, epoch=2))
    begun = begin(Change(record, NOW + seconds(99), ASKED), record.token).record.claim
    assert (begun.first_sent_at, begun.sent_at, begun.sends) == (NOW, NOW + seconds(99), 2)


def test_an_endless_window_does_not_overflow_nor_depend_on_clocks() -> None:
    policy = replace(ASKED, window=timedelta.max)
    record = a_record(UPLOADED, unknown())
    for now in (NOW - timedelta(days=1), NOW + timedelta(days=300_000)):
        decided = answered(Change(record, now, policy), record, S.NOT_FOUND)
        assert decided.task is TaskKind.DISPATCH
    for state in RunState:
        answered(Change(record, NOW, policy), record, state)


@pytest.mark.parametrize("due", [NOW + seconds(2), None])
def test_the_hold_is_that_of_the_settings_whenever_the_claim_was_due(due: datetime | None) -> None:
    claim = unknown(lease_until=due)
    assert not hold_is_over(claim, NOW + seconds(59), POLICY)
    assert hold_is_over(claim, NOW + seconds(60), POLICY)
    assert not hold_is_over(claim, NOW + timedelta(days=9_999), replace(POLICY, unknown_hold=None))


# Another engine


def test_a_dispatch_of_another_engine_is_not_asked_about_cancelled_or_sent() -> None:
    other = replace(TELLING, engine="there")
    record = a_record(UPLOADED, unknown())
    assert look(Change(record, NOW, other)).task is None
    for state in RunState:
        assert not answered(Change(record, NOW, other), record, state).changed
    waited = a_record(UPLOADED, unknown(phase=Phase.CLAIMED, epoch=2))
    assert not begin(Change(waited, NOW, other), waited.token).result
    gone = a_record(CANCELLED, unknown(cancel_due=True))
    assert look(Change(gone, NOW, other)).task is None
    sent = a_record(CANCELLED, unknown(phase=Phase.SENT, cancel_due=True))
    assert look(Change(sent, NOW, other)).task is None
    for policy in (other, replace(POLICY, engine="there")):
        due = look(Change(record, NOW, policy)).record.claim.lease_until
        assert due == NOW + timedelta(hours=1)
    running = a_record(EXTRACTING, unknown(phase=Phase.SENT, settled_at=NOW))
    silent = look(Change(running, NOW + seconds(600), other))
    assert silent.record.job.silent_since is not None
    assert silent.task is None


def test_a_cancel_that_another_engine_has_not_received_is_given_up_after_a_day() -> None:
    other = replace(TELLING, engine="there")
    for status in (CANCELLED, FAILED):
        claim = unknown(phase=Phase.SENT, cancel_due=True)
        record = a_record(status, claim, status_since=NOW)
        day = NOW + timedelta(hours=24)
        waits = look(Change(record, day - seconds(1), other)).record
        assert waits.claim.cancel_due
        assert not is_at_rest(waits)
        given_up = look(Change(record, day, other))
        assert [(event.event_type, event.reason) for event in given_up.events] == [
            (EventType.CANCEL_NOTIFIED, "abandoned")
        ]
        assert is_at_rest(given_up.record)
        assert not look(Change(given_up.record, day, other)).changed
        assert look(Change(record, day, TELLING)).task is TaskKind.TELL_CANCELLED


def test_after_the_hold_nothing_is_sent_to_another_engine() -> None:
    record, later = a_record(UPLOADED, unknown()), NOW + seconds(60)
    result = decide_run(Change(record, later, replace(POLICY, engine="here"))).result
    assert result.outcome is CallOutcome.STARTED
    with pytest.raises(OrchestratorDispatchFailed):
        decide_run(Change(record, later, replace(POLICY, engine="there")))


def test_a_process_without_the_engines_url_takes_every_dispatch_for_its_own() -> None:
    named = {"orchestrator_kind": "restate", "orchestrator_workflow": "Take/run"}
    worker = dispatch_policy(Settings(env="development", orchestrator_url="http://engine", **named))
    web = dispatch_policy(Settings(env="development", orchestrator_url="", **named))
    assert not unknown(engine=worker.engine).is_elsewhere(web)


@pytest.mark.parametrize(
    ("url", "is_another"),
    [
        ("https://engine/take", False),
        ("https://user:new@engine/take", False),
        ("https://engine/take?at=a@b", True),
        ("https://engine/other", True),
        ("https://user:old@engine:8443/take", True),
    ],
)
def test_an_engine_is_the_same_under_another_password(url: str, is_another: bool) -> None:
    before, after = (
        dispatch_policy(Settings(env="development", orchestrator_url=one))
        for one in ("https://user:old@engine/take", url)
    )
    assert unknown(engine=before.engine).is_elsewhere(after) is is_another


@pytest.mark.parametrize(
    ("named", "window"),
    [
        ({"orchestrator_idempotency_seconds": 600}, seconds(600 - 2 * 71 - 5)),
        ({"orchestrator_idempotency_seconds": 0}, None),
        ({"orchestrator_kind": "airflow", "orchestrator_workflow": "take"}, timedelta.max),
    ],
)
def test_the_window_is_shorter_than_the_engines_memory_by_all_margins(
    named: dict[str, Any], window: timedelta | None
) -> None:
    settings = Settings(env="development", orchestrator_timeout_seconds=60, **named)
    assert dispatch_policy(settings).window == window


# An answer about an older record


@pytest.mark.parametrize("state", RunState)
def test_only_a_found_run_counts_for_a_record_that_has_changed_since(state: RunState) -> None:
    asked = versioned(a_record(UPLOADED, unknown()), b"1")
    newer = versioned(asked, b"2")
    is_found = state in (S.RUNNING, S.SUCCEEDED, S.FAILED, S.CANCELLED)
    decided = answered(Change(newer, NOW, ASKED), asked, state)
    assert decided.changed is is_found
    if is_found:
        assert decided.record.claim.phase is Phase.SENT
    sent = versioned(a_record(JobStatus.AUDIO_READY, unknown(phase=Phase.SENT)), b"3")
    assert not answered(Change(sent, NOW, ASKED), asked, state).changed


@pytest.mark.parametrize("phase", [Phase.CLAIMED, Phase.SENDING, Phase.UNKNOWN])
def test_a_found_run_counts_under_a_later_epoch(phase: Phase) -> None:
    asked = versioned(a_record(UPLOADED, unknown()), b"1")
    resent = versioned(a_record(UPLOADED, unknown(phase=phase, epoch=2, sends=2)), b"2")
    assert answered(Change(resent, NOW, ASKED), asked, S.RUNNING).record.claim.phase is Phase.SENT
    assert not answered(Change(resent, NOW, ASKED), asked, S.NOT_FOUND).changed


def test_an_answer_about_another_dispatch_is_ignored() -> None:
    asked = a_record(UPLOADED, unknown(dispatch_id="run-other"))
    for state in RunState:
        assert not answered(Change(a_record(UPLOADED, unknown()), NOW, ASKED), asked, state).changed


@pytest.mark.parametrize("state", [S.NOT_FOUND, S.NO_ANSWER])
def test_an_accepted_dispatch_that_is_not_found_stays_accepted(state: RunState) -> None:
    record = a_record(EXTRACTING, unknown(phase=Phase.SENT, settled_at=NOW))
    decided = answered(Change(record, NOW + seconds(999), ASKED), record, state)
    assert (decided.record.claim.phase, decided.task) == (Phase.SENT, None)
    assert decided.record.job.status is EXTRACTING


# The run ended badly


def ended(record: Record, at: float, state: RunState = S.FAILED) -> Record:
    return answered(Change(record, NOW + seconds(at), ASKED), record, state).record


def test_a_run_that_ended_badly_fails_its_job_at_a_second_answer_30_seconds_later() -> None:
    first = ended(a_record(UPLOADED, unknown()), 0)
    assert (first.job.status, first.claim.phase) == (EXTRACTING, Phase.SENT)
    assert first.claim.lease_until == NOW + LAST_REPORT
    asked = look(Change(first, NOW + LAST_REPORT, ASKED))
    assert (asked.task, asked.record.job.silent_since) == (TaskKind.ASK, None)
    early = ended(first, 29.9)
    assert early.job.status is EXTRACTING
    failed = ended(early, 30)
    assert (failed.job.status, failed.job.failure) == (FAILED, Failure(code=RUN_FAILED))
    assert failed.claim.lease_until is None


def test_a_callback_or_a_running_run_between_the_two_answers_restarts_the_wait() -> None:
    first = ended(a_record(UPLOADED, unknown()), 0)
    report = a_report(JobStatus.AUDIO_READY, first.claim.dispatch_id)
    reported = apply_callback(Change(first, NOW + seconds(10), ASKED), report).record
    assert ended(reported, 31).job.status is JobStatus.AUDIO_READY
    assert ended(ended(reported, 31), 61).job.status is FAILED
    assert ended(first, 31, S.RUNNING).job.status is EXTRACTING
    revived = ended(first, 10, S.RUNNING)
    assert revived.claim.lease_until == NOW + seconds(600)
    assert ended(revived, 31).job.status is EXTRACTING
    unanswered = ended(first, 10, S.NO_ANSWER)
    assert ended(unanswered, 31).job.status is FAILED


@pytest.mark.parametrize("ahead", [-50, 50])
def test_a_run_that_ended_badly_fails_its_job_although_its_last_report_has_another_clock(
    ahead: float,
) -> None:
    """The process that took the report is not the one that asks."""
    sent = a_record(EXTRACTING, unknown(phase=Phase.SENT, settled_at=NOW))
    report = a_report(JobStatus.AUDIO_READY, sent.claim.dispatch_id)
    reported = apply_callback(Change(sent, NOW + seconds(ahead), ASKED), report).record
    first = ended(reported, 1)
    assert ended(first, 30.9).job.status is JobStatus.AUDIO_READY
    assert ended(first, 31).job.status is FAILED


def test_a_second_answer_that_fails_to_come_is_asked_for_30_seconds_later() -> None:
    first = ended(a_record(UPLOADED, unknown()), 0)
    assert ended(first, 30, S.NO_ANSWER).claim.lease_until == NOW + seconds(30) + LAST_REPORT


@pytest.mark.parametrize(
    "status", [JobStatus.DRAFT_READY, JobStatus.EDITING, JobStatus.REGENERATING, CANCELLED]
)
def test_the_engines_answer_fails_a_job_only_up_to_generating(status: JobStatus) -> None:
    for ended_at in (None, NOW):
        record = a_record(status, unknown(phase=Phase.SENT, settled_at=NOW, ended_at=ended_at))
        assert ended(ended(record, 0), 31).job.status is status


def test_a_run_that_succeeded_without_a_callback_leaves_the_job_silent() -> None:
    claim = unknown(phase=Phase.SENT, settled_at=NOW, lease_until=NOW + seconds(600))
    silent = look(Change(a_record(EXTRACTING, claim), NOW + seconds(600), ASKED))
    assert silent.task is TaskKind.ASK
    assert silent.record.job.silent_since is not None
    known = ended(ended(silent.record, 600, S.SUCCEEDED), 700, S.SUCCEEDED)
    assert known.job.silent_since is not None
    assert (known.job.status, known.claim.run_state) == (EXTRACTING, S.SUCCEEDED)


def silent_record(status: JobStatus, claim: Claim, **fields: Any) -> Record:
    silent = look(Change(a_record(status, claim, **fields), NOW + seconds(600), ASKED))
    assert [event.event_type for event in silent.events] == [EventType.SILENT]
    assert silent.record.job.silent_since is not None
    return silent.record


def test_a_job_whose_report_is_due_later_than_its_look_is_looked_at_then() -> None:
    """As after a change of the settings."""
    claim = unknown(phase=Phase.SENT, settled_at=NOW, lease_until=NOW + seconds(10))
    early = look(Change(a_record(EXTRACTING, claim), NOW + seconds(10), ASKED))
    assert (early.task, early.record.job.silent_since) == (None, None)
    assert early.record.claim.lease_until == NOW + seconds(600)


def test_a_silent_job_is_asked_about_at_most_hourly_and_called_silent_once() -> None:
    run = unknown(phase=Phase.SENT, settled_at=NOW, lease_until=NOW)
    record, now = silent_record(EXTRACTING, run), NOW + seconds(600)
    running = answered(Change(record, now, ASKED), record, S.RUNNING).record
    assert running.claim.lease_until == now + timedelta(hours=1)
    again = look(Change(running, now + timedelta(hours=1), ASKED))
    assert (again.task, again.events) == (TaskKind.ASK, ())
    assert again.record.job.silent_since == running.job.silent_since


@pytest.mark.parametrize(("silent_after", "pause"), [(600, 600), (7_200, 3_600), (None, 3_600)])
def test_a_silent_job_that_cannot_be_asked_about_is_looked_at_at_most_hourly(
    silent_after: float | None, pause: float
) -> None:
    after = seconds(silent_after) if silent_after else None
    policy = replace(POLICY, first_report=seconds(600), silent_after=after)
    run, now = a_claim(Phase.SENT, settled_at=NOW, lease_until=NOW), NOW + seconds(600)
    silent = look(Change(a_record(EXTRACTING, run), now, policy)).record
    assert silent.job.silent_since is not None
    assert silent.claim.lease_until == now + seconds(pause)


def test_a_job_is_no_longer_silent_once_no_report_is_due() -> None:
    run = unknown(phase=Phase.SENT, settled_at=NOW, lease_until=NOW)
    running = silent_record(EXTRACTING, run)
    assert cancel(Change(running, NOW, TELLING)).record.job.silent_since is None
    act = OperatorAct("olga", "stuck")
    assert fail(Change(running, NOW, TELLING, act=act)).record.job.silent_since is None
    retried = silent_record(FAILED, ACCEPTED_RETRY)
    released = settle_by_operator(Change(retried, NOW, ASKED, act=act), ClaimEvent.SETTLED_RELEASE)
    assert released.record.job.silent_since is None


def test_the_silence_of_a_retry_begins_at_its_own_acceptance() -> None:
    silent = silent_record(FAILED, ACCEPTED_RETRY, reported_at=NOW - timedelta(days=1))
    assert silent.job.silent_since == NOW


def dead_run() -> Record:
    return ended(ended(a_record(UPLOADED, unknown()), 0), 30)


def test_another_retry_may_follow_one_that_died_before_its_first_callback() -> None:
    record = a_record(FAILED, ACCEPTED_RETRY)
    assert record.report_deadline(ASKED) == NOW + seconds(600)
    first = ended(record, 0)
    died = answered(Change(first, NOW + seconds(30), ASKED), first, S.FAILED)
    assert [event.event_type for event in died.events] == [EventType.RUN_FAILED]
    dead = died.record
    assert (dead.job.status, dead.claim.is_dead) == (FAILED, True)
    assert dead.job.status_since == NOW + seconds(30)
    again = decide_retry(Change(dead, NOW + seconds(40), ASKED), "another", "standard")
    assert again.result.outcome is CallOutcome.STARTED


def test_late_reports_of_a_dead_run_are_merged_until_a_retry_starts() -> None:
    record = dead_run()
    run_id = record.claim.dispatch_id
    progress = apply_callback(Change(record, NOW, ASKED), a_report(JobStatus.AUDIO_READY, run_id))
    assert (progress.record.job.status, progress.result) == (FAILED, False)
    assert [event.event_type for event in progress.events] == [EventType.REPORTED_LATE]
    assert progress.record.job.failure == Failure(code=RUN_FAILED)
    failure = apply_callback(Change(progress.record, NOW, ASKED), a_report(FAILED, None, 2))
    assert (failure.record.job.status, failure.record.job.failure) == (FAILED, Failure(code="own"))
    retried = decide_retry(Change(failure.record, NOW, ASKED), "one", "standard").record
    with pytest.raises(ExecutionSuperseded):
        apply_callback(Change(retried, NOW, ASKED), a_report(FAILED, run_id, 3))
    with pytest.raises(FsmTerminalImmutable):
        apply_callback(Change(retried, NOW, ASKED), a_report(FAILED, None, 3))


def test_late_reports_are_limited_like_all_reports() -> None:
    record = dead_run()
    full = replace(record, job=record.job.model_copy(update={"reports": 1_000}))
    with pytest.raises(FsmTerminalImmutable):
        apply_callback(Change(full, NOW, ASKED), a_report(FAILED, record.claim.dispatch_id))


def test_a_late_report_counts_for_a_dead_retry_only_if_it_names_the_dispatch() -> None:
    retry = a_retry_claim(Phase.SENT, is_dead=True)
    with pytest.raises(FsmTerminalImmutable):
        apply_callback(Change(a_record(FAILED, retry), NOW, ASKED), a_report(FAILED, None))
    named = a_report(FAILED, retry.dispatch_id)
    assert apply_callback(Change(a_record(FAILED, retry), NOW, ASKED), named).changed


# Which callback proves a retry


@pytest.mark.parametrize("phase", [Phase.SENDING, Phase.UNKNOWN, Phase.SENT])
def test_if_the_engine_can_be_asked_a_callback_must_name_the_retry_that_it_proves(
    phase: Phase,
) -> None:
    record = a_record(FAILED, a_retry_claim(phase, sends=1))
    with pytest.raises(FsmTerminalImmutable):
        apply_callback(Change(record, NOW, ASKED), a_report(JobStatus.TRANSCRIBING, None))
    named = a_report(JobStatus.TRANSCRIBING, record.claim.dispatch_id)
    resumed = apply_callback(Change(record, NOW, ASKED), named).record
    assert (resumed.job.status, resumed.claim.phase) == (JobStatus.TRANSCRIBING, Phase.SENT)
    assert apply_callback(
        Change(record, NOW, POLICY), a_report(JobStatus.TRANSCRIBING, None)
    ).changed, "an engine that cannot be asked depends on callbacks"


# Cancels, and the next look


def policies() -> list[DispatchPolicy]:
    year = replace(POLICY, unknown_hold=timedelta(days=365))
    return [POLICY, year, replace(POLICY, unknown_hold=None), replace(POLICY, window=WINDOW), ASKED]


@pytest.mark.parametrize("policy", policies())
@pytest.mark.parametrize("can_cancel", [False, True])
@pytest.mark.parametrize("phase", [Phase.CLAIMED, Phase.SENDING, Phase.UNKNOWN, Phase.SENT])
def test_the_sweep_looks_at_a_due_cancel_within_30_seconds_and_an_open_claim_within_a_day(
    policy: DispatchPolicy, can_cancel: bool, phase: Phase
) -> None:
    policy = replace(policy, can_cancel=can_cancel)
    for lease in (None, NOW + seconds(71), NOW + timedelta(days=365)):
        if lease is None and phase in (Phase.CLAIMED, Phase.SENDING):
            continue
        claim = unknown(phase=phase, lease_until=lease)
        change = cancel(Change(a_record(UPLOADED, claim), NOW, policy))
        left = change.record.claim
        assert left.phase is (Phase.UNKNOWN if phase is Phase.CLAIMED else phase)
        assert (change.task is TaskKind.TELL_CANCELLED) is left.cancel_due is can_cancel
        if left.phase is Phase.SENDING:
            # Its worker's lease stays; what the worker learns sets the next look.
            assert left.lease_until == lease
            lost = settle(
                Change(change.record, NOW, policy), change.record.token, ClaimEvent.LOST, None
            )
            left = lost.record.claim
        if left.phase is Phase.UNKNOWN:
            assert left.lease_until <= NOW + (CANCEL_AGAIN_AFTER if can_cancel else ABANDONED_AFTER)
        elif can_cancel:
            assert left.lease_until <= NOW + CANCEL_AGAIN_AFTER


def test_a_cancel_whose_message_is_lost_is_sent_again_after_a_pause() -> None:
    record = a_record(CANCELLED, unknown(phase=Phase.SENT, cancel_due=True, lease_until=NOW))
    again = look(Change(record, NOW, TELLING))
    assert again.task is TaskKind.TELL_CANCELLED
    assert again.record.claim.lease_until == NOW + CANCEL_AGAIN_AFTER


def test_a_cancel_that_can_no_longer_be_sent_is_looked_at_seldom_and_sent_once_it_can() -> None:
    record = a_record(CANCELLED, unknown(phase=Phase.SENT, cancel_due=True, lease_until=NOW))
    looked = look(Change(record, NOW, replace(TELLING, can_cancel=False)))
    assert (looked.task, looked.record.claim.lease_until) == (None, NOW + RECHECK_AFTER)
    assert look(Change(looked.record, NOW + RECHECK_AFTER, TELLING)).task is TaskKind.TELL_CANCELLED


def test_a_start_that_arrives_after_the_cancel_is_found_and_cancelled() -> None:
    record = cancel(Change(a_record(UPLOADED, unknown()), NOW, TELLING)).record
    record = cancel_notified(Change(record, NOW, POLICY), record.token, "not_found", False).record
    due = record.claim.lease_until
    asked = look(Change(record, due, TELLING))
    assert asked.task is TaskKind.ASK
    absent = answered(Change(asked.record, due, TELLING), asked.record, S.NOT_FOUND)
    assert (absent.record.claim.phase, absent.task) == (Phase.UNKNOWN, None)
    found = answered(Change(absent.record, due, TELLING), absent.record, S.RUNNING).record
    assert (found.job.status, found.claim.phase) == (CANCELLED, Phase.SENT)
    assert look(Change(found, due, TELLING)).task is TaskKind.TELL_CANCELLED


@pytest.mark.parametrize("policy", [POLICY, replace(POLICY, can_cancel=True), ASKED, TELLING])
def test_absence_releases_the_claim_of_a_cancelled_job_a_day_after_the_last_send(
    policy: DispatchPolicy,
) -> None:
    sent_at = NOW + seconds(500)
    for late, is_free in ((seconds(-1), False), (seconds(0), True)):
        now = sent_at + ABANDONED_AFTER + late
        claim = unknown(sent_at=sent_at, sends=2, lease_until=now, cancel_due=policy.can_cancel)
        record = look(Change(a_record(CANCELLED, claim), now, policy)).record
        if policy.can_be_asked:
            assert answered(Change(record, now, policy), record, S.NO_ANSWER).record.claim
            record = answered(Change(record, now, policy), record, S.NOT_FOUND).record
        assert (record.claim is None) is is_free
        if is_free:
            assert record.released.reason == "abandoned"
    uploaded = a_record(UPLOADED, unknown())
    later = NOW + 3 * ABANDONED_AFTER
    assert answered(Change(uploaded, later, ASKED), uploaded, S.NOT_FOUND).record.claim


@pytest.mark.parametrize("policy", [POLICY, ASKED, TELLING])
def test_a_cancel_does_not_postpone_an_earlier_look(policy: DispatchPolicy) -> None:
    soon = unknown(lease_until=NOW + seconds(2))
    cancelled = cancel(Change(a_record(UPLOADED, soon), NOW, policy)).record
    assert cancelled.claim.lease_until == NOW + seconds(2)
    sending = unknown(phase=Phase.SENDING, lease_until=NOW + seconds(71))
    cancelled = cancel(Change(a_record(UPLOADED, sending), NOW, policy)).record
    lost = settle(Change(cancelled, NOW, policy), cancelled.token, ClaimEvent.LOST, None).record
    first = cancelled.claim.after(ClaimEvent.LOST, NOW, policy)
    latest = NOW + (CANCEL_AGAIN_AFTER if policy.can_cancel else ABANDONED_AFTER)
    assert lost.claim.lease_until == min(first.lease_until, latest)


@pytest.mark.parametrize("policy", policies())
@pytest.mark.parametrize("status", [UPLOADED, CANCELLED])
def test_every_unknown_claim_has_a_next_look(policy: DispatchPolicy, status: JobStatus) -> None:
    sending = unknown(phase=Phase.SENDING, lease_until=NOW + POLICY.send_lease)
    record = a_record(status, sending)
    lost = settle(Change(record, NOW, policy), record.token, ClaimEvent.LOST, None).record
    times = times_in_indexes(lost)
    assert keys.DUE in times
    assert times[keys.UNKNOWN] == NOW


def test_a_claim_that_was_held_for_ever_is_asked_about_once_the_settings_allow_it() -> None:
    held = a_record(UPLOADED, unknown(lease_until=None))
    assert look(Change(held, NOW, replace(POLICY, unknown_hold=None))).changed is False
    assert look(Change(held, NOW, ASKED)).task is TaskKind.ASK


# One ask at a time


def test_a_second_run_joins_the_ask_under_way_which_ends_with_its_lease() -> None:
    record = a_record(UPLOADED, unknown())
    first = decide_run(Change(record, NOW, ASKED))
    assert (first.task, first.result.outcome) == (TaskKind.ASK, CallOutcome.JOINED)
    second = decide_run(Change(first.record, NOW + seconds(1), ASKED))
    assert (second.changed, second.result.outcome) == (False, CallOutcome.JOINED)
    assert not look(Change(first.record, NOW + ASK_LEASE - seconds(1), ASKED)).changed
    assert look(Change(first.record, NOW + ASK_LEASE, ASKED)).task is TaskKind.ASK


# A pause


def test_after_a_pause_a_claim_that_waited_has_its_whole_lease() -> None:
    pause = Pause(paused_at=NOW, by="olga", reason="an upgrade", resumed_at=NOW + seconds(100))
    policy = replace(POLICY, pause=pause)
    for messages, lease in ((1, seconds(15)), (2, seconds(30)), (4, seconds(120))):
        over = NOW + seconds(100) + lease
        record = a_record(UPLOADED, a_claim(messages=messages, lease_until=NOW + seconds(101)))
        waits = look(Change(record, NOW + seconds(101), policy))
        assert (waits.task, waits.record.claim.messages) == (None, messages)
        assert waits.record.claim.lease_until == over
        sent_again = look(Change(waits.record, over, policy))
        assert (sent_again.task, sent_again.record.claim.messages) == (
            TaskKind.DISPATCH,
            messages + 1,
        )
