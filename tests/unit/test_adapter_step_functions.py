"""The adapter for Step Functions. Answers were recorded from moto 5.2, or are in AWS's API reference."""

from datetime import UTC, datetime, timedelta

import orjson
import pytest

from domain.claim import ClaimEvent, Refusal, RunState
from orchestrators.base import Answer, Cancel, Dispatch, Request
from orchestrators.step_functions import StepFunctions

ARN = "arn:aws:states:eu-central-1:123456789012:stateMachine:take"
EXECUTION = "arn:aws:states:eu-central-1:123456789012:execution:take:run-1"
STARTED = b'{"executionArn": "%s", "startDate": 1795715110.58}' % EXECUTION.encode()
STANDARD = b'{"stateMachineArn": "%s", "name": "take", "status": "ACTIVE", "type": "STANDARD"}' % (
    ARN.encode()
)
EXPRESS = STANDARD.replace(b"STANDARD", b"EXPRESS")
EXISTS = (
    b"""{"__type": "ExecutionAlreadyExists", "message": "Execution Already Exists: '%s'"}"""
    % (EXECUTION.encode())
)
ABSENT = b"""{"__type": "ExecutionDoesNotExist", "message": "Execution Does Not Exist: '%s'"}""" % (
    EXECUTION.encode()
)
PAGE = b"<html><body>Please sign in</body></html>"
DISPATCH = Dispatch(
    "run-1",
    {"job_id": "j", "video_uri": "s3://ü", "dispatch_id": "run-1"},
    datetime(2026, 3, 2, tzinfo=UTC),
)


def machine(workflow: str = ARN, url: str = "") -> StepFunctions:
    return StepFunctions(url=url, workflow=workflow, credentials="AKIDEXAMPLE:secret")


def answer(body: bytes, status: int = 200, *, is_whole: bool = True) -> Answer:
    return Answer(status, {}, body, is_whole)


def error(name: str) -> bytes:
    return orjson.dumps({"__type": name, "message": "AWS's text"})


def called(request: Request | None) -> tuple[str, dict]:
    """The action and the fields of a signed call."""
    assert request is not None
    assert request.method == "POST"
    assert request.headers is not None
    assert request.headers["Content-Type"] == "application/x-amz-json-1.0"
    assert "/eu-central-1/states/aws4_request" in request.headers["Authorization"]
    return request.headers["X-Amz-Target"], orjson.loads(request.body)


def test_a_start_names_the_execution_by_the_dispatch() -> None:
    target, body = called(machine().start(DISPATCH, ""))
    assert target == "AWSStepFunctions.StartExecution"
    assert body["stateMachineArn"] == ARN
    assert body["name"] == "run-1"
    assert orjson.loads(body["input"]) == DISPATCH.fields
    assert body == called(machine().start(DISPATCH, ""))[1]


def test_asks_and_cancels_name_the_executions_arn() -> None:
    fields = {"executionArn": EXECUTION}
    assert called(machine().ask("run-1", "")) == ("AWSStepFunctions.DescribeExecution", fields)
    assert called(machine().cancel(DISPATCH, None, "")) == (
        "AWSStepFunctions.StopExecution",
        fields,
    )


@pytest.mark.parametrize(
    ("arn", "endpoint"),
    [
        (ARN, "https://states.eu-central-1.amazonaws.com/"),
        (ARN.replace("arn:aws:", "arn:aws-us-gov:"), "https://states.eu-central-1.amazonaws.com/"),
        (ARN.replace("arn:aws:", "arn:aws-cn:"), "https://states.eu-central-1.amazonaws.com.cn/"),
    ],
)
def test_the_default_url_is_the_endpoint_of_the_arns_region(arn: str, endpoint: str) -> None:
    assert machine(arn).start(DISPATCH, "").url == endpoint
    assert machine(arn, "https://vpce.example/").start(DISPATCH, "").url == "https://vpce.example/"


