"""The adapter for Temporal, and its example, on a real Temporal."""

from collections.abc import Iterator

import pytest
import requests

from domain.claim import ClaimEvent, Refusal, RunState
from tests.engines.clients import NewDispatch, started
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
    pass


class TestTakeOneWithTemporal(Scenarios):
    pass


def test_an_unknown_namespace_is_refused(server: TemporalServer, new_dispatch: NewDispatch) -> None:
    engine = server.connect(namespace="nope")
    outcome = started(engine, new_dispatch())
    assert (outcome.event, outcome.reason) == (ClaimEvent.REFUSED, Refusal.UNKNOWN_WORKFLOW)
    assert any("the namespace does not exist" in problem for problem in engine.problems())
    # A missing namespace says nothing about the run.
    assert engine.ask("run-x").state is RunState.NO_ANSWER


def test_an_id_that_another_client_used_is_accepted_once_the_run_is_found(
    server: TemporalServer, new_dispatch: NewDispatch
) -> None:
    engine, dispatch = server.connect(), new_dispatch()
    taken = {
        "workflowType": {"name": "Other"},
        "taskQueue": {"name": "other"},
        "requestId": "other",
    }
    url = f"{server.url}/api/v1/namespaces/default/workflows/{dispatch.dispatch_id}"
    requests.post(url, json=taken, timeout=10).raise_for_status()
    assert started(engine, dispatch).event is ClaimEvent.FOUND


def test_a_terminated_run_counts_as_cancelled_and_is_not_repeated(
    server: TemporalServer, new_dispatch: NewDispatch
) -> None:
    engine, dispatch = server.connect(workflow="Take@unpolled"), new_dispatch()
    assert started(engine, dispatch).event is ClaimEvent.ACCEPTED
    assert engine.ask(dispatch.dispatch_id).state is RunState.RUNNING
    server.kill_run(dispatch.dispatch_id)
    wait_for(engine, dispatch, RunState.CANCELLED)
    # Without the reuse policy this would start a second run.
    assert started(engine, dispatch).event is ClaimEvent.ACCEPTED
    assert engine.ask(dispatch.dispatch_id).state is RunState.CANCELLED


def test_doctor_finds_nothing_wrong_with_the_example(server: TemporalServer) -> None:
    assert list(server.connect().problems()) == []


def test_doctor_reports_that_no_worker_polls_the_queue(server: TemporalServer) -> None:
    engine = server.connect(workflow="Take@unpolled")
    assert list(engine.problems()) == ["no worker polls the task queue; start one"]
