"""The chaos checker accepts correct stories, and reports each falsified one."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos import ends, linearize
from tests.chaos.checker import Rules, check, check_job, posts_of
from tests.chaos.history import JobStory, Operation, load_stories
from tests.chaos.limits import HealingLimit
from tests.chaos.linearize import explain
from tests.chaos.model import dispatch_of
from tests.chaos.report import Run, below_floor
from tests.chaos.sabotage import SABOTAGES
from tests.chaos.sample_stories import (
    BusyJob,
    StoryBuilder,
    cancelled_while_unknown,
    correct_run,
    executed_once,
    left_unknown,
    refused_twice,
)
from tests.chaos.schedule import all_names, schedule
from tests.chaos.search_graph import Post
from tests.chaos.state import UNKNOWN, Claim, State, fail_send

CASES = Path(__file__).parent / "cases"
FEW_CONFIGURATIONS = 100_000
RULES = Rules(hold_seconds=3, idempotent=False)


def violations(stories: list[JobStory]) -> list[str]:
    return [text for verdict in check(stories, RULES) for text in verdict.violations]


def assert_violation(text: str, stories: list[JobStory]) -> None:
    found = violations(stories)
    assert any(text in violation for violation in found), found


def test_a_correct_run_has_no_violation_and_each_job_its_end() -> None:
    assert violations(correct_run()) == []
    found = [verdict.end for verdict in check(correct_run(), RULES)]
    assert found == [ends.MOVED_ON, ends.REFUSED, ends.CANCELLED, ends.UNKNOWN]


# Part of the expected violation: a failure for another reason would prove nothing.
VIOLATIONS = {
    "second-execution": "2 executions of",
    "lost-job": "lost:",
    "lost-dispatch": "the orchestrator never got it",
    "false-202": "202 to 1 callers, with 0 claims",
    "second-202": "callers, with 1 claims",
    "broken-trail": "starts from",
    "doubled-step": "moved the job 2 times",
    "stuck-claim": "stuck:",
    "unlisted-unknown": "stuck:",
    "absent-released": "dispatch.released (attempt 1) in phase UNKNOWN",
    "failed-unasked": "the job failed after 0 reports of the engine, not two",
    "forgotten-cancel": "no order explains",
    "stale-read": "no order explains",
    "secret-post": "was posted 2 times, with 1 times dispatch.sent",
}


@pytest.mark.parametrize("name", sorted(SABOTAGES))
def test_each_sabotage_is_reported_as_its_own_violation(name: str) -> None:
    never_run = StoryBuilder("job-e")
    never_run.read()
    stories = [executed_once(), never_run.build(), refused_twice(), cancelled_while_unknown()]
    assert violations(stories) == []
    assert_violation(VIOLATIONS[name], SABOTAGES[name](stories))


def test_a_resend_of_an_unknown_outcome_within_its_hold_is_a_violation() -> None:
    story = left_unknown()
    again = {**story.trail[-1], "event_type": "dispatch.resent", "attempt": 2}
    story.trail.append(again)
    assert_violation("before its hold", [story])


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_request_without_an_answer_may_have_been_carried_out_or_not(carried_out: bool) -> None:
    builder = StoryBuilder("job-f")
    builder.answer("cancel", None)
    if carried_out:
        builder.event("job.cancelled", to="CANCELLED", actor_type="editor")
    builder.read()
    assert violations([builder.build()]) == []


def test_a_cancel_that_no_caller_requested_has_no_explanation() -> None:
    builder = StoryBuilder("job-h")
    builder.event("job.cancelled", to="CANCELLED", actor_type="editor")
    builder.read()
    assert_violation("no order explains", [builder.build()])


def test_an_acceptance_that_the_orchestrator_never_gave_has_no_explanation() -> None:
    story = executed_once()
    clients = [op for op in story.operations if op.kind != "callback"][:1]
    given = Post(f"run-{story.job_id}", clients[0].start, 202)
    assert explain(clients, [given], idempotent=False).explained
    refused = replace(given, status=503)
    too_late = replace(given, at=(clients[0].end or 0) + 1)
    assert not explain(clients, [refused], idempotent=False).explained
    assert not explain(clients, [too_late], idempotent=False).explained


def test_a_recorded_case_is_explained_by_its_trail() -> None:
    """Five joiners and two requests without an answer: an earlier checker gave up on it after 300,000 nodes."""
    rules = Rules(hold_seconds=0, idempotent=True)
    (verdict,) = check(load_stories(CASES / "five-joiners.json.gz"), rules)
    assert verdict.as_recorded
    assert (verdict.violations, verdict.undecided) == ([], "")


def test_a_recorded_case_is_explained_without_its_trail() -> None:
    (story,) = load_stories(CASES / "five-joiners.json.gz")
    verdict = explain(story.operations, posts_of(story), idempotent=True)
    assert verdict.explained
    assert verdict.configurations < 1_000


def test_the_trail_tells_which_unanswered_run_made_the_claim() -> None:
    story = executed_once()
    first_run = next(op for op in story.operations if op.kind == "run")
    for name, start in (("without effect", 0.0), ("x", 0.1)):
        story.operations.append(replace(first_run, start=start, request={"request_id": name}))
        story.operations[-1].status = story.operations[-1].end = None
    story.operations.remove(first_run)
    verdict = explain(story.operations, posts_of(story), idempotent=False, trail=story.trail)
    assert verdict.as_recorded


def test_a_trail_in_a_wrong_order_does_not_count_as_the_explanation() -> None:
    story = executed_once()
    recorded_order = explain(story.operations, posts_of(story), False, story.trail)
    reversed_order = explain(story.operations, posts_of(story), False, story.trail[::-1])
    assert recorded_order.as_recorded
    assert reversed_order.explained
    assert not reversed_order.as_recorded


def test_a_run_whose_answer_was_correct_early_may_have_made_a_claim_later() -> None:
    """The third run saw the first claim's unknown outcome, and made the claim that the read shows."""

    def run(start: float, end: float, reason: str) -> Operation:
        request = {"request_id": f"at-{start}"}
        return Operation("job-z", "run", request, start, end, 502, {"details": {"reason": reason}})

    shown = {"status": "UPLOADED", "dispatch": {"phase": "UNKNOWN"}}
    operations = [
        run(1, 10, "refused"),
        run(2, 7, "outcome_unknown"),
        run(6, 12, "outcome_unknown"),
        Operation("job-z", "read", {"request_id": "read"}, 11, 13, 200, shown),
    ]
    refused = Post("run-job-z", 8, 503)
    assert explain(operations, [refused], idempotent=False).explained
    del operations[2]
    assert not explain(operations, [refused], idempotent=False).explained


