"""The invariants hold in every scenario, and each scenario reaches the steps that it is for."""

from functools import cache

import pytest

from tests.model.explorer import explore
from tests.model.scenarios import (
    ASKED,
    CANCEL,
    FAILED,
    OWN_BROKER,
    RETRIES,
    RUNS,
    SCENARIOS,
    SILENT,
    TWO_WORKERS,
    WINDOW,
)
from tests.model.world import Scenario

_explore = cache(explore)

# This only computes; a busy machine may be slow.
pytestmark = pytest.mark.timeout(300)

EVERYWHERE = (
    "time passes",
    "run: reads",
    "run: commits",
    "web process dies",
    "message of epoch 1 is lost",
    "worker takes the message of epoch 2",
    "worker reads to begin",
    "worker begins",
    "worker dies",
    "nothing was sent",
    "worker reaches no orchestrator and looks again",
    "orchestrator refuses",
    "POST: accepted, executed",
    "POST: lost, executed",
    "POST: lost, not executed",
    "worker settles accepted",
    "worker settles lost",
    "sweep reads",
    "sweep commits",
    "sweeper dies",
)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_no_interleaving_breaks_an_invariant(scenario: Scenario) -> None:
    found = _explore(scenario)
    assert not found.broken, found.story()
    assert found.states > 1_000


def test_every_step_of_a_run_is_reached() -> None:
    assert set(EVERYWHERE) <= _explore(TWO_WORKERS).happened


@pytest.mark.parametrize(
    ("scenario", "step"),
    [
        (TWO_WORKERS, "message of epoch 1 is duplicated"),
        (RUNS, "callback AUDIO_READY: commits"),
        (OWN_BROKER, "publish fails, and has landed"),
        (OWN_BROKER, "gives back"),
        (FAILED, "fail: commits"),
        (FAILED, "retry a: commits"),
        (RETRIES, "retry b: commits"),
        (RETRIES, "the job expires"),
        (CANCEL, "the job expires"),
        (RETRIES, "callback TRANSCRIBING: commits"),
        (WINDOW, "worker holds"),
        (ASKED, "running counts"),
        (ASKED, "not_found counts"),
        (ASKED, "a held request arrives"),
        (SILENT, "failed counts"),
    ],
)
def test_a_scenario_reaches_the_step_that_it_is_for(scenario: Scenario, step: str) -> None:
    assert step in _explore(scenario).happened
