"""What the adapter for Temporal makes of answers, which were recorded from Temporal 1.32."""

import json
from datetime import UTC, datetime

import orjson
import pytest

from domain.claim import ClaimEvent, Refusal, RunState
from orchestrators.base import Answer, Cancel, Dispatch, Request, Run
from orchestrators.temporal import Temporal

KEY = "run-7b4e"
TEMPORAL = Temporal("https://temporal/", "Take@take", "token", "videos")
WORKFLOWS = "https://temporal/api/v1/namespaces/videos/workflows"
DISPATCH = Dispatch(KEY, {"job_id": "7b4e", "dispatch_id": KEY}, datetime(2026, 3, 2, tzinfo=UTC))
PAGE = b"<html><h1>It works</h1></html>"

STARTED = (
    b'{"runId":"01a218f7-c4a3","firstExecutionRunId":"01a218f7-c4a3","started":true,'
    b'"status":"WORKFLOW_EXECUTION_STATUS_RUNNING"}'
)
TAKEN = (
    b'{"code":6,"message":"Workflow execution is already running. WorkflowId: k1, RunId: 01a218f7.",'
    b'"details":[{"@type":"type.googleapis.com/temporal.api.errordetails.v1.'
    b'WorkflowExecutionAlreadyStartedFailure","startRequestId":"k1","runId":"01a218f7"}]}'
)
NO_NAMESPACE = (
    b'{"code":5,"message":"Namespace nope is not found.","details":[{"@type":"type.googleapis.com/'
    b'temporal.api.errordetails.v1.NamespaceNotFoundFailure","namespace":"nope"}]}'
)
NO_WORKFLOW = (
    b'{"code":5,"message":"workflow not found for ID: k0","details":[{"@type":"type.googleapis.com/'
    b'temporal.api.errordetails.v1.NotFoundFailure"}]}'
)
NO_ROUTE = b'{"code":5,"message":"Not Found"}'


def answer(status: int, body: bytes, is_whole: bool = True) -> Answer:
    return Answer(status, {}, body, is_whole)


def test_a_start_names_the_dispatch_twice_and_forbids_a_second_run() -> None:
    made = TEMPORAL.start(DISPATCH, "")
    assert (made.method, made.url) == ("POST", f"{WORKFLOWS}/{KEY}")
    assert made.headers == {"Authorization": "Bearer token"}
    assert json.loads(made.body) == {
        "workflowType": {"name": "Take"},
        "taskQueue": {"name": "take"},
        "input": [{"job_id": "7b4e", "dispatch_id": KEY}],
        "requestId": KEY,
        "workflowIdReusePolicy": "WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE",
        "workflowIdConflictPolicy": "WORKFLOW_ID_CONFLICT_POLICY_FAIL",
    }


def test_names_are_quoted_and_the_namespace_may_be_left_out() -> None:
    odd = Temporal("https://temporal", "a/b@c/d", "", "")
    base = "https://temporal/api/v1/namespaces/default"
    assert odd.ask("run/../x", "") == Request("GET", f"{base}/workflows/run%2F..%2Fx", headers={})
    worker = odd.checks("")["worker"]
    path = "task-queues/c%2Fd?taskQueueType=TASK_QUEUE_TYPE_WORKFLOW"
    assert worker.url == f"{base}/{path}"


@pytest.mark.parametrize(
    "body", [STARTED, STARTED.replace(b"_RUNNING", b"_TERMINATED")], ids=["running", "ended"]
)
def test_its_own_word_accepts(body: bytes) -> None:
    assert TEMPORAL.read_start(answer(200, body)) == ClaimEvent.ACCEPTED


def test_an_id_that_is_taken_is_to_be_asked_about() -> None:
    assert TEMPORAL.read_start(answer(409, TAKEN)) == ClaimEvent.LOST


@pytest.mark.parametrize(
    ("status", "body", "is_whole"),
    [
        (200, PAGE, True),
        (200, b"", True),
        (200, b"{}", True),
        (200, b'"runId"', True),
        (200, STARTED.replace(b"true", b"false"), True),
        (200, STARTED[:-9], True),
        (200, STARTED, False),
        (500, b'{"code":13,"message":"internal"}', True),
        (502, PAGE, True),
        (503, b'{"code":14,"message":"unavailable"}', True),
        (504, b'{"code":4,"message":"context deadline exceeded"}', True),
        (524, PAGE, True),
        (408, PAGE, True),
        (404, NO_NAMESPACE, False),
        (409, TAKEN, False),
    ],
)
def test_what_leaves_the_outcome_unknown(status: int, body: bytes, is_whole: bool) -> None:
    assert TEMPORAL.read_start(answer(status, body, is_whole)) == ClaimEvent.LOST


