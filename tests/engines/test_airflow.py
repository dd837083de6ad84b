"""The adapter for Airflow, and its example, on a real Airflow."""

from collections.abc import Iterator

import pytest

from devstack.waiting import wait_until
from domain.claim import ClaimEvent, Refusal, RunState
from orchestrators.airflow import Airflow
from orchestrators.base import Answer, Cancel, Dispatch, Request
from orchestrators.client import OrchestratorClient
from orchestrators.engine import Engine
from settings import Settings
from tests.engines.airflow_server import CREDENTIALS, READER, WORKFLOW, AirflowServer
from tests.engines.callbacks import CallbackReceiver
from tests.engines.clients import NewDispatch, started
from tests.engines.contract import UNAVAILABLE, EngineContract, assert_refused, wait_for
from tests.engines.scenarios import Scenarios

ACCEPTED = ClaimEvent.ACCEPTED
RUN_SECONDS = 90.0


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, callback_secret: str
) -> Iterator[AirflowServer]:
    with AirflowServer(tmp_path_factory.mktemp("airflow"), callback_secret) as running:
        yield running


def restart_api(server: AirflowServer, **settings: str) -> None:
    server.kill_server()
    server.start_server(**settings)


class TestAirflow(EngineContract):
    pass


class TestTakeOneWithAirflow(Scenarios):
    start_seconds = 6
    end_seconds = 120


def test_the_tasks_of_a_cancelled_run_end(
    server: AirflowServer, engine: Engine, callbacks: CallbackReceiver, new_dispatch: NewDispatch
) -> None:
    dispatch = new_dispatch()
    callbacks.answer(dispatch, UNAVAILABLE)
    assert started(engine, dispatch).event is ACCEPTED
    callbacks.wait_for(dispatch, "AUDIO_EXTRACTING", RUN_SECONDS)
    assert engine.cancel(dispatch) is Cancel.DONE
    tasks = f"/dags/{WORKFLOW}/dagRuns/{dispatch.dispatch_id}/taskInstances"

    def states() -> set[str]:
        return {task["state"] for task in server.call("GET", tasks)["task_instances"]}

    wait_until(lambda: states() <= {"failed", "skipped"}, 60, "its tasks have ended")


def test_refusals_have_reasons(
    server: AirflowServer, engine: Engine, new_dispatch: NewDispatch
) -> None:
    dispatch = new_dispatch()
    unknown = server.connect(workflow="nothing_of_that_name")
    assert_refused(server, unknown, dispatch, Refusal.UNKNOWN_WORKFLOW)
    assert list(unknown.problems()) == ["there is no such DAG"]
    unauthorized = server.connect(credentials="takeone:another password")
    assert_refused(server, unauthorized, dispatch, Refusal.UNAUTHORIZED)
    assert unauthorized.ask(dispatch.dispatch_id).state is RunState.NO_ANSWER
    assert unauthorized.cancel(dispatch) is Cancel.NO_ANSWER
    for credentials in (READER, "not.a.token", ""):
        other = server.connect(credentials=credentials)
        assert_refused(server, other, dispatch, Refusal.UNAUTHORIZED)
    invalid_id = Dispatch("run of two words", dispatch.fields, dispatch.now)
    assert_refused(server, engine, invalid_id, Refusal.INVALID_PARAMETERS)


def test_a_bearer_token_is_enough(server: AirflowServer, new_dispatch: NewDispatch) -> None:
    engine, dispatch = server.connect(credentials=server.token), new_dispatch()
    assert started(engine, dispatch).event is ACCEPTED
    assert engine.ask(dispatch.dispatch_id).state is RunState.RUNNING
    assert list(engine.problems()) == []


def test_a_token_that_was_revoked_is_renewed(
    server: AirflowServer, engine: Engine, new_dispatch: NewDispatch
) -> None:
    """Airflow restarts with another key: it answers all earlier tokens with `403 Invalid JWT token`."""
    before, after = new_dispatch(), new_dispatch()
    assert started(engine, before).event is ACCEPTED
    restart_api(
        server, AIRFLOW__API_AUTH__JWT_SECRET="a third key of the tests, as long as the other ones"
    )
    try:
        wait_until(
            lambda: engine.ask(before.dispatch_id).state is not RunState.NO_ANSWER,
            30,
            "the token was renewed",
        )
        assert started(engine, after).event is ACCEPTED
    finally:
        restart_api(server)
    assert started(engine, after).event is ClaimEvent.FOUND


def test_an_expired_token_is_stale(server: AirflowServer) -> None:
    adapter = Airflow(url=server.url, workflow=WORKFLOW, credentials=CREDENTIALS)
    client = OrchestratorClient(Settings(env="development"))

    def send(request: Request | None) -> Answer:
        assert request is not None
        answer = client.send(request).answer
        assert answer is not None
        return answer

    restart_api(server, AIRFLOW__API_AUTH__JWT_EXPIRATION_TIME="4")
    try:
        prepared = adapter.read_prepare(send(adapter.prepare()))
        assert not isinstance(prepared, Refusal)
        question = adapter.ask("run-nothing", prepared)
        assert not adapter.is_stale(send(question))
        # Airflow allows for a difference between clocks.
        wait_until(lambda: adapter.is_stale(send(question)), 60, "the token has expired")
    finally:
        restart_api(server)


def test_a_paused_dag_accepts_runs_and_doctor_reports_it(
    server: AirflowServer, engine: Engine, callbacks: CallbackReceiver, new_dispatch: NewDispatch
) -> None:
    assert list(engine.problems()) == []
    dispatch = new_dispatch()
    server.call("PATCH", f"/dags/{WORKFLOW}", {"is_paused": True})
    try:
        assert list(engine.problems()) == ["the DAG is paused: its runs stay queued"]
        assert started(engine, dispatch).event is ACCEPTED
        assert engine.ask(dispatch.dispatch_id).state is RunState.RUNNING
    finally:
        server.call("PATCH", f"/dags/{WORKFLOW}", {"is_paused": False})
    callbacks.wait_for(dispatch, "DRAFT_READY", RUN_SECONDS)


def test_doctor_reports_a_dead_scheduler(
    server: AirflowServer, engine: Engine, new_dispatch: NewDispatch
) -> None:
    dispatch = new_dispatch()
    server.scheduler.kill()
    try:
        wait_until(lambda: list(engine.problems()), 60, "the scheduler counts as dead")
        assert list(engine.problems()) == ["no scheduler is alive: runs stay queued"]
        assert started(engine, dispatch).event is ACCEPTED
    finally:
        server.start_scheduler()
    wait_for(engine, dispatch, RunState.SUCCEEDED)