@pytest.mark.parametrize(
    ("received", "meaning"),
    [
        (answer(STARTED), ClaimEvent.ACCEPTED),
        (answer(EXISTS, 400), ClaimEvent.LOST),
        (answer(error("com.amazonaws.swf.service.v2.model#ExecutionAlreadyExists"), 400), ClaimEvent.LOST),
        (answer(error("StateMachineDoesNotExist"), 400), Refusal.UNKNOWN_WORKFLOW),
        (answer(error("StateMachineDeleting"), 400), Refusal.UNKNOWN_WORKFLOW),
        (answer(error("InvalidArn"), 400), Refusal.UNKNOWN_WORKFLOW),
        (answer(error("InvalidName"), 400), Refusal.INVALID_PARAMETERS),
        (answer(error("InvalidExecutionInput"), 400), Refusal.INVALID_PARAMETERS),
        # (reference)
        (answer(error("ExecutionLimitExceeded"), 400), Refusal.UNAVAILABLE),
        (answer(error("ThrottlingException"), 400), Refusal.UNAVAILABLE),
        (answer(error("TooManyRequestsException"), 429), Refusal.UNAVAILABLE),
        (answer(error("UnrecognizedClientException"), 400), Refusal.UNAUTHORIZED),
        (answer(error("InvalidSignatureException"), 403), Refusal.UNAUTHORIZED),
        (answer(error("ExpiredTokenException"), 400), Refusal.UNAUTHORIZED),
        (answer(error("com.amazon.coral.service#AccessDeniedException"), 400), Refusal.UNAUTHORIZED),
        (answer(error("KmsInvalidStateException"), 400), Refusal.REFUSED),
        (answer(error("InternalFailure"), 500), ClaimEvent.LOST),
        (answer(error("ServiceUnavailable"), 503), ClaimEvent.LOST),
        (answer(error("ThrottlingException"), 503), ClaimEvent.LOST),
        # These could come from a gateway.
        (answer(b"{}"), ClaimEvent.LOST),
        (answer(b""), ClaimEvent.LOST),
        (answer(PAGE), ClaimEvent.LOST),
        (answer(b'{"executionArn": null}'), ClaimEvent.LOST),
        (answer(b'[":execution:"]'), ClaimEvent.LOST),
        (answer(b'{"executionArn": "arn:aws:states:r:1:express:take:run-1:u"}'), ClaimEvent.LOST),
        (answer(STARTED[:-1], is_whole=False), ClaimEvent.LOST),
        (answer(EXISTS, 400, is_whole=False), ClaimEvent.LOST),
        (answer(PAGE, 502), ClaimEvent.LOST),
        (answer(EXISTS, 504), ClaimEvent.LOST),
        (answer(PAGE, 522), ClaimEvent.LOST),
        (answer(PAGE, 403), Refusal.UNAUTHORIZED),
        (answer(PAGE, 404), Refusal.UNKNOWN_WORKFLOW),
    ],
)  # fmt: skip
def test_answers_to_a_start(received: Answer, meaning: ClaimEvent | Refusal) -> None:
    assert machine().read_start(received) is meaning


