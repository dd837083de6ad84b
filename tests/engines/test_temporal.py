"""The adapter for Temporal, and the example, on a real Temporal."""

from collections.abc import Iterator

import pytest
import requests

from domain.claim import ClaimEvent, Refusal, RunState
from tests.engines.clients import started
from tests.engines.conftest import NewDispatch
from tests.engines.contract import EngineContract, wait_for
from tests.engines.scenarios import Scenarios
from tests.engines.temporal_server import TemporalServer


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, callback_secret: str
) -> Iterator[TemporalServer]:
    with TemporalServer(tmp_path_factory.mktemp("temporal"), callback_secret) as running:
        yield running


class TestTemporal(EngineContract):
    """What every engine's adapter must do."""


class TestTakeOneWithTemporal(Scenarios):
    """What the whole service must do with every engine."""


def test_an_unknown_namespace_is_refused(server: TemporalServer, new_dispatch: NewDispatch) -> None:
    engine = server.speak(namespace="nope")
    outcome = started(engine, new_dispatch())
    assert (outcome.event, outcome.reason) == (ClaimEvent.REFUSED, Refusal.UNKNOWN_WORKFLOW)
    assert any("the namespace does not exist" in problem for problem in engine.problems())
    # That proves nothing of the run: the namespace may have been renamed in the settings.
    assert engine.ask("run-x").state is RunState.NO_ANSWER


def test_an_id_that_another_client_took_is_accepted_once_asking_confirms_it(
    server: TemporalServer, new_dispatch: NewDispatch
) -> None:
    engine, dispatch = server.speak(), new_dispatch()
    taken = {
        "workflowType": {"name": "Other"},
        "taskQueue": {"name": "other"},
        "requestId": "other",
    }
    url = f"{server.url}/api/v1/namespaces/default/workflows/{dispatch.dispatch_id}"
    requests.post(url, json=taken, timeout=10).raise_for_status()
    assert started(engine, dispatch).event is ClaimEvent.FOUND


def test_a_run_that_was_terminated_is_cancelled(
    server: TemporalServer, new_dispatch: NewDispatch
) -> None:
    engine, dispatch = server.speak(workflow="Take@unpolled"), new_dispatch()
    assert started(engine, dispatch).event is ClaimEvent.ACCEPTED
    assert engine.ask(dispatch.dispatch_id).state is RunState.RUNNING
    server.kill_run(dispatch.dispatch_id)
    wait_for(engine, dispatch.dispatch_id, RunState.CANCELLED)
    # Without the reuse policy this would start a second run.
    assert started(engine, dispatch).event is ClaimEvent.ACCEPTED
    assert engine.ask(dispatch.dispatch_id).state is RunState.CANCELLED


def test_doctor_finds_nothing_wrong_with_the_example(server: TemporalServer) -> None:
    assert list(server.speak().problems()) == []


def test_doctor_misses_a_worker(server: TemporalServer) -> None:
    engine = server.speak(workflow="Take@unpolled")
    assert list(engine.problems()) == ["no worker polls the task queue; start one"]
