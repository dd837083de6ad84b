"""The checker of the chaos runs is held to stories of which the truth is known."""

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
from tests.chaos.report import Run, below_floor
from tests.chaos.sabotage import SABOTAGES
from tests.chaos.sample_stories import (
    BusyJob,
    StoryTeller,
    cancelled_while_unknown,
    executed_once,
    honest_run,
    left_unknown,
    refused_twice,
)
from tests.chaos.schedule import all_names, schedule
from tests.chaos.search_graph import Post

CASES = Path(__file__).parent / "cases"
FEW_CONFIGURATIONS = 100_000
RULES = Rules(hold_seconds=3, deduplicates=False)


def violations(stories: list[JobStory]) -> list[str]:
    return [each for verdict in check(stories, RULES) for each in verdict.violations]


def test_an_honest_run_has_no_violation() -> None:
    assert violations(honest_run()) == []


def test_each_job_has_the_end_that_its_story_tells() -> None:
    found = [verdict.end for verdict in check(honest_run(), RULES)]
    assert found == [ends.MOVED_ON, ends.REFUSED, ends.CANCELLED, ends.UNKNOWN]


# A word of what the checker must say of each: that it fails for another reason would prove nothing.
NOTICED_AS = {
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
    "failed-unasked": "failed by the engine's word, which said so 0 times",
    "forgotten-cancel": "no order explains",
    "stale-read": "no order explains",
    "secret-post": "was posted 2 times, with 1 times dispatch.sent",
}


def test_every_sabotage_is_tried_here() -> None:
    assert set(NOTICED_AS) == set(SABOTAGES)


@pytest.mark.parametrize("name", sorted(SABOTAGES))
def test_a_doctored_run_fails_and_is_called_by_its_name(name: str) -> None:
    stories = [executed_once(), _never_run(), refused_twice(), cancelled_while_unknown()]
    assert violations(stories) == []
    found = violations(SABOTAGES[name](stories))
    assert any(NOTICED_AS[name] in each for each in found), found


def _never_run() -> JobStory:
    teller = StoryTeller("job-e")
    teller.read()
    return teller.told()


def test_an_unknown_outcome_that_was_sent_again_within_its_hold_is_a_violation() -> None:
    story = left_unknown()
    again = {**story.trail[-1], "event_type": "dispatch.resent", "attempt": 2}
    story.trail.append(again)
    assert any("before its hold" in each for each in check_job(story, RULES).violations)


def test_a_request_without_an_answer_may_have_been_carried_out() -> None:
    teller = StoryTeller("job-f")
    teller.answer("cancel", None)
    teller.event("job.cancelled", to="CANCELLED", actor_type="editor")
    teller.read()
    assert violations([teller.told()]) == []


def test_a_request_without_an_answer_may_not_have_been_carried_out() -> None:
    teller = StoryTeller("job-g")
    teller.answer("cancel", None)
    teller.read()
    assert violations([teller.told()]) == []


def test_what_was_not_asked_for_is_explained_by_nothing() -> None:
    teller = StoryTeller("job-h")
    teller.event("job.cancelled", to="CANCELLED", actor_type="editor")
    teller.read()
    assert any("no order explains" in each for each in violations([teller.told()]))


def test_an_acceptance_that_the_orchestrator_never_gave_is_explained_by_nothing() -> None:
    story = executed_once()
    clients = [op for op in story.operations if op.kind != "callback"][:1]
    given = Post(f"run-{story.job_id}", clients[0].start, 202)
    assert explain(clients, [given], deduplicates=False).explained
    refused = replace(given, status=503)
    too_late = replace(given, at=(clients[0].end or 0) + 1)
    assert not explain(clients, [refused], deduplicates=False).explained
    assert not explain(clients, [too_late], deduplicates=False).explained


def test_the_recorded_case_is_explained_by_its_trail() -> None:
    """Five joiners and two requests without an answer: once undecided after 300,000 tries."""
    rules = Rules(hold_seconds=0, deduplicates=True)
    (verdict,) = check(load_stories(CASES / "five-joiners.json.gz"), rules)
    assert verdict.as_recorded
    assert (verdict.violations, verdict.undecided) == ([], "")


def test_the_recorded_case_is_explained_without_its_trail() -> None:
    (story,) = load_stories(CASES / "five-joiners.json.gz")
    verdict = explain(story.operations, posts_of(story), deduplicates=True)
    assert verdict.explained
    assert verdict.configurations < 1_000


