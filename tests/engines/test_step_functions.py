"""Step Functions through the engine's client, on moto; and the state machine of examples/step_functions."""

import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from devstack.waiting import wait_until
from domain.claim import ClaimEvent, Refusal, RunState
from orchestrators.base import Cancel, Dispatch, Outcome
from orchestrators.client import OrchestratorClient
from orchestrators.engine import Engine
from orchestrators.registry import make_adapter
from settings import Settings
from tests.engines import step_functions_server as sfn
from tests.engines.callbacks import CallbackReceiver, refused
from tests.engines.conftest import NewDispatch
from tests.engines.scenarios import Scenarios
from tests.engines.step_functions_server import AwsGateway, HttpTasks, StepFunctionsServer

LONG = {"StartAt": "Wait", "States": {"Wait": {"Type": "Wait", "Seconds": 600, "End": True}}}
SHORT = {"StartAt": "Done", "States": {"Done": {"Type": "Succeed"}}}
BROKEN = {"StartAt": "Broken", "States": {"Broken": {"Type": "Fail", "Error": "Broken"}}}
END_SECONDS = 30.0
PATIENCE_SECONDS = 3.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StepFunctionsServer]:
    with StepFunctionsServer(tmp_path_factory.mktemp("step-functions")) as running:
        for name, definition in (("long", LONG), ("short", SHORT), ("broken", BROKEN)):
            running.create(name, definition)
        running.create("express", SHORT, "EXPRESS")
        yield running


@pytest.fixture(scope="module")
def gateway_running(server: StepFunctionsServer) -> Iterator[AwsGateway]:
    with AwsGateway(server.url) as running:
        yield running


@pytest.fixture
def gateway(gateway_running: AwsGateway) -> AwsGateway:
    gateway_running.reset_behaviour()
    return gateway_running


def engine_at(url: str, name: str, credentials: str = sfn.CREDENTIALS) -> Engine:
    """Take One's side, as its settings make it."""
    settings = Settings(
        env="development",
        orchestrator_kind="step_functions",
        orchestrator_url=url,
        orchestrator_workflow=sfn.arn(name),
        orchestrator_credentials=credentials,
        orchestrator_timeout_seconds=PATIENCE_SECONDS,
        orchestrator_connect_timeout_seconds=1,
    )
    return Engine(OrchestratorClient(settings), make_adapter(settings))


@pytest.fixture
def engine(gateway: AwsGateway) -> Callable[..., Engine]:
    """Makes the engine of a state machine: `engine("long")`."""
    return lambda name, **options: engine_at(gateway.url + "/", name, **options)


def start(engine: Engine, dispatch: Dispatch) -> Outcome:
    return engine.start(dispatch, lambda: True, time.monotonic())


def ended(engine: Engine, dispatch: Dispatch, state: RunState) -> None:
    """Wait until asking says so."""
    found = lambda: engine.ask(dispatch.dispatch_id).state is state  # noqa: E731
    wait_until(found, END_SECONDS, f"the run is {state}")


def test_the_same_dispatch_is_started_once_while_it_runs_and_after_it_has_ended(
    engine: Callable[..., Engine], server: StepFunctionsServer, new_dispatch: NewDispatch
) -> None:
    long, dispatch = engine("long"), new_dispatch()
    assert start(long, dispatch).event is ClaimEvent.ACCEPTED
    assert start(long, dispatch).event is ClaimEvent.ACCEPTED
    other = Dispatch(dispatch.dispatch_id, {**dispatch.fields, "more": "x"}, dispatch.now)
    assert start(long, other) == Outcome(ClaimEvent.FOUND, None, 400)
    assert server.executions(sfn.arn("long")).count(dispatch.dispatch_id) == 1

    short, dispatch = engine("short"), new_dispatch()
    assert start(short, dispatch).event is ClaimEvent.ACCEPTED
    ended(short, dispatch, RunState.SUCCEEDED)
    assert start(short, dispatch) == Outcome(ClaimEvent.FOUND, None, 400)
    assert server.executions(sfn.arn("short")) == [dispatch.dispatch_id]


