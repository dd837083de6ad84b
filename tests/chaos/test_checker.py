"""The checker of the chaos runs is held to stories of which the truth is known."""

from collections import Counter

import pytest

from tests.chaos import ends
from tests.chaos.checker import Rules, check, check_job
from tests.chaos.history import JobStory
from tests.chaos.limits import HealingLimit
from tests.chaos.linearize import Post, explain
from tests.chaos.report import Run, below_floor
from tests.chaos.sabotage import SABOTAGES
from tests.chaos.sample_stories import (
    StoryTeller,
    cancelled_while_unknown,
    executed_once,
    honest_run,
    left_unknown,
    refused_twice,
)
from tests.chaos.schedule import all_names, schedule

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


def test_what_nobody_asked_for_is_explained_by_nothing() -> None:
    teller = StoryTeller("job-h")
    teller.event("job.cancelled", to="CANCELLED", actor_type="editor")
    teller.read()
    assert any("no order explains" in each for each in violations([teller.told()]))


def test_an_acceptance_that_the_orchestrator_never_gave_is_explained_by_nothing() -> None:
    story = executed_once()
    clients = [op for op in story.operations if op.kind != "callback"][:1]
    given = Post(f"run-{story.job_id}", clients[0].start, 202)
    refused = Post(f"run-{story.job_id}", clients[0].start, 503)
    assert explain(clients, [given], deduplicates=False).explained
    assert not explain(clients, [refused], deduplicates=False).explained


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
