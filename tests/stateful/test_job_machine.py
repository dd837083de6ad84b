"""Random lives of jobs against the real service, each answer compared with the model of the contract."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from demo.stack import Stack
from tests.conftest import QUICK_SETTINGS
from tests.stateful.contract_model import STEPS, Answer, JobModel, error
from tests.support.behaviours import accept, refuse, reset_after_read
from tests.support.client import ApiClient
from tests.support.job_handle import JobHandle
from tests.support.orchestrator import StubOrchestrator

EXAMPLES, STEPS_EACH, MOST_JOBS = 30, 25, 2
BEHAVIOURS = {"accepts": accept(), "refuses": refuse(500), "is_silent": reset_after_read()}
MODES = st.sampled_from(["accepts", "accepts", "accepts", "refuses", "is_silent", "is_down"])
EXECUTIONS = st.sampled_from([None, "own", "own", "own", "run", "another"])
REQUESTS = st.sampled_from(["r1", "r2", "r3"])
ARTIFACTS = st.fixed_dictionaries(
    {},
    optional={
        "video_uri": st.just("s3://forged"),
        "audio_uri": st.sampled_from(["s3://a1", "s3://a2"]),
        "transcript_uri": st.just("s3://t"),
        "draft_uri": st.just("s3://d"),
        "exports": st.lists(st.sampled_from(["s3://e1", "s3://e2", "s3://e3"]), max_size=3),
        "waveform": st.just("s3://w"),
    },
)
FAILURES = {"failure_code": "F", "failure_message": "it failed", "failed_stage": "S"}


def next_steps(model: JobModel) -> list[str]:
    """The steps that an orchestrator would report of a dispatch that goes well."""
    steps = STEPS[model.status] if model.shown else []
    if model.status == "FAILED" and model.shown and model.shown.terms:
        steps = STEPS[model.shown.terms["resume_from_status"]]
    return [step for step in steps if step not in ("CANCELLED", "FAILED")]


@dataclass
class World:
    """The real service and its orchestrator."""

    stack: Stack
    orchestrator: StubOrchestrator
    client: ApiClient
    project: dict[str, Any]
    secret: str

    def let_orchestrator(self, mode: str) -> None:
        """Make the orchestrator behave as `mode` says from now on."""
        if mode == "is_down":
            self.orchestrator.stop()
            return
        self.orchestrator.default = BEHAVIOURS[mode]
        self.orchestrator.stop()
        self.orchestrator.start()


class Machine(RuleBasedStateMachine):
    """Every call that editor and orchestrator can make, right and wrong, in any order."""

    jobs = Bundle("jobs")

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.mode = "accepts"
        self.moments = 0
        self.models: list[JobModel] = []
        world.let_orchestrator("accepts")

    @initialize(target=jobs, mode=MODES, started=st.integers(0, 3))
    def begin(self, mode: str, started: int) -> JobModel:
        model = self.create(True)
        if started:
            self.change_the_orchestrator(mode)
            self.run(model)
        return model

    @precondition(lambda self: len(self.models) < MOST_JOBS)
    @rule(target=jobs, uploaded=st.booleans())
    def create(self, uploaded: bool) -> JobModel:
        answer = self.world.client.create_job(self.world.project["id"])
        model = JobModel(answer.json()["id"])
        self.models.append(model)
        self.compare(model, answer, Answer(201, {"status": "CREATED"}))
        if uploaded:
            self.confirm(model, "s3://v1")
        return model

    @rule(mode=MODES)
    def change_the_orchestrator(self, mode: str) -> None:
        if mode != self.mode:
            self.mode = mode
            self.world.let_orchestrator(mode)

    @rule(model=jobs, uri=st.sampled_from(["s3://v1", "s3://v1", "s3://v2"]))
    def confirm(self, model: JobModel, uri: str) -> None:
        answer = self.world.client.confirm_upload(model.id, uri)
        self.compare(model, answer, model.confirm(uri))

    @rule(model=jobs)
    def run(self, model: JobModel) -> None:
        self.compare(model, self.world.client.run(model.id), model.run(self.mode))

    @rule(
        model=jobs,
        request_id=REQUESTS,
        profile=st.sampled_from(["standard", "standard", "fast"]),
    )
    def retry(self, model: JobModel, request_id: str, profile: str) -> None:
        answer = self.world.client.retry(model.id, request_id, profile)
        self.compare(model, answer, model.retry(request_id, profile, self.mode))

    @rule(model=jobs, sure=st.integers(0, 3))
    def cancel(self, model: JobModel, sure: int) -> None:
        if sure == 3:  # seldom, so that jobs live long enough to be worth it
            self.compare(model, self.world.client.cancel(model.id), model.cancel())

    @rule(
        model=jobs,
        choices=st.lists(st.tuples(st.integers(0, 9), ARTIFACTS), min_size=1, max_size=6),
        execution_id=EXECUTIONS,
    )
    def report_next_steps(
        self,
        model: JobModel,
        choices: list[tuple[int, dict[str, Any]]],
        execution_id: str | None,
    ) -> None:
        for choice, artifacts in choices:
            if likely := next_steps(model):
                self.report(model, likely[choice % len(likely)], artifacts, execution_id)

    @rule(model=jobs, artifacts=ARTIFACTS, request_id=REQUESTS, resumed=st.booleans())
    def fail_and_retry(
        self, model: JobModel, artifacts: dict[str, Any], request_id: str, resumed: bool
    ) -> None:
        self.report(model, "FAILED", artifacts, "own")
        self.retry(model, request_id, "standard")
        if resumed and (likely := next_steps(model)):
            self.report(model, likely[0], {}, "own")
            self.run(model)

    @rule(
        model=jobs,
        status=st.sampled_from(list(STEPS)),
        artifacts=ARTIFACTS,
        execution_id=EXECUTIONS,
        late=st.booleans(),
    )
    def report_any_step(
        self,
        model: JobModel,
        status: str,
        artifacts: dict[str, Any],
        execution_id: str | None,
        late: bool,
    ) -> None:
        self.report(model, status, artifacts, execution_id, late=late)

    @precondition(lambda self: any(model.events for model in self.models))
    @rule(pick=st.integers(0, 99), other=st.sampled_from([{}, {}, {"correlation_id": "x"}]))
    def report_again(self, pick: int, other: dict[str, str]) -> None:
        reporting = [model for model in self.models if model.events]
        model = reporting[pick % len(reporting)]
        bodies = list(model.events.values())
        body = {**bodies[pick % len(bodies)], **other}
        self.send(model, body, self.world.secret, model.callback)

    @rule(model=jobs, status=st.sampled_from(list(STEPS)))
    def forge_a_report(self, model: JobModel, status: str) -> None:
        answer = error(401, "UNAUTHORIZED")
        self.send(model, self.body(status), "a-forged-secret", lambda _: answer)

    def report(
        self,
        model: JobModel,
        status: str,
        artifacts: dict[str, Any],
        execution_id: str | None,
        *,
        late: bool = False,
    ) -> None:
        body = self.body(status, late=late)
        if execution_id == "own" and model.shown:
            execution_id = model.shown.execution_id or model.shown.name
        if execution_id is not None:
            body["execution_id"] = execution_id
        if artifacts:
            body["artifact_updates"] = artifacts
        if status == "FAILED":
            body |= FAILURES
        self.send(model, body, self.world.secret, model.callback)

    def body(self, status: str, *, late: bool = False) -> dict[str, Any]:
        self.moments += 1
        seconds = -self.moments if late else self.moments
        moment = datetime(2026, 5, 4, tzinfo=UTC) + timedelta(seconds=seconds)
        return {
            "event_id": f"event-{self.moments}",
            "status": status,
            "occurred_at": moment.isoformat().replace("+00:00", "Z"),
            "correlation_id": "machine",
        }

    def send(
        self,
        model: JobModel,
        body: dict[str, Any],
        secret: str,
        expect: Callable[[dict[str, Any]], Answer],
    ) -> None:
        self.compare(model, self.world.client.callback(model.id, secret, body), expect(body))

    def compare(self, model: JobModel, answer: requests.Response, expected: Answer) -> None:
        """The answer, and then all that can be seen of the job."""
        body = answer.json() if answer.content else {}
        if "code" in expected.body:
            body.pop("message", None)
        else:
            body = {name: body.get(name) for name in expected.body}
        assert (answer.status_code, body) == (expected.status, expected.body)
        self.compare_job(model)

    def compare_job(self, model: JobModel) -> None:
        handle = JobHandle(self.world.client, model.id, self.world.secret)
        job, shown = handle.shown(), model.shown
        assert job["status"] == model.status
        assert job["manifest"] == model.manifest
        assert job["failure"] == model.failure
        dispatch = job["dispatch"] or {}
        seen = {name: dispatch.get(name) for name in ("phase", "reason", "execution_id")}
        assert seen == {name: getattr(shown, name, None) for name in seen}
        lines = handle.trail()
        trail = [(line["event_type"], line["prev_status"], line["new_status"]) for line in lines]
        assert trail == model.trail
        assert len(self.world.orchestrator.requests_for(model.id)) == model.posts

    def teardown(self) -> None:
        for model in self.models:
            self.compare_job(model)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, callback_secret: str) -> Iterator[World]:
    """A service that holds an unknown outcome for ever, so that nothing depends on time."""
    with StubOrchestrator() as orchestrator:
        changed = {
            "TAKEONE_ORCHESTRATOR_URL": orchestrator.url,
            "TAKEONE_UNKNOWN_HOLD_SECONDS": "0",
            "TAKEONE_ORCHESTRATOR_CONNECT_TRIES": "1",
        }
        directory = tmp_path_factory.mktemp("machine")
        with Stack(directory, settings={**QUICK_SETTINGS, **changed}) as stack:
            client = ApiClient(stack.api_url, "alice")
            project = client.create_project().json()
            yield World(stack, orchestrator, client, project, callback_secret)


def test_every_life_of_a_job_goes_as_the_contract_says(world: World) -> None:
    run_state_machine_as_test(
        lambda: Machine(world),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS_EACH,
            deadline=None,
            database=None,
            print_blob=True,
            phases=[Phase.generate],  # to make a failure smaller takes longer than a test may
            suppress_health_check=list(HealthCheck),
        ),
    )
