"""The adapter for Temporal. Bodies were recorded from Temporal 1.32."""

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


def test_a_start_names_the_dispatch_and_forbids_a_second_run() -> None:
    request = TEMPORAL.start(DISPATCH, "")
    assert (request.method, request.url) == ("POST", f"{WORKFLOWS}/{KEY}")
    assert request.headers == {"Authorization": "Bearer token"}
    assert json.loads(request.body) == {
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
    path = "task-queues/c%2Fd?taskQueueType=TASK_QUEUE_TYPE_WORKFLOW"
    assert odd.checks("")["worker"].url == f"{base}/{path}"


@pytest.mark.parametrize(
    ("status", "body", "meaning"),
    [
        (200, STARTED, ClaimEvent.ACCEPTED),
        (200, STARTED.replace(b"_RUNNING", b"_TERMINATED"), ClaimEvent.ACCEPTED),
        (409, TAKEN, ClaimEvent.LOST),
        (404, NO_NAMESPACE, Refusal.UNKNOWN_WORKFLOW),
        (404, NO_ROUTE, Refusal.UNKNOWN_WORKFLOW),
        (400, b'{"code":3,"message":"taskQueue is not set"}', Refusal.INVALID_PARAMETERS),
        (401, b'{"code":16,"message":"unauthenticated"}', Refusal.UNAUTHORIZED),
        (403, b'{"code":7,"message":"Request unauthorized."}', Refusal.UNAUTHORIZED),
        (429, b'{"code":8,"message":"namespace rate limit exceeded"}', Refusal.UNAVAILABLE),
        (409, b'{"code":10,"message":"aborted","details":5}', Refusal.REFUSED),
        (500, b'{"code":13,"message":"internal"}', ClaimEvent.LOST),
        (503, b'{"code":14,"message":"unavailable"}', ClaimEvent.LOST),
        (504, b'{"code":4,"message":"context deadline exceeded"}', ClaimEvent.LOST),
        (499, b'{"code":1,"message":"context canceled"}', ClaimEvent.LOST),
        # The rest could come from a gateway.
        (200, PAGE, ClaimEvent.LOST),
        (200, b"", ClaimEvent.LOST),
        (200, b"{}", ClaimEvent.LOST),
        (200, b'"runId"', ClaimEvent.LOST),
        (200, STARTED.replace(b"true", b"false"), ClaimEvent.LOST),
        (200, b'{"started":true}', ClaimEvent.LOST),
        (200, STARTED[:-9], ClaimEvent.LOST),
        (502, PAGE, ClaimEvent.LOST),
        (524, PAGE, ClaimEvent.LOST),
        (408, PAGE, ClaimEvent.LOST),
    ],
)
def test_answers_to_a_start(status: int, body: bytes, meaning: ClaimEvent | Refusal) -> None:
    assert TEMPORAL.read_start(answer(status, body)) == meaning


@pytest.mark.parametrize(("status", "body"), [(200, STARTED), (404, NO_NAMESPACE), (409, TAKEN)])
def test_an_answer_to_a_start_that_broke_off_proves_nothing(status: int, body: bytes) -> None:
    assert TEMPORAL.read_start(answer(status, body, False)) == ClaimEvent.LOST


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
def test_states_of_a_run(status: str, state: RunState) -> None:
    info = {"execution": {"workflowId": KEY}, "status": f"WORKFLOW_EXECUTION_STATUS_{status}"}
    body = orjson.dumps({"workflowExecutionInfo": info})
    assert TEMPORAL.read_ask(answer(200, body)) == Run(state)
    assert TEMPORAL.read_ask(answer(200, body, False)) == Run(RunState.NO_ANSWER)
    assert TEMPORAL.read_ask(answer(502, body)) == Run(RunState.NO_ANSWER)


def test_a_token_that_no_engine_issues_is_sent_all_the_same() -> None:
    """If the header could not be encoded, a start would count as sent although no byte of it left."""
    header = (Temporal("https://t", "Take@q", "tok\u20acn", "").ask(KEY, "").headers or {})[
        "Authorization"
    ]
    assert header.encode("latin-1").decode() == "Bearer tok\u20acn"


def test_a_missing_run_is_not_found() -> None:
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
def test_answers_that_prove_nothing_about_a_run(status: int, body: bytes) -> None:
    assert TEMPORAL.read_ask(answer(status, body)) == Run(RunState.NO_ANSWER)


def test_repeated_cancels_are_equal() -> None:
    request = TEMPORAL.cancel(DISPATCH, None, "")
    assert request == TEMPORAL.cancel(DISPATCH, Run(RunState.RUNNING), "")
    assert (request.method, request.url) == ("POST", f"{WORKFLOWS}/{KEY}/cancel")
    assert json.loads(request.body)["requestId"] == f"cancel-{KEY}"


@pytest.mark.parametrize(
    ("status", "body", "meaning"),
    [
        (200, b"{}", Cancel.DONE),
        (404, NO_WORKFLOW, Cancel.NOT_FOUND),
        (404, NO_NAMESPACE, Cancel.NO_ANSWER),
        (404, PAGE, Cancel.NO_ANSWER),
        (200, PAGE, Cancel.NO_ANSWER),
        (302, PAGE, Cancel.NO_ANSWER),
        (407, PAGE, Cancel.NO_ANSWER),
        (403, b'{"code":7,"message":"Request unauthorized."}', Cancel.NO_ANSWER),
        (503, PAGE, Cancel.NO_ANSWER),
    ],
)
def test_answers_to_a_cancel(status: int, body: bytes, meaning: Cancel) -> None:
    assert TEMPORAL.read_cancel(answer(status, body)) is meaning


RETENTION = b'{"namespaceInfo":{"name":"default"},"config":{"workflowExecutionRetentionTtl":"%s"}}'


@pytest.mark.parametrize(
    ("name", "status", "body", "problem"),
    [
        ("namespace", 200, RETENTION % b"86400s", None),
        ("namespace", 200, RETENTION % b"86399s", "less than a day"),
        ("namespace", 200, RETENTION % (b"9" * 5_000 + b"s"), None),
        ("namespace", 200, b'{"namespaceInfo":{"name":"default"}}', "less than a day"),
        ("namespace", 404, NO_NAMESPACE, "does not exist"),
        ("worker", 404, NO_NAMESPACE, "does not exist"),
        ("namespace", 200, PAGE, "no answer"),
        ("namespace", 404, NO_ROUTE, "no answer"),
        ("worker", 403, b'{"code":7,"message":"Request unauthorized."}', "no answer"),
        ("worker", 200, b'{"pollers":[{"identity":"9@host"}]}', None),
        ("worker", 200, b'{"versioningInfo":{}}', "no worker"),
    ],
)
def test_problems_for_doctor(name: str, status: int, body: bytes, problem: str | None) -> None:
    found = TEMPORAL.problem(name, answer(status, body))
    assert found is None if problem is None else problem in str(found)
