"""The logs of web and worker: structured, one line for each request and step, without user input."""

import json
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from requests import Response

from devstack.redis_server import RedisServer
from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.acceptance.raw_http import ask, send_bytes
from tests.conftest import NewStack
from tests.support.behaviours import accept, answer, refuse, reset_after_read, truncated_body
from tests.support.client import ApiClient, status_report
from tests.support.log_lines import wait_for_line
from tests.support.orchestrator import StubOrchestrator
from tests.support.paused import paused_worker

pytestmark = pytest.mark.redis_broker

SECRET = f"callback-secret-{uuid4().hex}"
ACCEPTED_AFTER_MILLISECONDS = 100
HOST_PASSWORD, HOST_QUERY = f"password-{uuid4().hex}", f"query-{uuid4().hex}"


@dataclass
class Planted:
    """Unique strings that must not be in any log, by name."""

    strings: dict[str, str] = field(default_factory=dict)

    def __call__(self, name: str) -> str:
        """Return the string of this name, and create it if it is new."""
        return self.strings.setdefault(name, f"planted-{name}-{uuid4().hex}")


@dataclass(frozen=True)
class Scenario:
    """The jobs and requests of the scenario, and everything that was written meanwhile."""

    job_ids: list[str]
    planted: Planted
    web: list[str]
    worker: list[str]
    events: list[str]
    message: str
    requests: int

    @property
    def everything(self) -> str:
        """All of it as one text."""
        return "\n".join([*self.web, *self.worker, *self.events, self.message])


@contextmanager
def listening_to_events(redis: RedisServer) -> Iterator[list[str]]:
    """Collect the task events that Celery sends to monitors such as Flower."""
    heard: list[str] = []

    def hear(message: dict[str, str]) -> None:
        heard.append(b64decode(json.loads(message["data"])["body"]).decode())

    with redis.client() as client, client.pubsub() as subscription:
        subscription.psubscribe(**{"*celeryev*": hear})
        thread = subscription.run_in_thread(sleep_time=0.05, daemon=True)
        try:
            yield heard
        finally:
            thread.stop()
            thread.join(5)


def message_in_queue(stack: Stack, dave: ApiClient, job_ids: list[str]) -> str:
    """Run jobs while the worker is paused, and return the first message in its queue."""
    with paused_worker(stack.workers[0], stack.redis), stack.redis.client() as client:
        for job_id in job_ids:
            assert dave.run(job_id, headers={"Prefer": "respond-async"}).status_code == 202
        queues = [key for key in client.scan_iter("*dispatch*") if client.type(key) == "list"]
        message, *_ = [message for key in queues for message in client.lrange(key, 0, -1)]
    return str(message)


def dispatch_jobs(dave: ApiClient, orchestrator: StubOrchestrator, planted: Planted) -> list[str]:
    """Run a job for each kind of answer, each twice; return their ids."""
    project = dave.create_project(planted("project")).json()
    request_id = {"X-Request-Id": planted("request-id")}
    text = planted("answer").encode()
    jobs = []
    for behaviour in (
        accept(202, text, after=ACCEPTED_AFTER_MILLISECONDS / 1000),
        refuse(500, text),
        refuse(504, text),
        answer(302, text, {"Location": f"http://127.0.0.1:9/{planted('location')}"}),
        truncated_body(500),
        reset_after_read(),
    ):
        job = dave.uploaded_job(f"s3://studio/{planted('video')}.mp4", project=project)
        orchestrator.behaviours[job["id"]] = behaviour
        dave.run(job["id"], headers=request_id)
        dave.run(job["id"], headers={**request_id, "Prefer": planted("prefer")})
        jobs.append(job["id"])
    return jobs