def test_sixteen_starts_at_once_are_one_execution(
    engine: Callable[..., Engine], server: StepFunctionsServer, new_dispatch: NewDispatch
) -> None:
    long, dispatch = engine("long"), new_dispatch()
    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(lambda _: start(long, dispatch), range(16)))
    assert {outcome.event for outcome in outcomes} <= {ClaimEvent.ACCEPTED, ClaimEvent.FOUND}
    assert server.executions(sfn.arn("long")).count(dispatch.dispatch_id) == 1


def test_what_asking_says(engine: Callable[..., Engine], new_dispatch: NewDispatch) -> None:
    unknown = new_dispatch()
    assert engine("long").ask(unknown.dispatch_id).state is RunState.NOT_FOUND
    assert engine("missing").ask(unknown.dispatch_id).state is RunState.NO_ANSWER
    running, broken = new_dispatch(), new_dispatch()
    start(engine("long"), running)
    start(engine("broken"), broken)
    assert engine("long").ask(running.dispatch_id).state is RunState.RUNNING
    ended(engine("broken"), broken, RunState.FAILED)


def test_cancel_stops_what_runs_and_leaves_what_has_ended(
    engine: Callable[..., Engine], server: StepFunctionsServer, new_dispatch: NewDispatch
) -> None:
    long, running = engine("long"), new_dispatch()
    assert long.cancel(running) is Cancel.NOT_FOUND
    start(long, running)
    assert long.cancel(running) is Cancel.DONE
    assert long.cancel(running) is Cancel.DONE
    ended(long, running, RunState.CANCELLED)
    assert server.status(sfn.arn("long"), running.dispatch_id) == "ABORTED"
    short, finished = engine("short"), new_dispatch()
    start(short, finished)
    ended(short, finished, RunState.SUCCEEDED)
    assert short.cancel(finished) is Cancel.DONE
    assert short.ask(finished.dispatch_id).state is RunState.SUCCEEDED


def test_a_lost_answer_is_found_by_asking(
    engine: Callable[..., Engine],
    gateway: AwsGateway,
    server: StepFunctionsServer,
    new_dispatch: NewDispatch,
) -> None:
    dispatch = new_dispatch()
    gateway.drop_next_answers()
    assert start(engine("long"), dispatch).event is ClaimEvent.FOUND
    assert server.executions(sfn.arn("long")).count(dispatch.dispatch_id) == 1


def test_a_start_that_a_gateway_holds_is_unknown_and_then_found_once(
    engine: Callable[..., Engine],
    gateway: AwsGateway,
    server: StepFunctionsServer,
    new_dispatch: NewDispatch,
) -> None:
    long, dispatch = engine("long"), new_dispatch()
    gateway.hold_next_start(PATIENCE_SECONDS + 2)
    assert start(long, dispatch).event is ClaimEvent.LOST
    assert start(long, dispatch).event is ClaimEvent.ACCEPTED  # the resend
    wait_until(lambda: len(_answered(gateway)) == 2, END_SECONDS, "both starts have arrived")
    assert server.executions(sfn.arn("long")).count(dispatch.dispatch_id) == 1
    assert long.ask(dispatch.dispatch_id).state is RunState.RUNNING


def _answered(gateway: AwsGateway) -> list[int]:
    return [each.answered for each in gateway.starts if each.answered is not None]


def test_a_page_that_says_200_is_no_acceptance(
    engine: Callable[..., Engine],
    gateway: AwsGateway,
    server: StepFunctionsServer,
    new_dispatch: NewDispatch,
) -> None:
    dispatch = new_dispatch()
    gateway.answer_next_start(200)
    assert start(engine("long"), dispatch).event is ClaimEvent.LOST
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
def test_what_cannot_start_is_refused_before_a_start_leaves_and_doctor_says_why(
    engine: Callable[..., Engine],
    gateway: AwsGateway,
    new_dispatch: NewDispatch,
    name: str,
    credentials: str,
    refusal: Refusal,
) -> None:
    there = engine(name, credentials=credentials)
    assert start(there, new_dispatch()) == Outcome(
        ClaimEvent.REFUSED, refusal, 200 if name == "express" else 400
    )
    assert gateway.starts == []
    assert [str(refusal) in problem for problem in there.problems()] == [True]