def test_the_trail_says_which_of_the_unanswered_runs_made_the_claim() -> None:
    story = executed_once()
    first_run = next(op for op in story.operations if op.kind == "run")
    for name, start in (("without effect", 0.0), ("x", 0.1)):
        story.operations.append(replace(first_run, start=start, asked={"request_id": name}))
        story.operations[-1].status = story.operations[-1].end = None
    story.operations.remove(first_run)
    verdict = explain(story.operations, posts_of(story), deduplicates=False, trail=story.trail)
    assert verdict.as_recorded


def test_a_trail_that_tells_another_order_proves_nothing() -> None:
    story = executed_once()
    honest = explain(story.operations, posts_of(story), False, story.trail)
    reversed_order = explain(story.operations, posts_of(story), False, story.trail[::-1])
    assert honest.as_recorded
    assert reversed_order.explained
    assert not reversed_order.as_recorded


def test_a_run_whose_answer_was_true_early_may_have_made_a_claim_later() -> None:
    """The third saw the first claim's unknown outcome, and made the claim that the read shows."""

    def run(start: float, end: float, reason: str) -> Operation:
        asked = {"request_id": f"at-{start}"}
        return Operation("job-z", "run", asked, start, end, 502, {"details": {"reason": reason}})

    shown = {"status": "UPLOADED", "dispatch": {"phase": "UNKNOWN"}}
    operations = [
        run(1, 10, "refused"),
        run(2, 7, "outcome_unknown"),
        run(6, 12, "outcome_unknown"),
        Operation("job-z", "read", {"request_id": "read"}, 11, 13, 200, shown),
    ]
    refused = Post("run-job-z", 8, 503)
    assert explain(operations, [refused], deduplicates=False).explained
    del operations[2]
    assert not explain(operations, [refused], deduplicates=False).explained


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("at_once", "unanswered"), [(8, 0.2), (16, 0.4)])
def test_forty_operations_with_an_order_are_explained(
    seed: int, at_once: int, unanswered: float
) -> None:
    busy = BusyJob(seed, 40, at_once, unanswered)
    verdict = explain(busy.operations, busy.posts, deduplicates=seed % 2 == 0)
    assert len(busy.operations) >= 40
    assert verdict.explained, verdict
    assert verdict.configurations < FEW_CONFIGURATIONS


def _two_firsts(busy: BusyJob) -> None:
    """A run after the accepted one's answer is told that it was first."""
    replay = busy.operations[-2]
    replay.status, replay.body = 202, {**replay.body, "replayed": False}


def _lost_write(busy: BusyJob) -> None:
    """An acceptance that callers were told of is gone."""
    busy.operations[-1].body = {"status": "UPLOADED", "dispatch": None}


def _lost_cancel(busy: BusyJob) -> None:
    """A confirmed cancel, and the job goes on."""
    cancel = busy.operations[-2]
    cancel.kind, cancel.status, cancel.body = "cancel", 200, {"status": "CANCELLED"}


def _impossible_answer(busy: BusyJob) -> None:
    """A refusal that the orchestrator never gave."""
    asked = {"request_id": "invented"}
    refused = Operation("job-z", "run", asked, 0, busy.operations[-3].start, 502)
    refused.body = {"details": {"reason": "refused"}}
    busy.operations.append(refused)
    busy.posts = [post for post in busy.posts if post.status != 503]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spoil", [_two_firsts, _lost_write, _lost_cancel, _impossible_answer])
def test_forty_operations_without_an_order_are_found_out(
    seed: int, spoil: Callable[[BusyJob], None]
) -> None:
    busy = BusyJob(seed, 40)
    spoil(busy)
    verdict = explain(busy.operations, busy.posts, deduplicates=seed % 2 == 0)
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


def test_a_run_in_which_nothing_happened_proves_too_little() -> None:
    run = Run(60, 1, HealingLimit({}), schedule(1, 60), Counter())
    shortfalls = list(below_floor(run, check(honest_run(), RULES)))
    assert any("run: 202" in each for each in shortfalls)
    assert any("scheduled faults did not fire" in each for each in shortfalls)
    assert any("no fault of kind kill redis" in each for each in shortfalls)


def test_the_same_seed_decides_the_same_faults() -> None:
    assert schedule(7, 60) == schedule(7, 60)
    assert schedule(7, 60) != schedule(8, 60)


@pytest.mark.parametrize("seed", range(1, 21))
def test_a_minute_holds_every_kind_of_fault(seed: int) -> None:
    assert {fault.name for fault in schedule(seed, 60)} == all_names()