@pytest.mark.parametrize(
    ("status", "body", "refusal"),
    [
        (404, NO_NAMESPACE, Refusal.UNKNOWN_WORKFLOW),
        (404, NO_ROUTE, Refusal.UNKNOWN_WORKFLOW),
        (400, b'{"code":3,"message":"taskQueue is not set"}', Refusal.INVALID_PARAMETERS),
        (401, b'{"code":16,"message":"unauthenticated"}', Refusal.UNAUTHORIZED),
        (403, b'{"code":7,"message":"Request unauthorized."}', Refusal.UNAUTHORIZED),
        (429, b'{"code":8,"message":"namespace rate limit exceeded"}', Refusal.UNAVAILABLE),
        (409, b'{"code":10,"message":"aborted","details":5}', Refusal.REFUSED),
    ],
)
def test_what_refuses(status: int, body: bytes, refusal: Refusal) -> None:
    expected = refusal
    assert TEMPORAL.read_start(answer(status, body)) == expected


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("RUNNING", RunState.RUNNING),
        ("PAUSED", RunState.RUNNING),
        ("CONTINUED_AS_NEW", RunState.RUNNING),
        ("COMPLETED", RunState.SUCCEEDED),
        ("FAILED", RunState.FAILED),
        ("TIMED_OUT", RunState.FAILED),
        ("CANCELED", RunState.CANCELLED),
        ("TERMINATED", RunState.CANCELLED),
    ],
)
def test_what_a_run_is_described_as(status: str, state: RunState) -> None:
    info = {"execution": {"workflowId": KEY}, "status": f"WORKFLOW_EXECUTION_STATUS_{status}"}
    body = orjson.dumps({"workflowExecutionInfo": info})
    assert TEMPORAL.read_ask(answer(200, body)) == Run(state)
    assert TEMPORAL.read_ask(answer(200, body, False)) == Run(RunState.NO_ANSWER)
    assert TEMPORAL.read_ask(answer(502, body)) == Run(RunState.NO_ANSWER)


def test_not_found_is_its_own_word() -> None:
    assert TEMPORAL.read_ask(answer(404, NO_WORKFLOW)) == Run(RunState.NOT_FOUND)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, NO_NAMESPACE),
        (404, NO_ROUTE),
        (404, PAGE),
        (404, NO_WORKFLOW[:-4]),
        (200, NO_WORKFLOW),
        (200, PAGE),
        (200, b'{"workflowExecutionInfo":"WORKFLOW_EXECUTION_STATUS_RUNNING"}'),
        (200, b'{"workflowExecutionInfo":{}}'),
        (200, b'{"workflowExecutionInfo":{"status":3}}'),
        (403, b'{"code":7,"message":"Request unauthorized."}'),
        (500, b""),
        (503, PAGE),
    ],
)
def test_what_says_nothing_of_a_run(status: int, body: bytes) -> None:
    assert TEMPORAL.read_ask(answer(status, body)) == Run(RunState.NO_ANSWER)


def test_a_cancel_is_the_same_however_often_it_is_sent() -> None:
    made = TEMPORAL.cancel(DISPATCH, None, "")
    assert made == TEMPORAL.cancel(DISPATCH, Run(RunState.RUNNING), "")
    assert (made.method, made.url) == ("POST", f"{WORKFLOWS}/{KEY}/cancel")
    assert json.loads(made.body)["requestId"] == f"cancel-{KEY}"


@pytest.mark.parametrize(
    ("status", "body", "meaning"),
    [
        (200, b"{}", Cancel.DONE),
        (404, NO_WORKFLOW, Cancel.NOT_FOUND),
        (404, NO_NAMESPACE, Cancel.NO_ANSWER),
        (404, PAGE, Cancel.NO_ANSWER),
        (200, PAGE, Cancel.NO_ANSWER),
        (403, b'{"code":7,"message":"Request unauthorized."}', Cancel.NO_ANSWER),
        (503, PAGE, Cancel.NO_ANSWER),
    ],
)
def test_what_an_answer_to_a_cancel_means(status: int, body: bytes, meaning: Cancel) -> None:
    assert TEMPORAL.read_cancel(answer(status, body)) is meaning


RETENTION = b'{"namespaceInfo":{"name":"default"},"config":{"workflowExecutionRetentionTtl":"%s"}}'


@pytest.mark.parametrize(
    ("name", "status", "body", "problem"),
    [
        ("namespace", 200, RETENTION % b"86400s", None),
        ("namespace", 200, RETENTION % b"86399s", "less than a day"),
        ("namespace", 200, b'{"namespaceInfo":{"name":"default"}}', "less than a day"),
        ("namespace", 404, NO_NAMESPACE, "does not exist"),
        ("worker", 404, NO_NAMESPACE, "does not exist"),
        ("namespace", 200, PAGE, "no answer"),
        ("worker", 403, b"{}", "no answer"),
        ("worker", 200, b'{"pollers":[{"identity":"9@host"}]}', None),
        ("worker", 200, b'{"versioningInfo":{}}', "no worker"),
    ],
)
def test_what_doctor_says(name: str, status: int, body: bytes, problem: str | None) -> None:
    found = TEMPORAL.problem(name, answer(status, body))
    assert found is None if problem is None else problem in str(found)