def send_callbacks(dave: ApiClient, job_id: str, planted: Planted) -> None:
    """Send good, repeated, refused and unauthorised callbacks, and two retries."""
    report = status_report(
        "FAILED",
        event_id=planted("event-id"),
        correlation_id=planted("correlation-id"),
        execution_id=planted("execution-id"),
        artifact_updates={"transcript_uri": planted("artifact"), planted("key"): planted("value")},
        failure_code=planted("failure-code"),
        failure_message=planted("failure-message"),
        failed_stage=planted("failed-stage"),
    )
    new_event = {"event_id": planted("event-id") + "2", "execution_id": planted("execution-2")}
    for secret, changes in (
        (SECRET, {}),
        (SECRET, {}),
        (SECRET, {"failure_message": planted("failure-message") + "x"}),
        (SECRET, new_event),
        (SECRET, {planted("field"): planted("field-value"), "status": planted("status")}),
        (planted("wrong-secret"), {}),
    ):
        dave.callback(job_id, secret, {**report, **changes})
    dave.retry(job_id, planted("client-request-id"), planted("profile"))
    dave.retry(job_id, planted("client-request-id"), "fast")


def send_bad_requests(url: str, job_id: str, planted: Planted) -> int:
    """Send requests that are refused at various stages; return how many reached the application."""
    projects, job = "/api/v1/projects", f"/api/v1/jobs/{job_id}"
    editor: dict[str, str | bytes] = {"Authorization": f"Bearer test:{planted('user')}:editor"}
    answers = [
        ask(url, "GET", projects, headers)
        for headers in (
            {"Authorization": f"Bearer {planted('token')}"},
            {"Authorization": f"Basic {planted('basic')}"},
            {**editor, "Cookie": planted("cookie")},
            {**editor, "User-Agent": planted("agent")},
            {**editor, "Referer": planted("referer")},
            {**editor, "X-Request-Id": planted("odd id") + " x"},
        )
    ]
    answers += [
        ask(url, method, target, editor, body)
        for method, target, body in (
            ("GET", f"/{planted('path')}", None),
            ("GET", f"/api/v1/jobs/{planted('job-id')}?{planted('query')}={planted('q')}", None),
            ("GET", f"/api/v1/jobs?project_id={planted('project-id')}", None),
            ("GET", f"{job}?wait={planted('wait')}", None),
            ("PUT", f"{job}/run", planted("put").encode()),
            (planted("method").upper().replace("-", ""), projects, None),
        )
    ]
    as_json = {**editor, "Content-Type": "application/json"}
    key = {"Idempotency-Key": planted("key")}
    note = {"metadata": {planted("note"): planted("note-text")}}
    other_video = {"video_uri": f"s3://x/{planted('other-video')}"}
    answers += [
        ask(url, method, target, {**as_json, **headers}, body.encode())
        for method, target, headers, body in (
            ("POST", projects, {}, f'{{"{planted("no-json")}'),
            ("POST", projects, {}, json.dumps({"x": planted("unknown")})),
            ("POST", projects, {"Content-Type": planted("type")}, planted("body")),
            ("POST", projects, {}, planted("large") * 5_000),
            ("POST", projects, key, json.dumps({"name": planted("project-name")})),
            ("PATCH", job, {}, json.dumps(note)),
            ("POST", f"{job}/confirm-upload", {}, json.dumps(other_video)),
        )
    ]
    for line in (
        f"GET /{planted('raw')} HTTP/9.9",
        f"{planted('raw-line')}",
        f"GET / HTTP/1.1\r\nHost: x\r\n{planted('raw-header')}",
        f"GET / HTTP/1.1\r\nHost: x\r\nX-A: {planted('raw-value')}\x00",
    ):
        send_bytes(url, line.encode() + b"\r\n\r\n")
    return sum("x-request-id" in answer.headers for answer in answers)


