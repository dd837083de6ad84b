"""The adapter for Step Functions on moto, and the state machine of examples/step_functions."""

import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from domain.claim import ClaimEvent, Refusal, RunState
from orchestrators.base import Cancel, Dispatch, Outcome
from orchestrators.engine import Engine
from tests.engines import step_functions_server as sfn
from tests.engines.callbacks import CallbackReceiver, refused
from tests.engines.clients import NewDispatch, started
from tests.engines.contract import STEPS, UNAVAILABLE, EngineContract, wait_for
from tests.engines.scenarios import Scenarios
from tests.engines.step_functions_server import AwsGateway, HttpTasks, StepFunctionsServer
from tests.support.behaviours import in_turn

LONG = {"StartAt": "Wait", "States": {"Wait": {"Type": "Wait", "Seconds": 600, "End": True}}}
SHORT = {"StartAt": "Done", "States": {"Done": {"Type": "Succeed"}}}
BROKEN = {"StartAt": "Broken", "States": {"Broken": {"Type": "Fail", "Error": "Broken"}}}


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, callback_secret: str
) -> Iterator[StepFunctionsServer]:
    with StepFunctionsServer(tmp_path_factory.mktemp("step-functions")) as running:
        for name, definition in (("long", LONG), ("short", SHORT), ("broken", BROKEN)):
            running.create(name, definition)
        running.create("express", SHORT, "EXPRESS")
        with tasks_of(running, callback_secret) as tasks:
            running.create("take", definition_of(tasks))
            running.create("failing", definition_that_fails(tasks))
            yield running


def tasks_of(server: StepFunctionsServer, secret: str) -> HttpTasks:
    """Executes the HTTP tasks, with the header of the example's connection."""
    properties = sfn.example()["Connection"]["Properties"]
    key = properties["AuthParameters"]["ApiKeyAuthParameters"]
    assert key["ApiKeyValue"] == "CallbackSecret"
    return HttpTasks(server, key["ApiKeyName"], secret)


def definition_of(tasks: HttpTasks) -> Any:
    """The example's state machine, as moto can run it."""
    return sfn.runnable(sfn.example()["Take"]["Properties"]["Definition"], tasks.queue)


def definition_that_fails(tasks: HttpTasks) -> Any:
    """The same, with a transcription that fails."""
    definition = definition_of(tasks)
    (branch,) = definition["States"]["Work"]["Branches"]
    branch["States"]["Transcribe"] = {"Type": "Fail", "Error": "NoSpeech"}
    return definition


@pytest.fixture
def machine(server: StepFunctionsServer, gateway: AwsGateway) -> Callable[..., Engine]:
    """Make the engine of a state machine, behind the gateway: `machine("long")`."""
    return lambda name, **changed: server.connect(gateway.url, workflow=sfn.arn(name), **changed)


class TestStepFunctions(EngineContract):
    # An HTTP task sees the status of a refused report, not its code: the example always stops.
    test_a_run_continues_when_a_later_step_was_reported_already = None

    def test_a_report_is_repeated_with_the_same_body_until_it_is_answered(
        self, engine: Engine, new_dispatch: NewDispatch, callbacks: CallbackReceiver
    ) -> None:
        """moto may repeat a task once more after its success, so the number of tries is not compared."""
        dispatch = new_dispatch()
        callbacks.answer(dispatch, in_turn(UNAVAILABLE, UNAVAILABLE, callbacks.default))
        started(engine, dispatch)
        wait_for(engine, dispatch, RunState.SUCCEEDED)
        tries = callbacks.reports(dispatch)[:-5]
        assert len(tries) >= 3
        assert all(report == tries[0] for report in tries)
        assert callbacks.statuses(dispatch)[-5:] == STEPS[1:]

    def test_a_failure_is_reported(
        self,
        server: StepFunctionsServer,
        new_dispatch: NewDispatch,
        callbacks: CallbackReceiver,
    ) -> None:
        engine, dispatch = server.connect(workflow=sfn.arn("failing")), new_dispatch()
        started(engine, dispatch)
        wait_for(engine, dispatch, RunState.FAILED)
        assert callbacks.statuses(dispatch) == [*STEPS[:3], "FAILED"]
        report = callbacks.reports(dispatch)[-1]
        assert report["failure_message"] == "NoSpeech"
        assert report["dispatch_id"] == report["execution_id"] == dispatch.dispatch_id

    def test_a_stopped_server_accepts_nothing_and_keeps_its_runs(
        self,
        server: StepFunctionsServer,
        engine: Engine,
        new_dispatch: NewDispatch,
        callbacks: CallbackReceiver,
    ) -> None:
        """moto does not keep its runs, so only the first half is tested."""
        unprepared = server.connect()
        assert started(engine, new_dispatch()).event is ClaimEvent.ACCEPTED
        with server.away():
            for stopped in (engine, unprepared):
                dispatch = new_dispatch()
                assert started(stopped, dispatch).event is ClaimEvent.NOT_STARTED
                assert stopped.ask(dispatch.dispatch_id).state is RunState.NO_ANSWER
                assert stopped.cancel(dispatch) is Cancel.NO_ANSWER
            (problem,) = unprepared.problems()
            assert Refusal.UNAVAILABLE in problem


class TestTakeOneWithStepFunctions(Scenarios):
    pass


