"""Random calls of editor, operator and orchestrator; the answers are compared with the contract's model."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import uuid4

import pytest
import requests
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from devstack.redis_server import RedisServer
from devstack.stack import Stack
from devstack.waiting import wait_until
from settings import Settings
from tasks import queues
from tests.chaos import intruders
from tests.conftest import NewStack
from tests.stateful.contract_model import STEPS, Answer, JobModel, error
from tests.support.behaviours import (
    Behaviour,
    Request,
    accept,
    answer,
    early_hints,
    refuse,
    reset_after_read,
)
from tests.support.client import ApiClient
from tests.support.job_handle import JobHandle
from tests.support.orchestrator import StubOrchestrator

EXAMPLES, THOROUGH_EXAMPLES, STEPS_EACH, MOST_JOBS = 20, 60, 25, 2
WORKFLOW = "Workflow/run"
ACCEPT = accept(body=b'{"invocationId": "inv", "status": "Accepted"}')
BEHAVIOURS = {
    "accepts": ACCEPT,
    "refuses": refuse(409),
    "is_silent": reset_after_read(),
    "is_lost": reset_after_read(),
    "hints_and_accepts": early_hints(ACCEPT),
    "hints_and_refuses": early_hints(refuse(409)),
    "hints_and_is_silent": early_hints(reset_after_read()),
}
HINTS = [mode for mode in BEHAVIOURS if mode.startswith("hints")]
MODES = ["accepts", "accepts", "accepts", "accepts", "refuses", "is_silent", "is_down", *HINTS]
# "control" is rare because it takes a second.
INTRUSIONS = ["store"] * 3 + ["queues"] * 3 + ["control"]
# How a callback with the same event_id may differ: only `occurred_at` may, without being refused.
CHANGES = [{}, {"occurred_at": "2026-05-05T00:00:00Z"}, {"correlation_id": "x"}]
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
KEYS = st.sampled_from(["k1", "k2"])
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from([None, "One", "Two"]),
        "metadata": st.sampled_from([{}, {"a": "1"}, {"a": "1", "b": "2"}]),
    },
)
REASON = "An operator looked at it."
FAILURES = {"failure_code": "F", "failure_message": "it failed", "failed_stage": "S"}


def next_steps(model: JobModel) -> list[str]:
    """Return the statuses that an orchestrator could report next, if all goes well."""
    steps = STEPS[model.status] if model.dispatch else []
    if model.status == "FAILED" and model.dispatch and model.dispatch.terms:
        steps = STEPS[model.dispatch.terms["resume_from_status"]]
    return [step for step in steps if step not in ("CANCELLED", "FAILED")]


class QueryableOrchestrator(StubOrchestrator):
    """Speaks Restate's protocol; a query finds the dispatches that it accepted or whose answer was lost.

    Queries for dispatches that it never answered stay unanswered, so that nothing depends on time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mode = "accepts"
        self.known: set[str] = set()

    def behaviour_for(self, request: Request) -> Behaviour:
        if request.method == "POST":
            if self.mode in ("accepts", "hints_and_accepts", "is_lost"):
                self.known.add(str(request.dispatch_id))
            return super().behaviour_for(request)
        dispatch = request.path.split("/")[-2]
        found = answer(200, b"{}", {"x-restate-id": "inv"})
        return found if dispatch in self.known else reset_after_read()


@dataclass
class World:
    """The real service and its orchestrator."""

    stack: Stack
    orchestrator: StubOrchestrator
    client: ApiClient
    operator: ApiClient
    project: dict[str, Any]
    secret: str
    queryable: bool
    jobs_kept: int = 0

    @property
    def redis(self) -> RedisServer:
        return self.stack.redis

    @property
    def settings(self) -> Settings:
        given = self.stack.settings
        return Settings(**{name.removeprefix("TAKEONE_").lower(): given[name] for name in given})

    def set_mode(self, mode: str) -> None:
        """Make the orchestrator behave as `mode` says from now on; its open connections are closed."""
        if mode == "is_down":
            self.orchestrator.stop()
            return
        if isinstance(self.orchestrator, QueryableOrchestrator):
            self.orchestrator.mode = mode
        self.orchestrator.default = BEHAVIOURS[mode]
        self.orchestrator.stop()
        self.orchestrator.start()