@pytest.mark.parametrize("resume", ["UPLOADED", "AUDIO_READY", "TRANSCRIPT_READY"])
def test_a_retry_has_to_resume_from_the_furthest_checkpoint(resume: str) -> None:
    run = Operation("job-z", "run", {"request_id": "run"}, 0, 2, 202)
    run.body = {"status": "AUDIO_EXTRACTING"}
    callbacks = [
        Operation(
            "job-z",
            "callback",
            {"event_id": status, "status": status, "occurred_at": f"{at}", "execution_id": None},
            at,
            at + 0.5,
            204,
        )
        for at, status in enumerate(("AUDIO_READY", "FAILED"), 3)
    ]
    request = {"request_id": "retry", "client_request_id": "r", "model_profile": "standard"}
    retry = Operation("job-z", "retry", request, 6, 8, 202)
    retry.body = {"status": "FAILED", "resume_from_status": resume}
    posts = [Post("run-job-z", 1, 202), Post(dispatch_of(retry), 7, 202)]
    verdict = explain([run, *callbacks, retry], posts, idempotent=False)
    assert verdict.explained == (resume == "AUDIO_READY")


@pytest.mark.parametrize(("resent", "phase"), [(False, None), (True, UNKNOWN)])
def test_a_failed_resend_leaves_the_earlier_sends_outcome_unknown(
    resent: bool, phase: str | None
) -> None:
    after = fail_send(State(claim=Claim("run-job-z", 2, resent=resent)), "refused")
    assert (after.claim.phase if after.claim else None) == phase


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("concurrency", "unanswered"), [(8, 0.2), (16, 0.4)])
def test_forty_concurrent_operations_of_a_correct_service_are_explained(
    seed: int, concurrency: int, unanswered: float
) -> None:
    busy = BusyJob(seed, 40, concurrency, unanswered)
    verdict = explain(busy.operations, busy.posts, idempotent=seed % 2 == 0)
    assert len(busy.operations) >= 40
    assert verdict.explained, verdict
    assert verdict.configurations < FEW_CONFIGURATIONS


def _two_firsts(busy: BusyJob) -> None:
    """A replay is answered as the first run."""
    replay = busy.operations[-2]
    replay.status, replay.body = 202, {**replay.body, "replayed": False}


def _lost_write(busy: BusyJob) -> None:
    """An acceptance that callers have seen is gone."""
    busy.operations[-1].body = {"status": "UPLOADED", "dispatch": None}


def _lost_cancel(busy: BusyJob) -> None:
    """A cancel is confirmed, but the job is not cancelled."""
    cancel = busy.operations[-2]
    cancel.kind, cancel.status, cancel.body = "cancel", 200, {"status": "CANCELLED"}


def _impossible_answer(busy: BusyJob) -> None:
    """A refusal that the orchestrator never gave."""
    request = {"request_id": "invented"}
    refused = Operation("job-z", "run", request, 0, busy.operations[-3].start, 502)
    refused.body = {"details": {"reason": "refused"}}
    busy.operations.append(refused)
    busy.posts = [post for post in busy.posts if post.status != 503]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("falsify", [_two_firsts, _lost_write, _lost_cancel, _impossible_answer])
def test_forty_operations_without_a_valid_order_are_not_explained(
    seed: int, falsify: Callable[[BusyJob], None]
) -> None:
    busy = BusyJob(seed, 40)
    falsify(busy)
    verdict = explain(busy.operations, busy.posts, idempotent=seed % 2 == 0)
    assert not verdict.explained
    assert not verdict.undecided
    assert verdict.configurations < FEW_CONFIGURATIONS


def test_an_undecided_job_is_neither_a_violation_nor_a_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linearize, "MOST_CONFIGURATIONS", 1)
    story = executed_once()
    story.trail = []
    assert "no order found" in check_job(story, RULES).undecided


def test_a_run_in_which_too_little_happened_fails() -> None:
    run = Run(60, 1, HealingLimit({}), schedule(1, 60), Counter())
    shortfalls = "\n".join(below_floor(run, check(correct_run(), RULES)))
    for expected in ("run: 202", "scheduled faults did not fire", "no fault of kind kill redis"):
        assert expected in shortfalls


def test_a_seed_always_gives_the_same_faults() -> None:
    assert schedule(7, 60) == schedule(7, 60)
    assert schedule(7, 60) != schedule(8, 60)


@pytest.mark.parametrize("seed", range(1, 101))
def test_one_minute_has_every_kind_of_fault(seed: int) -> None:
    assert {fault.name for fault in schedule(seed, 60)} == all_names()