def test_doctor_has_nothing_to_say_of_a_machine_that_is_ready(
    engine: Callable[..., Engine],
) -> None:
    assert list(engine("long").problems()) == []


def test_credentials_that_are_withdrawn_refuse_a_start_and_no_more(
    engine: Callable[..., Engine], gateway: AwsGateway, new_dispatch: NewDispatch
) -> None:
    long, before, after = engine("long"), new_dispatch(), new_dispatch()
    assert start(long, before).event is ClaimEvent.ACCEPTED
    gateway.secrets.clear()
    try:
        assert start(long, after) == Outcome(ClaimEvent.REFUSED, Refusal.UNAUTHORIZED, 400)
        assert long.ask(before.dispatch_id).state is RunState.NO_ANSWER
    finally:
        gateway.secrets[sfn.KEY] = sfn.SECRET
    assert start(long, after).event is ClaimEvent.ACCEPTED


def test_an_engine_that_is_stopped(
    tmp_path_factory: pytest.TempPathFactory, new_dispatch: NewDispatch
) -> None:
    with StepFunctionsServer(tmp_path_factory.mktemp("stopped")) as own:
        own.create("long", LONG)
        known, unknown = engine_at(own.url, "long"), engine_at(own.url, "long")
        assert start(known, new_dispatch()).event is ClaimEvent.ACCEPTED
    for stopped in (known, unknown):
        dispatch = new_dispatch()
        assert start(stopped, dispatch).event is ClaimEvent.NOT_STARTED
        assert stopped.ask(dispatch.dispatch_id).state is RunState.NO_ANSWER
        assert stopped.cancel(dispatch) is Cancel.NO_ANSWER
    [problem] = unknown.problems()
    assert Refusal.UNAVAILABLE in problem


# The example


@pytest.fixture(scope="module")
def tasks(server: StepFunctionsServer, callback_secret: str) -> Iterator[HttpTasks]:
    """What does the HTTP tasks, with the header of the example's own connection."""
    given = sfn.example()["Connection"]["Properties"]["AuthParameters"]["ApiKeyAuthParameters"]
    assert given["ApiKeyValue"] == "CallbackSecret"
    with HttpTasks(server, given["ApiKeyName"], callback_secret) as running:
        yield running


def definition(tasks: HttpTasks) -> dict[str, Any]:
    """The example's state machine, as moto can run it."""
    made: dict[str, Any] = sfn.runnable(
        sfn.example()["Take"]["Properties"]["Definition"], tasks.queue
    )
    return made


@pytest.fixture(scope="module")
def take(server: StepFunctionsServer, tasks: HttpTasks) -> str:
    server.create("take", definition(tasks))
    return "take"


WAY = [
    "AUDIO_EXTRACTING",
    "AUDIO_READY",
    "TRANSCRIBING",
    "TRANSCRIPT_READY",
    "GENERATING",
    "DRAFT_READY",
]