class Machine(RuleBasedStateMachine):
    """Every call that editor, operator and orchestrator can make, valid or not, in any order."""

    jobs = Bundle("jobs")

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.mode = "accepts"
        self.clock = 0
        self.models: list[JobModel] = []
        self.name = str(uuid4())
        self.began = datetime.now(UTC)
        self.keys: dict[str, tuple[dict[str, Any], JobModel]] = {}
        world.set_mode("accepts")

    @initialize(target=jobs, data=st.data(), started=st.integers(0, 3), fields=FIELDS)
    def begin(self, data: st.DataObject, started: int, fields: dict[str, Any]) -> JobModel:
        model = self.create(True, "k1", fields)
        if started:
            self.change_the_orchestrator(data)
            self.run(model)
        return model

    @precondition(lambda self: sum(not model.is_deleted for model in self.models) < MOST_JOBS)
    @rule(target=jobs, uploaded=st.booleans(), key=st.none() | KEYS, fields=FIELDS)
    def create(self, uploaded: bool, key: str | None, fields: dict[str, Any]) -> JobModel:
        if key in self.keys:
            return self.create_again(key, fields)
        answer = self.create_job(key, fields)
        model = JobModel(answer.json()["id"], fields, self.world.queryable)
        self.models.append(model)
        if key is not None:
            self.keys[key] = (fields, model)
        self.compare(model, answer, Answer(201, {"status": "CREATED", **fields}))
        if uploaded:
            self.confirm(model, "s3://v1")
        return model

    @precondition(lambda self: self.keys)
    @rule(target=jobs, key=KEYS, fields=FIELDS, same=st.booleans())
    def create_with_the_same_key(self, key: str, fields: dict[str, Any], same: bool) -> JobModel:
        key = key if key in self.keys else next(iter(self.keys))
        return self.create_again(key, self.keys[key][0] if same else fields)

    def create_again(self, key: str, fields: dict[str, Any]) -> JobModel:
        first, model = self.keys[key]
        expected = error(409, "IDEMPOTENCY_KEY_MISMATCH")
        if fields == first and not model.is_deleted:
            expected = Answer(200, {"id": model.id, "status": model.status, **model.fields})
        self.compare(model, self.create_job(key, fields), expected)
        return model

    def create_job(self, key: str | None, fields: dict[str, Any]) -> requests.Response:
        headers = {"Idempotency-Key": f"{self.name}-{key}"} if key else {}
        return self.world.client.create_job(self.world.project["id"], fields, headers=headers)

    @rule(model=jobs, edits=st.lists(FIELDS, min_size=1, max_size=4))
    def edit(self, model: JobModel, edits: list[dict[str, Any]]) -> None:
        for fields in edits:
            answer = self.world.client.edit_job(model.id, **fields)
            self.compare(model, answer, model.edit(fields))

    @rule(model=jobs, deletes=st.booleans(), again=st.booleans())
    def end_and_delete(self, model: JobModel, deletes: bool, again: bool) -> None:
        if deletes:
            self.cancel(model, 3)
            self.delete(model)
        for key, (fields, created) in list(self.keys.items()):
            if again and created is model:
                self.create_again(key, fields)

    @rule(model=jobs)
    def delete(self, model: JobModel) -> None:
        expected, answers = model.delete(), []

        def is_deleted() -> bool:
            answers.append(self.world.client.delete_job(model.id))
            return expected.status != 204 or answers[-1].status_code == 204

        wait_until(is_deleted, 30, "the cancel is delivered, and the job can be deleted")
        self.compare(model, answers[-1], expected)

    @rule(data=st.data())
    def change_the_orchestrator(self, data: st.DataObject) -> None:
        lost = ["is_lost", "is_lost"] if self.world.queryable else []
        self.set_mode(data.draw(st.sampled_from([*MODES, *lost])))

    def set_mode(self, mode: str) -> None:
        if mode != self.mode:
            self.mode = mode
            self.world.set_mode(mode)

    @rule(kind=st.sampled_from(INTRUSIONS))
    def intrude(self, kind: str) -> None:
        if kind == "store" or queues.is_redis(self.world.settings):
            intruders.INTRUSIONS[kind](self.world)

    @rule(model=jobs, uri=st.sampled_from(["s3://v1", "s3://v1", "s3://v2"]))
    def confirm(self, model: JobModel, uri: str) -> None:
        answer = self.world.client.confirm_upload(model.id, uri)
        self.compare(model, answer, model.confirm(uri))

    @rule(model=jobs)
    def run(self, model: JobModel) -> None:
        self.compare(model, self.world.client.run(model.id), model.run(self.mode))

    @rule(
        model=jobs, request_id=REQUESTS, profile=st.sampled_from(["standard", "standard", "fast"])
    )
    def retry(self, model: JobModel, request_id: str, profile: str) -> None:
        answer = self.world.client.retry(model.id, request_id, profile)
        self.compare(model, answer, model.retry(request_id, profile, self.mode))

    @rule(model=jobs, chance=st.integers(0, 3))
    def cancel(self, model: JobModel, chance: int) -> None:
        if chance == 3:  # rarely, so that jobs live long enough
            self.compare(model, self.world.client.cancel(model.id), model.cancel())

    @precondition(lambda self: any(model.dispatch for model in self.models))
    @rule(model=jobs)
    def ask(self, model: JobModel) -> None:
        self.compare(model, self.operate(model, "ask"), model.ask(self.mode))

    @rule(
        model=jobs,
        settlement=st.sampled_from(["sent", "release", "release"]),
        mode=st.sampled_from(["accepts", "is_silent", "is_silent"]),
        again=st.booleans(),
    )
    def start_and_settle(self, model: JobModel, settlement: str, mode: str, again: bool) -> None:
        self.set_mode(mode)
        for _ in range(1 + again):
            if model.status == "FAILED":
                self.retry(model, "r1", "standard")
            else:
                self.run(model)
            self.settle(model, settlement)
            self.set_mode("accepts")

    @precondition(lambda self: any(model.dispatch for model in self.models))
    @rule(model=jobs, settlement=st.sampled_from(["sent", "release", "release"]))
    def settle(self, model: JobModel, settlement: str) -> None:
        answer = self.operate(model, "settle", **{"as": settlement})
        self.compare(model, answer, model.settle(settlement))

    @rule(model=jobs, chance=st.integers(0, 3))
    def cancel_as_an_operator(self, model: JobModel, chance: int) -> None:
        if chance == 3:
            self.compare(model, self.operate(model, "cancel"), model.cancel())

    @rule(model=jobs, retried=st.integers(0, 2))
    def fail_as_an_operator(self, model: JobModel, retried: int) -> None:
        self.compare(model, self.operate(model, "fail"), model.fail(REASON))
        for _ in range(retried):
            self.retry_as_an_operator()
        if retried and (steps := next_steps(model)):
            self.report(model, steps[0], {}, "own")

    def operate(self, model: JobModel, action: str, **body: str) -> requests.Response:
        path = f"/operations/jobs/{model.id}/{action}"
        return self.world.operator.post(path, {"reason": REASON, **body})

    @precondition(lambda self: any(model.is_failed for model in self.models))
    @rule()
    def retry_as_an_operator(self) -> None:
        body = {
            "failed_since": self.began.isoformat(),
            "model_profile": "standard",
            "project_id": self.world.project["id"],
        }
        answer = self.world.operator.post("/operations/retries", body)
        assert answer.status_code == 200, answer.text
        items = answer.json()["items"]
        found = {item["job_id"]: (item["outcome"], item["code"]) for item in items}
        expected = {model.id: model.retry_by_operator(self.mode) for model in self.models}
        assert found == {job_id: outcome for job_id, outcome in expected.items() if outcome}
        for model in self.models:
            if model.id in found:
                self.wait_for_the_dispatch(model)
                self.compare_job(model)

    def wait_for_the_dispatch(self, model: JobModel) -> None:
        handle = JobHandle(self.world.client, model.id, self.world.secret)

        def is_settled() -> bool:
            phase = (handle.dispatch or {}).get("phase")
            return bool(model.dispatch is None or phase == model.dispatch.phase)

        wait_until(is_settled, 10, "the dispatch is settled, although no caller waits for it")

    @rule(
        model=jobs,
        choices=st.lists(st.tuples(st.integers(0, 9), ARTIFACTS), min_size=1, max_size=6),
        execution_id=EXECUTIONS,
    )
    def report_next_steps(
        self, model: JobModel, choices: list[tuple[int, dict[str, Any]]], execution_id: str | None
    ) -> None:
        for choice, artifacts in choices:
            if steps := next_steps(model):
                self.report(model, steps[choice % len(steps)], artifacts, execution_id)

    @rule(model=jobs, artifacts=ARTIFACTS, request_id=REQUESTS, resumed=st.booleans())
    def fail_and_retry(
        self, model: JobModel, artifacts: dict[str, Any], request_id: str, resumed: bool
    ) -> None:
        self.report(model, "FAILED", artifacts, "own")
        self.retry(model, request_id, "standard")
        if resumed and (steps := next_steps(model)):
            self.report(model, steps[0], {}, "own")
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
    @rule(pick=st.integers(0, 99), change=st.sampled_from(CHANGES))
    def report_again(self, pick: int, change: dict[str, str]) -> None:
        reporting = [model for model in self.models if model.events]
        model = reporting[pick % len(reporting)]
        bodies = [body for body, _ in model.events.values()]
        body = {**bodies[pick % len(bodies)], **change}
        self.send(model, body, self.world.secret, model.callback)

    @rule(model=jobs, status=st.sampled_from(list(STEPS)))
    def forge_a_report(self, model: JobModel, status: str) -> None:
        answer = error(401, "UNAUTHORIZED")
        self.send(model, self.body(model, status), "a-forged-secret", lambda _: answer)

    @rule(model=jobs, status=st.sampled_from(list(STEPS)), minutes=st.integers(6, 10_000_000))
    def report_from_the_future(self, model: JobModel, status: str, minutes: int) -> None:
        moment = datetime.now(UTC) + timedelta(minutes=minutes)
        body = self.body(model, status) | {"occurred_at": moment.isoformat()}
        problem = ["Is more than five minutes in the future."]
        answer = error(400, "VALIDATION_ERROR", occurred_at=problem)
        self.send(model, body, self.world.secret, lambda _: answer)

    def report(
        self,
        model: JobModel,
        status: str,
        artifacts: dict[str, Any],
        execution_id: str | None,
        *,
        late: bool = False,
    ) -> None:
        body = self.body(model, status, late=late)
        if execution_id == "own" and model.dispatch:
            execution_id = model.dispatch.execution_id or model.dispatch.name
        if execution_id is not None:
            body["execution_id"] = execution_id
        if artifacts:
            body["artifact_updates"] = artifacts
        if status == "FAILED":
            body |= FAILURES
        self.send(model, body, self.world.secret, model.callback)

    def body(self, model: JobModel, status: str, *, late: bool = False) -> dict[str, Any]:
        self.clock += 1
        seconds = -self.clock if late else self.clock
        moment = datetime(2026, 5, 4, tzinfo=UTC) + timedelta(seconds=seconds)
        # Callbacks must name their dispatch where the engine can be queried.
        named = {"dispatch_id": self._dispatch_id(model)} if self.world.queryable else {}
        return {
            **named,
            "event_id": f"event-{self.clock}",
            "status": status,
            "occurred_at": moment.isoformat().replace("+00:00", "Z"),
            "correlation_id": "machine",
        }

    def _dispatch_id(self, model: JobModel) -> str:
        name = model.dispatch.name if model.dispatch else "run"
        if name == "run":
            return f"run-{model.id}"
        return f"retry-{model.id}-{sha256(name.encode()).hexdigest()[:16]}"

    def send(
        self,
        model: JobModel,
        body: dict[str, Any],
        secret: str,
        expect: Callable[[dict[str, Any]], Answer],
    ) -> None:
        self.compare(model, self.world.client.callback(model.id, secret, body), expect(body))

    def compare(self, model: JobModel, answer: requests.Response, expected: Answer) -> None:
        """Compare the answer, and then everything that the API shows of the job."""
        body = answer.json() if answer.content else {}
        if "code" in expected.body:
            body.pop("message", None)
        else:
            body = {name: body.get(name) for name in expected.body}
        assert (answer.status_code, body) == (expected.status, expected.body)
        self.compare_job(model)

    def compare_job(self, model: JobModel) -> None:
        handle = JobHandle(self.world.client, model.id, self.world.secret)
        assert len(self.world.orchestrator.requests_for(model.id)) == model.posts
        if model.is_deleted:
            answers = [handle.client.job(model.id), handle.client.events(model.id)]
            assert [answer.status_code for answer in answers] == [404, 404]
            return
        job = handle.shown()
        assert {name: job[name] for name in model.fields} == model.fields
        assert job["status"] == model.status
        assert job["manifest"] == model.manifest
        assert job["failure"] == model.failure
        dispatch = job["dispatch"] or {}
        fields = {name: dispatch.get(name) for name in ("phase", "reason", "execution_id")}
        assert fields == {name: getattr(model.dispatch, name, None) for name in fields}
        trail = [(e["event_type"], e["prev_status"], e["new_status"]) for e in handle.trail()]
        # Whether an operator's query joins one of the sweep depends on time.
        assert [event for event in trail if event[0] != "dispatch.asked"] == model.trail

    def teardown(self) -> None:
        for model in self.models:
            self.compare_job(model)
        kept = [model.id for model in self.models if not model.is_deleted]
        deleted = {model.id for model in self.models if model.is_deleted}
        for path in ("/jobs?order=desc", f"/jobs?project_id={self.world.project['id']}"):
            items = self.world.client.get(f"{path}&limit=200").json()["items"]
            listed = [item["id"] for item in items]
            assert listed[: len(kept)] == kept[::-1]
            assert not deleted & set(listed)
            assert len(items) == len(set(listed)) == min(200, self.world.jobs_kept + len(kept))
        self.world.jobs_kept += len(kept)