@pytest.fixture(scope="module")
def scenario(new_stack: NewStack, orchestrator: StubOrchestrator) -> Scenario:
    """The whole scenario, run once on a stack whose secrets are planted too."""
    planted = Planted()
    planted.strings |= {"secret": SECRET, "password": HOST_PASSWORD, "url-query": HOST_QUERY}
    host = orchestrator.url.replace("http://", f"http://operator:{HOST_PASSWORD}@")
    with new_stack(
        TAKEONE_CALLBACK_SECRET=SECRET, TAKEONE_ORCHESTRATOR_URL=f"{host}?key={HOST_QUERY}"
    ) as stack:
        answers: list[Response] = []
        dave = ApiClient(stack.api_url, planted("user"))
        dave.session.hooks["response"].append(lambda answer, **_: answers.append(answer))
        with listening_to_events(stack.redis) as events:
            job_ids = dispatch_jobs(dave, orchestrator, planted)
            send_callbacks(dave, job_ids[0], planted)
            bad_requests = send_bad_requests(stack.api_url, job_ids[0], planted)
            video = f"s3://studio/{planted('video')}.mp4"
            last = [dave.uploaded_job(video)["id"] for _ in range(2)]
            message = message_in_queue(stack, dave, last)
            (web,), (worker,) = stack.webs, stack.workers
            for job_id in last:
                wait_for_line(worker, "dispatch.accepted", job_id)
                wait_until(lambda job_id=job_id: job_id in "".join(events), 10, "the last events")
        logs = (web.log().splitlines(), worker.log().splitlines())
    return Scenario(job_ids, planted, *logs, events, message, len(answers) + bad_requests)


def of_job(lines: list[str], job_id: str) -> list[dict[str, Any]]:
    """The lines about a job."""
    records = [json.loads(line) for line in lines if line.startswith("{")]
    return [record for record in records if record.get("job_id") == job_id]


def test_no_user_input_and_no_secret_is_in_any_log_or_message(scenario: Scenario) -> None:
    leaked = [
        name for name, value in scenario.planted.strings.items() if value in scenario.everything
    ]
    assert leaked == []
    assert len(scenario.planted.strings) > 40


def test_every_line_is_json(scenario: Scenario) -> None:
    assert all(json.loads(line)["event"] for line in [*scenario.web, *scenario.worker])


def test_each_request_has_one_line_with_the_hash_of_its_id(scenario: Scenario) -> None:
    lines = [line for line in map(json.loads, scenario.web) if line["event"] == "request"]
    assert len(lines) == scenario.requests
    for line in lines:
        assert len(line["request"]) == 12
        assert line["route"].startswith("/") or line["route"] == "unmatched"
    statuses = {line["status"] for line in lines}
    assert statuses >= {200, 201, 202, 204, 400, 401, 404, 405, 409, 502}
    assert {status for status in statuses if status >= 500} <= {502, 503}


def test_a_run_can_be_traced_by_job_dispatch_and_request_through_web_and_worker(
    scenario: Scenario,
) -> None:
    job_id = scenario.job_ids[0]
    runs = [line for line in of_job(scenario.web, job_id) if line.get("route", "").endswith("/run")]
    assert [line["status"] for line in runs] == [202, 200]
    assert len({line["request"] for line in runs}) == 1  # the same X-Request-Id has the same hash
    steps = of_job(scenario.worker, job_id)
    # The worker times the exchange, the web process the whole call, which waited for it.
    exchange, call = steps[1]["milliseconds"], runs[0]["milliseconds"]
    assert ACCEPTED_AFTER_MILLISECONDS <= exchange < call < 50 * ACCEPTED_AFTER_MILLISECONDS
    # The retry at the end of the scenario takes the same steps under its own id.
    assert [line["event"] for line in steps] == ["dispatch.sending", "dispatch.accepted"] * 2
    assert steps[2]["dispatch_id"] == steps[3]["dispatch_id"] != f"run-{job_id}"
    for line in [*runs, *steps[:2]]:
        assert line["dispatch_id"] == f"run-{job_id}"
        assert line["request"] == runs[0]["request"]


def test_a_failed_run_is_logged_with_its_outcome_and_http_status(scenario: Scenario) -> None:
    events = [of_job(scenario.worker, job_id)[-1] for job_id in scenario.job_ids]
    names = [line["event"].removeprefix("dispatch.") for line in events[:3]]
    assert names == ["accepted", "refused", "lost"]
    assert [line["http_status"] for line in events[:3]] == [202, 500, 504]


def test_messages_and_celery_events_name_the_dispatch(scenario: Scenario) -> None:
    message = json.loads(scenario.message)
    (job_id, dispatch_id, epoch), options, _ = json.loads(message["body"])
    assert (dispatch_id, epoch, options) == (f"run-{job_id}", 1, {})
    assert message["headers"]["id"] == dispatch_id
    assert any(dispatch_id in event for event in scenario.events)
