"""The adapter for Prefect, and its example, on a real Prefect."""

from collections.abc import Iterator

import pytest

from devstack.waiting import wait_until
from domain.claim import ClaimEvent, Refusal, RunState
from orchestrators.base import Cancel, Dispatch
from orchestrators.engine import Engine
from tests.engines.callbacks import CallbackReceiver
from tests.engines.clients import NewDispatch, started
from tests.engines.contract import EngineContract, assert_refused, wait_for
from tests.engines.prefect_server import PrefectServer
from tests.engines.scenarios import Scenarios

ACCEPTED = ClaimEvent.ACCEPTED


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, callback_secret: str
) -> Iterator[PrefectServer]:
    with PrefectServer(tmp_path_factory.mktemp("prefect"), callback_secret) as running:
        yield running


@pytest.fixture(autouse=True)
def _working_flow_process(server: PrefectServer) -> None:
    """Restart the flow process if an outage in the test before has broken it, as an operator would."""
    server.renew_flow()


class TestPrefect(EngineContract):
    pass


class TestTakeOneWithPrefect(Scenarios):
    start_seconds = 6


def test_refusals_have_reasons(
    server: PrefectServer, engine: Engine, new_dispatch: NewDispatch
) -> None:
    dispatch = new_dispatch()
    unknown = server.connect(workflow="take/nothing of that name")
    assert_refused(server, unknown, dispatch, Refusal.UNKNOWN_WORKFLOW)
    unauthorized = server.connect(credentials="takeone:another password")
    assert_refused(server, unauthorized, dispatch, Refusal.UNAUTHORIZED)
    assert unauthorized.ask(dispatch.dispatch_id).state is RunState.NO_ANSWER
    assert unauthorized.cancel(dispatch) is Cancel.NO_ANSWER
    fields = {**dispatch.fields, "model_profile": None}
    invalid = Dispatch(dispatch.dispatch_id, fields, dispatch.now)
    assert_refused(server, engine, invalid, Refusal.INVALID_PARAMETERS)


def test_a_deployment_that_was_replaced_is_found_again(
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
        assert list(server.connect().problems()) == ["the orchestrator: unknown_workflow"]
    finally:
        server.start_flow()
    assert server.deployment()["id"] != before
    assert started(engine, missing).event is ACCEPTED


def test_a_paused_deployment_accepts_runs_and_doctor_reports_it(
    server: PrefectServer, engine: Engine, callbacks: CallbackReceiver, new_dispatch: NewDispatch
) -> None:
    assert list(engine.problems()) == []
    dispatch = new_dispatch()
    server.stop_flow()
    try:
        (problem,) = engine.problems()
        assert "paused" in problem
        assert started(engine, dispatch).event is ACCEPTED
        waiting = new_dispatch()
        assert started(engine, waiting).event is ACCEPTED
        assert engine.cancel(waiting) is Cancel.DONE
        wait_for(engine, waiting, RunState.CANCELLED)
    finally:
        server.start_flow()
    callbacks.wait_for(dispatch, "DRAFT_READY")


def test_doctor_reports_a_dead_flow_process(server: PrefectServer, engine: Engine) -> None:
    server.flow.kill()
    try:
        wait_until(
            lambda: "no flow.serve()" in str(list(engine.problems())),
            120,
            "the deployment is not ready",
        )
    finally:
        server.start_flow()
