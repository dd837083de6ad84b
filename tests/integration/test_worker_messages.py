"""Malformed and foreign messages in the queues, and remote control commands from strangers."""

import json
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from celery import Celery

from devstack.stack import Stack
from devstack.waiting import wait_until
from domain.claim import FencingToken
from domain.record import TaskKind
from tasks import message
from tasks.consumer import request_of
from tasks.outbox import user_queues
from tasks.queues import KEY_PREFIX
from tests.conftest import NewStack
from tests.support.behaviours import accept
from tests.support.client import ApiClient
from tests.support.log_lines import wait_for_line
from tests.support.orchestrator import StubOrchestrator

QUEUE = "takeone.dispatch.0"
GOOD = orjson.loads(
    message.encode(TaskKind.DISPATCH, "run-x", FencingToken("x", "run-x", 1), QUEUE)
)


def changed(**parts: Any) -> bytes:
    """A good message with other parts; None leaves one out."""
    parts = {name: part for name, part in {**GOOD, **parts}.items() if part is not None}
    return json.dumps(parts).encode()


def with_arguments(*arguments: Any) -> bytes:
    return changed(body=json.dumps([list(arguments), {}, {}]))


def with_headers(**headers: Any) -> bytes:
    return changed(headers={**GOOD["headers"], **headers})


MALFORMED: dict[str, bytes] = {
    "one letter": b"x",
    "nothing": b"",
    "no UTF-8": b"\xff\xfe\x00",
    "a list": b"[]",
    "a number": b"17",
    "null": b"null",
    "a broken object": b'{"body": ',
    "an empty object": b"{}",
    "nested without end": b"[" * 100_000 + b"]" * 100_000,
    "no body": changed(body=None),
    "no headers": changed(headers=None),
    "no properties": changed(properties=None),
    "headers that are a list": changed(headers=[]),
    "headers that are text": changed(headers="x"),
    "properties that are text": changed(properties="x"),
    "properties without delivery": changed(properties={}),
    "a body that is a number": changed(body=1),
    "a body that is no JSON": changed(body="x"),
    "a body in base64": changed(body="W1tdLHt9LHt9XQ=="),
    "a body that is an object": changed(body="{}"),
    "a body of two": changed(body="[[],{}]"),
    "a body nested without end": changed(body="[" * 100_000),
    "no arguments": with_arguments(),
    "two arguments": with_arguments("x", "run-x"),
    "four arguments": with_arguments("x", "run-x", 1, 2),
    "a job that is a number": with_arguments(1, "run-x", 1),
    "a dispatch that is a list": with_arguments("x", [], 1),
    "an epoch that is text": with_arguments("x", "run-x", "1"),
    "an epoch that is true": with_arguments("x", "run-x", True),
    "an epoch that is not whole": with_arguments("x", "run-x", 1.5),
    "an epoch that is no number": changed(body='[["x","run-x",NaN],{},{}]'),
    "another task": with_headers(task="os.system"),
    "a task that is a list": with_headers(task=[]),
    "no id": changed(headers={k: v for k, v in GOOD["headers"].items() if k != "id"}),
    "another language": with_headers(lang="js"),
    "a form that is text": with_headers(form="1"),
    "a form before the one before": with_headers(form=message.FORM - 2),
    "a later form": with_headers(form=message.FORM + 1),
    "another task of a later form": with_headers(task="os.system", form=message.FORM + 1),
    "the first protocol": json.dumps(
        {
            "task": message.task_name(TaskKind.DISPATCH),
            "id": "a",
            "args": ["x", "run-x", 1],
            "kwargs": {},
        }
    ).encode(),
}


@pytest.fixture(scope="module")
def celery_app() -> Celery:
    app = Celery("takeone", broker="memory://", set_as_current=False)

    @app.task(name=message.task_name(TaskKind.DISPATCH))
    def dispatch(job_id: str, dispatch_id: str, epoch: int) -> None:
        """Never called."""

    return app


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_message_makes_no_request(case: str, celery_app: Celery) -> None:
    assert request_of(MALFORMED[case], celery_app, "host") is None


def test_a_good_message_makes_a_request_without_foreign_headers(celery_app: Celery) -> None:
    good = request_of(orjson.dumps(GOOD), celery_app, "host")
    assert good is not None
    assert (good.id, good.args) == ("run-x", ["x", "run-x", 1])
    late = with_headers(eta="2099-01-01T00:00:00", expires="2000-01-01T00:00:00", timelimit=[1, 1])
    request = request_of(late, celery_app, "host")
    assert request is not None
    assert (request.eta, request.expires, request.time_limits) == (None, None, (None, None))


@pytest.fixture(scope="module")
def own_stack(new_stack: NewStack, orchestrator: StubOrchestrator) -> Iterator[Stack]:
    with new_stack(
        TAKEONE_ORCHESTRATOR_CANCEL_URL=orchestrator.url.replace("dispatches", "cancel"),
        TAKEONE_WORKER_CONCURRENCY="4",
    ) as running:
        yield running


def test_a_worker_logs_and_discards_malformed_messages_and_continues(own_stack: Stack) -> None:
    (worker,) = own_stack.workers
    with own_stack.redis.client() as client:
        for payload in MALFORMED.values():
            client.lpush(KEY_PREFIX + QUEUE, payload)
    wait_until(
        lambda: worker.log().count("message.discarded") == len(MALFORMED), 20, "all are discarded"
    )
    assert "os.system" not in worker.log()
    alice = ApiClient(own_stack.api_url)
    assert alice.run(alice.uploaded_job()["id"]).json()["status"] == "AUDIO_EXTRACTING"


