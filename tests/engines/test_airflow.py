"""The adapter for Airflow, and the example, on a real Airflow."""

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
from tests.engines.callbacks import CallbackReceiver, refused
from tests.engines.clients import started
from tests.engines.conftest import NewDispatch
from tests.engines.contract import EngineContract, wait_for
from tests.engines.scenarios import Scenarios

ACCEPTED = ClaimEvent.ACCEPTED
WALK_SECONDS = 90.0


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, callback_secret: str
) -> Iterator[AirflowServer]:
    with AirflowServer(tmp_path_factory.mktemp("airflow"), callback_secret) as running:
        yield running


@pytest.fixture
def engine(server: AirflowServer) -> Engine:
    return server.speak()


def restart_api(server: AirflowServer, **settings: str) -> None:
    server.kill_server()
    server.start_server(**settings)


class TestAirflow(EngineContract):
    """What every engine's adapter must do."""


class TestTakeOneWithAirflow(Scenarios):
    """What the whole service must do with every engine."""

    start_seconds = 6
    end_seconds = 120


def test_the_tasks_of_a_cancelled_run_end(
    server: AirflowServer, callbacks: CallbackReceiver, new_dispatch: NewDispatch
) -> None:
    engine, dispatch = server.speak(), new_dispatch()
    job_id = str(dispatch.fields["job_id"])
    callbacks.behaviours[job_id] = refused(503, "SERVICE_UNAVAILABLE")
    assert started(engine, dispatch).event is ACCEPTED
    callbacks.wait_for(job_id, "AUDIO_EXTRACTING", WALK_SECONDS)
    assert engine.cancel(dispatch) is Cancel.DONE
    tasks = f"/dags/{WORKFLOW}/dagRuns/{dispatch.dispatch_id}/taskInstances"

    def states() -> set[str]:
        return {task["state"] for task in server.call("GET", tasks)["task_instances"]}

    wait_until(lambda: states() <= {"failed", "skipped"}, 60, "its tasks have ended")


def test_refusals_say_why(server: AirflowServer, engine: Engine, new_dispatch: NewDispatch) -> None:
    def refused_for(engine: Engine, dispatch: Dispatch) -> str | None:
        outcome = started(engine, dispatch)
        assert outcome.event is ClaimEvent.REFUSED
        assert server.runs(dispatch.dispatch_id) == 0
        return outcome.reason

    dispatch = new_dispatch()
    unknown = server.speak(workflow="nothing_of_that_name")
    assert refused_for(unknown, dispatch) == Refusal.UNKNOWN_WORKFLOW
    assert list(unknown.problems()) == ["there is no such DAG"]
    unauthorized = server.speak(credentials="takeone:another password")
    assert refused_for(unauthorized, dispatch) == Refusal.UNAUTHORIZED
    assert unauthorized.ask(dispatch.dispatch_id).state is RunState.NO_ANSWER
    assert unauthorized.cancel(dispatch) is Cancel.NO_ANSWER
    assert refused_for(server.speak(credentials=READER), dispatch) == Refusal.UNAUTHORIZED
    for bearer in ("not.a.token", ""):
        with_bearer = server.speak(credentials=bearer)
        assert refused_for(with_bearer, dispatch) == Refusal.UNAUTHORIZED
    named_badly = Dispatch("run of two words", dispatch.fields, dispatch.now)
    assert refused_for(engine, named_badly) == Refusal.INVALID_PARAMETERS


def test_a_bearer_token_is_enough(server: AirflowServer, new_dispatch: NewDispatch) -> None:
    engine, dispatch = server.speak(credentials=server.token), new_dispatch()
    assert started(engine, dispatch).event is ACCEPTED
    assert engine.ask(dispatch.dispatch_id).state is RunState.RUNNING
    assert list(engine.problems()) == []


def test_a_token_that_no_longer_counts_is_renewed_once(
    server: AirflowServer, engine: Engine, new_dispatch: NewDispatch
) -> None:
    """Airflow starts again with another key: every token of before is a `403 Invalid JWT token`."""
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


def test_a_token_whose_life_is_over_is_stale(server: AirflowServer) -> None:
    adapter = Airflow(url=server.url, workflow=WORKFLOW, credentials=CREDENTIALS)
    client = OrchestratorClient(Settings(env="development"))

    def asked(request: Request | None) -> Answer:
        assert request is not None
        answer = client.send(request, lambda: True).answer
        assert answer is not None
        return answer

    restart_api(server, AIRFLOW__API_AUTH__JWT_EXPIRATION_TIME="4")
    try:
        prepared = adapter.read_prepare(asked(adapter.prepare()))
        assert not isinstance(prepared, Refusal)
        question = adapter.ask("run-nothing", prepared)
        assert not adapter.is_stale(asked(question))
        # Airflow allows for clocks that are apart.
        wait_until(lambda: adapter.is_stale(asked(question)), 60, "the token has expired")
    finally:
        restart_api(server)


def test_a_paused_dag_takes_runs_and_doctor_says_so(
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
    callbacks.wait_for(str(dispatch.fields["job_id"]), "DRAFT_READY", WALK_SECONDS)


def test_a_dead_scheduler_is_seen_by_doctor(
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
    wait_for(engine, dispatch.dispatch_id, RunState.SUCCEEDED)