def test_the_example_is_a_sound_template(server: StepFunctionsServer) -> None:
    linted = subprocess.run(
        [server.lint, "--regions", sfn.REGION, "--", sfn.TEMPLATE],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (linted.returncode, linted.stdout) == (0, "")


def test_the_example_walks_a_job_to_its_draft(
    engine: Callable[..., Engine],
    take: str,
    callbacks: CallbackReceiver,
    new_dispatch: NewDispatch,
) -> None:
    dispatch = new_dispatch()
    job_id = str(dispatch.fields["job_id"])
    assert start(engine(take), dispatch).event is ClaimEvent.ACCEPTED
    ended(engine(take), dispatch, RunState.SUCCEEDED)
    reports = callbacks.reports(job_id)
    assert [report["status"] for report in reports] == WAY
    for report in reports:
        assert report["dispatch_id"] == report["execution_id"] == dispatch.dispatch_id
    times = [report["occurred_at"] for report in reports]
    assert times == sorted(times)
    artifacts = [report["artifact_updates"] for report in reports]
    assert [list(each) for each in artifacts] == [
        [], ["audio_uri"], [], ["transcript_uri"], [], ["draft_uri"]]  # fmt: skip


@pytest.mark.parametrize(
    ("resume_from_status", "statuses"),
    [("UPLOADED", WAY), ("AUDIO_READY", WAY[2:]), ("TRANSCRIPT_READY", WAY[4:]), ("DRAFT_READY", ["EDITING"])],
)  # fmt: skip
def test_the_example_goes_on_behind_a_checkpoint(
    engine: Callable[..., Engine],
    take: str,
    callbacks: CallbackReceiver,
    new_dispatch: NewDispatch,
    resume_from_status: str,
    statuses: list[str],
) -> None:
    dispatch = new_dispatch(
        resume_from_status=resume_from_status, checkpoint_ref="s3://a", model_profile="fast"
    )
    start(engine(take), dispatch)
    ended(engine(take), dispatch, RunState.SUCCEEDED)
    assert callbacks.statuses(str(dispatch.fields["job_id"])) == statuses


def test_the_example_sends_the_same_report_until_it_is_answered(
    engine: Callable[..., Engine],
    take: str,
    callbacks: CallbackReceiver,
    new_dispatch: NewDispatch,
) -> None:
    dispatch = new_dispatch()
    job_id = str(dispatch.fields["job_id"])
    callbacks.behaviours[job_id] = refused(503, "SERVICE_UNAVAILABLE")
    start(engine(take), dispatch)
    wait_until(lambda: len(callbacks.reports(job_id)) >= 3, END_SECONDS, "it has tried three times")
    assert all(report == callbacks.reports(job_id)[0] for report in callbacks.reports(job_id))
    del callbacks.behaviours[job_id]
    ended(engine(take), dispatch, RunState.SUCCEEDED)
    assert callbacks.statuses(job_id)[-5:] == WAY[1:]


def test_the_example_stops_where_another_execution_is_at_it(
    engine: Callable[..., Engine],
    take: str,
    callbacks: CallbackReceiver,
    new_dispatch: NewDispatch,
) -> None:
    dispatch = new_dispatch()
    job_id = str(dispatch.fields["job_id"])
    callbacks.behaviours[job_id] = refused(409, "EXECUTION_SUPERSEDED")
    start(engine(take), dispatch)
    ended(engine(take), dispatch, RunState.SUCCEEDED)
    assert callbacks.statuses(job_id) == ["AUDIO_EXTRACTING"]


def test_the_example_reports_that_its_work_failed(
    engine: Callable[..., Engine],
    server: StepFunctionsServer,
    tasks: HttpTasks,
    callbacks: CallbackReceiver,
    new_dispatch: NewDispatch,
) -> None:
    made = definition(tasks)
    [branch] = made["States"]["Work"]["Branches"]
    branch["States"]["Transcribe"] = {"Type": "Fail", "Error": "NoSpeech"}
    server.create("failing", made)
    dispatch = new_dispatch()
    job_id = str(dispatch.fields["job_id"])
    start(engine("failing"), dispatch)
    ended(engine("failing"), dispatch, RunState.FAILED)
    assert callbacks.statuses(job_id) == [*WAY[:3], "FAILED"]
    failed = callbacks.reports(job_id)[-1]
    assert failed["failure_message"] == "NoSpeech"
    assert failed["dispatch_id"] == failed["execution_id"] == dispatch.dispatch_id


def test_the_example_fails_for_a_mistake_of_its_own_and_asks_show_it(
    engine: Callable[..., Engine],
    take: str,
    callbacks: CallbackReceiver,
    new_dispatch: NewDispatch,
) -> None:
    dispatch = new_dispatch()
    job_id = str(dispatch.fields["job_id"])
    callbacks.behaviours[job_id] = refused(401, "UNAUTHORIZED")
    start(engine(take), dispatch)
    ended(engine(take), dispatch, RunState.FAILED)
    assert callbacks.statuses(job_id) == ["AUDIO_EXTRACTING", "FAILED"]


# With the whole service


@pytest.mark.usefixtures("take")
class TestTakeOneWithStepFunctions(Scenarios):
    """What the whole service must do with every engine."""
