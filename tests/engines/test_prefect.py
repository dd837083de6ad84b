"""The adapter for Prefect, and the example, on a real Prefect."""

from collections.abc import Iterator

import pytest

from devstack.waiting import wait_until
from domain.claim import ClaimEvent, Refusal, RunState
from orchestrators.base import Cancel, Dispatch
from orchestrators.engine import Engine
from tests.engines.callbacks import CallbackReceiver
from tests.engines.clients import started
from tests.engines.conftest import NewDispatch
from tests.engines.contract import EngineContract, wait_for
from tests.engines.prefect_server import PrefectServer
from tests.engines.scenarios import Scenarios

ACCEPTED = ClaimEvent.ACCEPTED


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, callback_secret: str
) -> Iterator[PrefectServer]:
    with PrefectServer(tmp_path_factory.mktemp("prefect"), callback_secret) as running:
        yield running


@pytest.fixture
def engine(server: PrefectServer) -> Engine:
    return server.speak()


@pytest.fixture(autouse=True)
def _cancels_are_heard(server: PrefectServer) -> None:
    """Also after a test in which the server was away, as its operator would see to it."""
    server.renew_flow()


class TestPrefect(EngineContract):
    """What every engine's adapter must do."""


class TestTakeOneWithPrefect(Scenarios):
    """What the whole service must do with every engine."""

    start_seconds = 6


def test_refusals_say_why(server: PrefectServer, engine: Engine, new_dispatch: NewDispatch) -> None:
    def refused_for(engine: Engine, dispatch: Dispatch) -> str | None:
        outcome = started(engine, dispatch)
        assert outcome.event is ClaimEvent.REFUSED
        assert server.runs(dispatch.dispatch_id) == 0
        return outcome.reason

    dispatch = new_dispatch()
    unknown = server.speak(workflow="take/nothing of that name")
    assert refused_for(unknown, dispatch) == Refusal.UNKNOWN_WORKFLOW
    unauthorized = server.speak(credentials="takeone:another password")
    assert refused_for(unauthorized, dispatch) == Refusal.UNAUTHORIZED
    assert unauthorized.ask(dispatch.dispatch_id).state is RunState.NO_ANSWER
    assert unauthorized.cancel(dispatch) is Cancel.NO_ANSWER
    unfit = Dispatch(dispatch.dispatch_id, {**dispatch.fields, "model_profile": None}, dispatch.now)
    assert refused_for(engine, unfit) == Refusal.INVALID_PARAMETERS


def test_a_deployment_that_was_made_anew_is_found_again(
    server: PrefectServer, engine: Engine, new_dispatch: NewDispatch
) -> None:
    assert started(engine, new_dispatch()).event is ACCEPTED
    before = server.deployment()["id"]
    server.stop_flow()
    server.call("DELETE", f"/deployments/{before}")
    missing = new_dispatch()
    try:
        assert started(engine, missing).reason == Refusal.UNKNOWN_WORKFLOW
        assert list(engine.problems()) == ["there is no such deployment"]
        assert list(server.speak().problems()) == ["the orchestrator: unknown_workflow"]
    finally:
        server.start_flow()
    assert server.deployment()["id"] != before
    assert started(engine, missing).event is ACCEPTED


def test_a_paused_deployment_takes_runs_and_doctor_says_so(
    server: PrefectServer, engine: Engine, callbacks: CallbackReceiver, new_dispatch: NewDispatch
) -> None:
    assert list(engine.problems()) == []
    dispatch = new_dispatch()
    server.stop_flow()
    try:
        (problem,) = engine.problems()
        assert "paused" in problem
        assert started(engine, dispatch).event is ACCEPTED
        waits = new_dispatch()
        assert started(engine, waits).event is ACCEPTED
        assert engine.cancel(waits) is Cancel.DONE
        wait_for(engine, waits.dispatch_id, RunState.CANCELLED)
    finally:
        server.start_flow()
    callbacks.wait_for(str(dispatch.fields["job_id"]), "DRAFT_READY")


def test_a_flow_process_that_died_is_seen_by_doctor(server: PrefectServer, engine: Engine) -> None:
    server.flow.kill()
    try:
        is_seen = lambda: any("no flow.serve()" in problem for problem in engine.problems())  # noqa: E731
        wait_until(is_seen, 120, "the deployment is not ready")
    finally:
        server.start_flow()