def test_a_message_states_its_form_and_the_previous_form_is_read(celery_app: Celery) -> None:
    assert GOOD["headers"]["form"] == message.FORM
    before = {k: v for k, v in GOOD["headers"].items() if k != "form"}
    assert request_of(changed(headers=before), celery_app, "host") is not None


def control(stack: Stack, command: str, arguments: dict[str, Any] | None = None) -> list[Any]:
    """Send the worker a command, as anyone with access to the broker can; return its answer."""
    stranger = Celery("stranger", broker=stack.redis.url, set_as_current=False)
    stranger.conf.broker_transport_options = {"global_keyprefix": KEY_PREFIX}
    replies: list[Any] = stranger.control.broadcast(
        command, arguments=arguments or {}, reply=True, timeout=20.0, limit=1
    )
    return [answer for reply in replies for answer in reply.values()]


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("shutdown", {}),
        ("rate_limit", {"task_name": message.task_name(TaskKind.DISPATCH), "rate_limit": "1/h"}),
        ("time_limit", {"task_name": message.task_name(TaskKind.DISPATCH), "hard": 1, "soft": 1}),
        ("cancel_consumer", {"queue": QUEUE}),
        ("add_consumer", {"queue": "anything"}),
        ("pool_grow", {"n": 50}),
        ("pool_shrink", {"n": 3}),
        ("pool_restart", {}),
        ("autoscale", {"max": 1, "min": 1}),
        ("revoke", {"task_id": "run-x", "terminate": True}),
        ("terminate", {"task_id": "run-x", "signal": "KILL"}),
        ("election", {"id": "x", "topic": "x"}),
        ("enable_events", {}),
        ("disable_events", {}),
        ("report", {}),
        ("memdump", {}),
    ],
)
def test_a_command_that_changes_the_worker_or_shows_settings_is_refused(
    command: str, arguments: dict[str, Any], own_stack: Stack
) -> None:
    (answer,) = control(own_stack, command, arguments)
    assert "error" in answer
    assert control(own_stack, "ping") == [{"ok": "pong"}]
    alice = ApiClient(own_stack.api_url)
    assert alice.run(alice.uploaded_job()["id"]).json()["status"] == "AUDIO_EXTRACTING"


def test_inspection_shows_the_workers_state(own_stack: Stack) -> None:
    (stats,) = control(own_stack, "stats")
    assert stats["pool"]["max-concurrency"] == 4
    assert stats["total"][message.task_name(TaskKind.DISPATCH)] >= 1
    assert stats["broker"].keys() == {"transport", "hostname", "port", "virtual_host"}
    (queues,) = control(own_stack, "active_queues")
    assert QUEUE in {queue["name"] for queue in queues}
    assert control(own_stack, "conf") == [{}]
    (registered,) = control(own_stack, "registered")
    assert message.task_name(TaskKind.DISPATCH) in registered


def test_active_lists_the_dispatch_being_posted(
    own_stack: Stack, orchestrator: StubOrchestrator
) -> None:
    alice = ApiClient(own_stack.api_url)
    job_id = alice.uploaded_job()["id"]
    orchestrator.behaviours[job_id] = accept(after=1.5)
    alice.run(job_id, headers={"Prefer": "respond-async"})
    orchestrator.wait_for_requests(job_id)
    (active,) = control(own_stack, "active")
    assert [task["id"] for task in active] == [f"run-{job_id}"]
    wait_until(lambda: alice.job(job_id).json()["status"] == "AUDIO_EXTRACTING", 10, "it is done")


@pytest.mark.parametrize("is_cancelled", [False, True], ids=["forged", "repeated"])
def test_a_cancel_message_that_no_record_asks_for_is_not_posted(
    is_cancelled: bool, own_stack: Stack, orchestrator: StubOrchestrator
) -> None:
    alice = ApiClient(own_stack.api_url)
    job_id = alice.uploaded_job()["id"]
    alice.run(job_id)
    if is_cancelled:
        alice.cancel(job_id)
        events = lambda: alice.events(job_id).text  # noqa: E731
        wait_until(lambda: "orchestrator.cancel_notified" in events(), 10, "it is cancelled")
    token = FencingToken(job_id, f"run-{job_id}", 1)
    forged = message.encode(TaskKind.TELL_CANCELLED, f"cancel-{job_id}", token, QUEUE)
    with own_stack.redis.client() as client:
        client.lpush(KEY_PREFIX + QUEUE, forged)
    (worker,) = own_stack.workers
    wait_for_line(worker, "cancel.not_wanted", job_id)
    assert len(orchestrator.requests_for(job_id)) == 1 + is_cancelled


@pytest.mark.parametrize("number", range(1, 6))
def test_a_user_has_two_queues_or_the_only_one(number: int) -> None:
    names = [str(index) for index in range(number)]
    for user in map(str, range(50)):
        queues = user_queues(user, names)
        assert queues == user_queues(user, names)
        assert len(set(queues)) == len(queues) == min(number, 2)
        assert set(queues) <= set(names)


@pytest.mark.parametrize(
    ("task", "shown"),
    [
        (TaskKind.DISPATCH, "run-job"),
        (TaskKind.TELL_CANCELLED, "cancel-job"),
        (TaskKind.ASK, "ask-job"),
    ],
)
def test_each_task_has_an_id_that_operators_can_look_for(task: TaskKind, shown: str) -> None:
    assert message.task_id(task, FencingToken("job", "run-job", 7)) == shown
