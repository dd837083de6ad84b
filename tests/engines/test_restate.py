"""The adapter for Restate, and the example, on a real Restate."""

from collections.abc import Iterator

import pytest

from domain.claim import ClaimEvent, Refusal
from tests.engines.clients import started
from tests.engines.conftest import NewDispatch
from tests.engines.contract import EngineContract
from tests.engines.restate_server import RestateServer
from tests.engines.scenarios import Scenarios


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, callback_secret: str
) -> Iterator[RestateServer]:
    with RestateServer(tmp_path_factory.mktemp("restate"), callback_secret) as running:
        yield running


class TestRestate(EngineContract):
    """What every engine's adapter must do."""


class TestTakeOneWithRestate(Scenarios):
    """What the whole service must do with every engine."""


@pytest.mark.parametrize("workflow", ["Nope/run", "Take/nope"])
def test_an_unknown_workflow_is_refused(
    workflow: str, server: RestateServer, new_dispatch: NewDispatch
) -> None:
    engine, dispatch = server.speak(workflow=workflow), new_dispatch()
    outcome = started(engine, dispatch)
    assert (outcome.event, outcome.reason) == (ClaimEvent.REFUSED, Refusal.UNKNOWN_WORKFLOW)
    assert len(list(engine.problems())) >= 1
    assert server.runs(dispatch.dispatch_id) == 0


def test_without_the_admin_api_nothing_is_cancelled(server: RestateServer) -> None:
    assert not server.speak(cancel_url="").adapter.can_cancel


def test_doctor_finds_nothing_wrong_with_the_example(server: RestateServer) -> None:
    assert list(server.speak().problems()) == []
    assert list(server.speak(cancel_url="").problems()) == []


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ({"public": False}, {"public": True}),
        ({"idempotency_retention": "23h"}, {"idempotency_retention": "30d"}),
    ],
)
def test_doctor_says_what_would_keep_runs_from_starting_once(
    wrong: dict[str, object], right: dict[str, object], server: RestateServer
) -> None:
    server.configure(**wrong)
    try:
        assert len(list(server.speak().problems())) == 1
    finally:
        server.configure(**right)
    assert list(server.speak().problems()) == []