@pytest.mark.parametrize(
    ("received", "state"),
    [
        (answer(b'{"executionArn": "e", "status": "RUNNING"}'), RunState.RUNNING),
        (answer(b'{"executionArn": "e", "status": "PENDING_REDRIVE"}'), RunState.RUNNING),
        (answer(b'{"executionArn": "e", "status": "SUCCEEDED"}'), RunState.SUCCEEDED),
        (answer(b'{"executionArn": "e", "status": "FAILED"}'), RunState.FAILED),
        (answer(b'{"executionArn": "e", "status": "TIMED_OUT"}'), RunState.FAILED),
        (answer(b'{"executionArn": "e", "status": "ABORTED"}'), RunState.CANCELLED),
        (answer(ABSENT, 400), RunState.NOT_FOUND),
        (answer(b'{"executionArn": "e", "status": "A_NEW_ONE"}'), RunState.NO_ANSWER),
        (answer(b'{"status": "RUNNING"}'), RunState.NO_ANSWER),
        (answer(b'{"executionArn": "e", "status": "FAILED"}', 502), RunState.NO_ANSWER),
        (answer(b'{"status": "FAILED", "message": "upstream"}'), RunState.NO_ANSWER),
        (answer(b'{"status": "RUNNING"', is_whole=False), RunState.NO_ANSWER),
        (answer(ABSENT, 400, is_whole=False), RunState.NO_ANSWER),
        (answer(ABSENT, 502), RunState.NO_ANSWER),
        (answer(PAGE, 404), RunState.NO_ANSWER),
        (answer(error("InvalidArn"), 400), RunState.NO_ANSWER),
        (answer(error("AccessDeniedException"), 400), RunState.NO_ANSWER),
        (answer(error("ThrottlingException"), 400), RunState.NO_ANSWER),
        (answer(PAGE), RunState.NO_ANSWER),
    ],
)
def test_answers_to_an_ask(received: Answer, state: RunState) -> None:
    assert machine().read_ask(received).state is state


@pytest.mark.parametrize(
    ("received", "meaning"),
    [
        (answer(b'{"stopDate": 1795715110.636}'), Cancel.DONE),
        (answer(b"{}"), Cancel.DONE),
        (answer(b'{"message": "Please sign in"}'), Cancel.NO_ANSWER),
        (answer(ABSENT, 400), Cancel.NOT_FOUND),
        (answer(error("InvalidArn"), 400), Cancel.REFUSED),
        (answer(error("ThrottlingException"), 400), Cancel.NO_ANSWER),
        # Credentials may be renewed, and AWS refuses those that it does not accept with 400.
        (answer(error("ExpiredTokenException"), 400), Cancel.NO_ANSWER),
        (answer(error("MissingAuthenticationTokenException"), 400), Cancel.NO_ANSWER),
        (answer(error("com.amazon.coral.service#AccessDeniedException"), 400), Cancel.NO_ANSWER),
        (answer(error("InternalFailure"), 500), Cancel.NO_ANSWER),
        (answer(PAGE, 404), Cancel.NO_ANSWER),
        (answer(PAGE, 302), Cancel.NO_ANSWER),
        (answer(PAGE), Cancel.NO_ANSWER),
        (answer(ABSENT, 502), Cancel.NO_ANSWER),
    ],
)
def test_answers_to_a_cancel(received: Answer, meaning: Cancel) -> None:
    assert machine().read_cancel(received) is meaning


@pytest.mark.parametrize(
    ("received", "meaning"),
    [
        (answer(STANDARD), ""),
        (answer(EXPRESS), Refusal.UNSUPPORTED),
        (answer(STANDARD.replace(b"ACTIVE", b"DELETING")), Refusal.UNKNOWN_WORKFLOW),
        (answer(error("StateMachineDoesNotExist"), 400), Refusal.UNKNOWN_WORKFLOW),
        (answer(error("AccessDeniedException"), 400), Refusal.UNAUTHORIZED),
        (answer(PAGE), Refusal.UNAVAILABLE),
        (answer(PAGE, 503), Refusal.UNAVAILABLE),
        (answer(STANDARD[:-1], is_whole=False), Refusal.UNAVAILABLE),
    ],
)
def test_only_a_standard_machine_is_prepared(received: Answer, meaning: str | Refusal) -> None:
    request = machine().prepare()
    assert called(request) == ("AWSStepFunctions.DescribeStateMachine", {"stateMachineArn": ARN})
    assert machine().read_prepare(received) == meaning


def test_a_name_is_remembered_for_90_days() -> None:
    assert machine().window == timedelta(days=90)
    assert machine().can_be_asked