@pytest.fixture(scope="module", params=["webhook", "restate"])
def world(
    request: pytest.FixtureRequest, new_stack: NewStack, callback_secret: str
) -> Iterator[World]:
    """A service that holds unknown outcomes forever, so that nothing depends on time."""
    queryable = request.param == "restate"
    engine = {"TAKEONE_ORCHESTRATOR_KIND": "restate", "TAKEONE_ORCHESTRATOR_WORKFLOW": WORKFLOW}
    with (
        QueryableOrchestrator() if queryable else StubOrchestrator() as orchestrator,
        new_stack(
            TAKEONE_ORCHESTRATOR_URL=orchestrator.url.removesuffix("/dispatches" * queryable),
            **(engine if queryable else {}),
            TAKEONE_UNKNOWN_HOLD_SECONDS="0",
            TAKEONE_ORCHESTRATOR_CONNECT_TRIES="1",
        ) as stack,
    ):
        client = ApiClient(stack.api_url, "alice")
        project = client.create_project().json()
        operator = ApiClient(stack.api_url, "olga", "operator")
        yield World(stack, orchestrator, client, operator, project, callback_secret, queryable)


def test_random_calls_are_answered_as_the_contract_says(
    world: World, pytestconfig: pytest.Config
) -> None:
    thorough = pytestconfig.getoption("--thorough")
    run_state_machine_as_test(
        lambda: Machine(world),
        settings=hypothesis_settings(
            max_examples=THOROUGH_EXAMPLES if thorough else EXAMPLES,
            stateful_step_count=STEPS_EACH,
            deadline=None,
            database=None,
            print_blob=True,
            phases=[Phase.generate],  # shrinking a failure would exceed the test's time limit
            suppress_health_check=list(HealthCheck),
        ),
    )