def test_a_start_with_other_input_is_accepted_once_the_run_is_found(
    machine: Callable[..., Engine], server: StepFunctionsServer, new_dispatch: NewDispatch
) -> None:
    engine, dispatch = machine("long"), new_dispatch()
    assert started(engine, dispatch).event is ClaimEvent.ACCEPTED
    other = Dispatch(dispatch.dispatch_id, {**dispatch.fields, "more": "x"}, dispatch.now)
    assert started(engine, other) == Outcome(ClaimEvent.FOUND, None, 400)
    assert server.executions(sfn.arn("long")).count(dispatch.dispatch_id) == 1


def test_a_failed_run_and_a_missing_machine(
    machine: Callable[..., Engine], new_dispatch: NewDispatch
) -> None:
    engine, dispatch = machine("broken"), new_dispatch()
    started(engine, dispatch)
    wait_for(engine, dispatch, RunState.FAILED)
    assert machine("missing").ask(dispatch.dispatch_id).state is RunState.NO_ANSWER


def test_a_cancelled_run_is_stopped_and_may_be_cancelled_again(
    machine: Callable[..., Engine], new_dispatch: NewDispatch
) -> None:
    engine, dispatch = machine("long"), new_dispatch()
    started(engine, dispatch)
    assert engine.cancel(dispatch) is Cancel.DONE
    assert engine.cancel(dispatch) is Cancel.DONE
    wait_for(engine, dispatch, RunState.CANCELLED)


def test_a_page_with_status_200_is_no_acceptance(
    machine: Callable[..., Engine],
    gateway: AwsGateway,
    server: StepFunctionsServer,
    new_dispatch: NewDispatch,
) -> None:
    dispatch = new_dispatch()
    gateway.answer_next_start(200)
    assert started(machine("long"), dispatch).event is ClaimEvent.LOST
    assert dispatch.dispatch_id not in server.executions(sfn.arn("long"))


@pytest.mark.parametrize(
    ("name", "credentials", "refusal"),
    [
        ("missing", sfn.CREDENTIALS, Refusal.UNKNOWN_WORKFLOW),
        ("express", sfn.CREDENTIALS, Refusal.UNSUPPORTED),
        ("long", f"{sfn.KEY}:another secret", Refusal.UNAUTHORIZED),
        ("long", f"AKIDSTRANGER:{sfn.SECRET}", Refusal.UNAUTHORIZED),
    ],
)
def test_a_workflow_that_cannot_start_is_refused_before_a_start_is_sent(
    machine: Callable[..., Engine],
    gateway: AwsGateway,
    new_dispatch: NewDispatch,
    name: str,
    credentials: str,
    refusal: Refusal,
) -> None:
    engine = machine(name, credentials=credentials)
    status = 200 if name == "express" else 400
    assert started(engine, new_dispatch()) == Outcome(ClaimEvent.REFUSED, refusal, status)
    assert gateway.starts == []
    assert [str(refusal) in problem for problem in engine.problems()] == [True]


def test_doctor_finds_nothing_wrong_with_the_example(engine: Engine) -> None:
    assert list(engine.problems()) == []


def test_withdrawn_credentials_refuse_a_start_and_prove_nothing_about_a_run(
    machine: Callable[..., Engine], gateway: AwsGateway, new_dispatch: NewDispatch
) -> None:
    engine, before, after = machine("long"), new_dispatch(), new_dispatch()
    assert started(engine, before).event is ClaimEvent.ACCEPTED
    gateway.secrets.clear()
    assert started(engine, after) == Outcome(ClaimEvent.REFUSED, Refusal.UNAUTHORIZED, 400)
    assert engine.ask(before.dispatch_id).state is RunState.NO_ANSWER
    gateway.secrets[sfn.KEY] = sfn.SECRET
    assert started(engine, after).event is ClaimEvent.ACCEPTED


def test_the_example_is_a_valid_template(server: StepFunctionsServer) -> None:
    linted = subprocess.run(
        [server.lint, "--regions", sfn.REGION, "--", sfn.TEMPLATE],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (linted.returncode, linted.stdout) == (0, "")


@pytest.mark.parametrize(
    ("resume_from_status", "statuses"),
    [("UPLOADED", STEPS), ("AUDIO_READY", STEPS[2:]), ("DRAFT_READY", ["EDITING"])],
)
def test_the_example_resumes_after_each_checkpoint(
    engine: Engine,
    callbacks: CallbackReceiver,
    new_dispatch: NewDispatch,
    resume_from_status: str,
    statuses: list[str],
) -> None:
    dispatch = new_dispatch(
        resume_from_status=resume_from_status, checkpoint_ref="s3://a", model_profile="fast"
    )
    started(engine, dispatch)
    wait_for(engine, dispatch, RunState.SUCCEEDED)
    assert callbacks.statuses(dispatch) == statuses


def test_the_example_fails_after_a_permanent_refusal_of_its_report(
    engine: Engine, callbacks: CallbackReceiver, new_dispatch: NewDispatch
) -> None:
    dispatch = new_dispatch()
    callbacks.answer(dispatch, refused(401, "UNAUTHORIZED"))
    started(engine, dispatch)
    wait_for(engine, dispatch, RunState.FAILED)
    assert callbacks.statuses(dispatch) == ["AUDIO_EXTRACTING", "FAILED"]
