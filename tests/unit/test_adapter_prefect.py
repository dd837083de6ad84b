"""The adapter for Prefect. Bodies were recorded from Prefect 3.9.1 unless a comment says otherwise."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from domain.claim import ClaimEvent, Refusal, RunState
from orchestrators.base import Answer, Cancel, Dispatch, Run
from orchestrators.prefect import Prefect

JSON = "application/json"
JOB = {"job_id": "j1", "video_uri": "s3://x", "dispatch_id": "run-j1"}
DISPATCH = Dispatch("run-j1", JOB, datetime(2026, 3, 1, tzinfo=UTC))
URL = "http://prefect:4200/api"
ADAPTER = Prefect(url=f"{URL}/", workflow="take/production", credentials="takeone:a password")
DEPLOYMENT_ID = "beeae91e-b53d-4898-ada4-b36e54db4919"
RUN_ID = "4c52cab6-ceb8-44f8-a47b-0f9af832b22a"

RUN = (
    b'{"id":"4c52cab6-ceb8-44f8-a47b-0f9af832b22a","created":"2026-11-26T17:44:40.659190Z",'
    b'"updated":"2026-11-26T17:44:40.652204Z","name":"run-j1",'
    b'"flow_id":"dfad34df-a964-48da-b9ec-f2a0700569aa","state_id":"01a218f5-a1d2-7e3a-9015-2df3b138cd6a",'
    b'"deployment_id":"beeae91e-b53d-4898-ada4-b36e54db4919","work_queue_id":null,"flow_version":null,'
    b'"parameters":{"job":{"job_id":"j1","video_uri":"s3://x","dispatch_id":"run-j1"}},'
    b'"idempotency_key":"run-j1","context":{},"tags":[],"parent_task_run_id":null,'
    b'"state_type":"SCHEDULED","state_name":"Scheduled","run_count":0,'
    b'"expected_start_time":"2026-11-26T17:44:40.658936Z"}'
)
DEPLOYMENT = (
    b'{"id":"beeae91e-b53d-4898-ada4-b36e54db4919","created":"2026-11-26T17:44:13.297017Z",'
    b'"name":"production","flow_id":"dfad34df-a964-48da-b9ec-f2a0700569aa","paused":false,'
    b'"schedules":[],"work_queue_name":null,"last_polled":"2026-11-26T17:44:39.736046Z",'
    b'"status":"READY","enforce_parameter_schema":true}'
)
NO_DEPLOYMENT = b'{"detail":"Deployment not found"}'
NO_RUN = b'{"exception_message":"Flow run with id 4c52cab6-ceb8-44f8-a47b-0f9af832b200 not found"}'
UNAUTHORIZED = b'{"exception_message":"Unauthorized"}'
PAGE = b"<html><body>Prefect</body></html>"


def answer(status: int, body: bytes = b"", is_whole: bool = True) -> Answer:
    return Answer(status, {"Content-Type": JSON}, body, is_whole)


def test_a_start_has_the_dispatch_id_as_its_idempotency_key() -> None:
    request = ADAPTER.start(DISPATCH, DEPLOYMENT_ID)
    assert request.method == "POST"
    assert request.url == f"{URL}/deployments/{DEPLOYMENT_ID}/create_flow_run"
    expected = {"parameters": {"job": JOB}, "idempotency_key": "run-j1", "name": "run-j1"}
    assert json.loads(request.body) == expected
    assert ADAPTER.window == timedelta.max


@pytest.mark.parametrize(
    ("credentials", "headers"),
    [
        ("", {}),
        ("takeone:a password", {"Authorization": "Basic dGFrZW9uZTphIHBhc3N3b3Jk"}),
        ("pnu_1234", {"Authorization": "Bearer pnu_1234"}),
    ],
)
def test_credentials_are_sent_as_their_form_requires(
    credentials: str, headers: dict[str, str]
) -> None:
    adapter = Prefect(url=URL, workflow="take/production", credentials=credentials)
    assert adapter.prepare().headers == headers
    assert adapter.ask("run-j1", DEPLOYMENT_ID).headers == headers


def test_names_are_quoted_in_urls() -> None:
    adapter = Prefect(url=URL, workflow="a flow/v1/x?y", credentials="")
    assert adapter.prepare().url == f"{URL}/deployments/name/a%20flow/v1%2Fx%3Fy"


@pytest.mark.parametrize(
    ("status", "body", "meaning"),
    [
        (201, RUN, ClaimEvent.ACCEPTED),
        (200, RUN.replace(b"SCHEDULED", b"COMPLETED"), ClaimEvent.ACCEPTED),
        (409, b'{"detail":"Error creating flow run: Validation failed for field \'job\'. Failure reason: '
              b'3 is not of type \'object\'"}', Refusal.INVALID_PARAMETERS),
        (422, b'{"exception_message":"Invalid request received.","exception_detail":[]}',
         Refusal.INVALID_PARAMETERS),
        (404, NO_DEPLOYMENT, Refusal.UNKNOWN_WORKFLOW),
        (401, UNAUTHORIZED, Refusal.UNAUTHORIZED),
        (503, b'{"exception_message":"Service Unavailable"}', ClaimEvent.LOST),
        (500, b'{"exception_message":"Internal Server Error"}', ClaimEvent.LOST),
        # The rest could come from a gateway.
        (200, PAGE, ClaimEvent.LOST),
        (201, b"", ClaimEvent.LOST),
        (201, b'{"id":"of another API"}', ClaimEvent.LOST),
        (200, b"[]", ClaimEvent.LOST),
        (502, PAGE, ClaimEvent.LOST),
        (504, PAGE, ClaimEvent.LOST),
        (408, b"", ClaimEvent.LOST),
        (524, PAGE, ClaimEvent.LOST),
        (429, PAGE, Refusal.UNAVAILABLE),
        (302, b"", Refusal.REFUSED),
    ],
)  # fmt: skip
def test_answers_to_a_start(status: int, body: bytes, meaning: ClaimEvent | Refusal) -> None:
    assert ADAPTER.read_start(answer(status, body)) == meaning


@pytest.mark.parametrize(("status", "body"), [(201, RUN), (409, NO_RUN), (404, NO_DEPLOYMENT)])
def test_an_answer_that_broke_off_proves_nothing(status: int, body: bytes) -> None:
    broken = answer(status, body[:-1], is_whole=False)
    assert ADAPTER.read_start(broken) == ClaimEvent.LOST
    assert ADAPTER.read_ask(broken) == Run(RunState.NO_ANSWER)
    assert ADAPTER.read_cancel(broken) is Cancel.NO_ANSWER
    assert not ADAPTER.is_stale(broken)


def test_an_ask_looks_for_the_flows_run_with_the_key() -> None:
    request = ADAPTER.ask("run-j1", DEPLOYMENT_ID)
    assert (request.method, request.url) == ("POST", f"{URL}/flow_runs/filter")
    assert json.loads(request.body) == {
        "flows": {"name": {"any_": ["take"]}},
        "flow_runs": {"idempotency_key": {"any_": ["run-j1"]}},
        "limit": 1,
    }


@pytest.mark.parametrize(
    ("state_type", "state"),
    [
        ("SCHEDULED", RunState.RUNNING),
        ("PENDING", RunState.RUNNING),
        ("RUNNING", RunState.RUNNING),
        ("PAUSED", RunState.RUNNING),
        ("CANCELLING", RunState.RUNNING),
        ("COMPLETED", RunState.SUCCEEDED),
        ("FAILED", RunState.FAILED),
        ("CRASHED", RunState.FAILED),
        ("CANCELLED", RunState.CANCELLED),
        ("OF_A_LATER_RELEASE", RunState.NO_ANSWER),
    ],
)
def test_states_of_a_flow_run(state_type: str, state: RunState) -> None:
    body = b"[" + RUN.replace(b"SCHEDULED", state_type.encode()) + b"]"
    assert ADAPTER.read_ask(answer(200, body)) == Run(state, RUN_ID)


@pytest.mark.parametrize(
    ("status", "body", "state"),
    [
        (200, b"[]", RunState.NOT_FOUND),
        (404, b"[]", RunState.NO_ANSWER),
        (200, b"", RunState.NO_ANSWER),
        (200, b"{}", RunState.NO_ANSWER),
        (200, b"[{}]", RunState.NO_ANSWER),
        (200, PAGE, RunState.NO_ANSWER),
        (404, b'{"detail":"Not Found"}', RunState.NO_ANSWER),
        (401, UNAUTHORIZED, RunState.NO_ANSWER),
        (503, b'{"exception_message":"Service Unavailable"}', RunState.NO_ANSWER),
        (502, PAGE, RunState.NO_ANSWER),
    ],
)
def test_only_an_empty_list_means_not_found(status: int, body: bytes, state: RunState) -> None:
    assert ADAPTER.read_ask(answer(status, body)) == Run(state)


def test_a_run_is_cancelled_by_prefects_own_id() -> None:
    request = ADAPTER.cancel(DISPATCH, Run(RunState.RUNNING, RUN_ID), DEPLOYMENT_ID)
    assert request is not None
    assert (request.method, request.url) == ("POST", f"{URL}/flow_runs/{RUN_ID}/set_state")
    assert json.loads(request.body) == {"state": {"type": "CANCELLING"}}
    assert ADAPTER.cancel(DISPATCH, None, DEPLOYMENT_ID) is None
    assert ADAPTER.asks_before_cancel


def state_set(state: str, status: str) -> bytes:
    """An answer of `set_state`, without the fields that are null."""
    return json.dumps(
        {
            "state": {"id": "01a218f5-b9ac-79dc-83d7-2e1e5397b97e", "type": state},
            "status": status,
            "details": {"type": f"{status.lower()}_details"},
        }
    ).encode()


@pytest.mark.parametrize(
    ("status", "body", "meaning"),
    [
        (201, state_set("CANCELLING", "ACCEPT"), Cancel.DONE),
        (201, state_set("CANCELLED", "REJECT"), Cancel.DONE),  # it had not started
        (200, state_set("CANCELLED", "ABORT"), Cancel.DONE),  # it had ended
        (200, state_set("COMPLETED", "ABORT"), Cancel.DONE),
        (201, state_set("RUNNING", "REJECT"), Cancel.NO_ANSWER),
        (200, PAGE, Cancel.NO_ANSWER),
        (200, b'{"state":null,"status":"WAIT"}', Cancel.NO_ANSWER),
        (404, NO_RUN, Cancel.NOT_FOUND),
        (401, UNAUTHORIZED, Cancel.NO_ANSWER),
        (503, b'{"exception_message":"Service Unavailable"}', Cancel.NO_ANSWER),
        (502, PAGE, Cancel.NO_ANSWER),
    ],
)
def test_answers_to_a_cancel(status: int, body: bytes, meaning: Cancel) -> None:
    assert ADAPTER.read_cancel(answer(status, body)) is meaning


def test_the_deployments_id_is_found_by_its_name() -> None:
    request = ADAPTER.prepare()
    assert (request.method, request.url) == ("GET", f"{URL}/deployments/name/take/production")
    assert ADAPTER.read_prepare(answer(200, DEPLOYMENT)) == DEPLOYMENT_ID


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (404, NO_DEPLOYMENT, Refusal.UNKNOWN_WORKFLOW),
        (401, UNAUTHORIZED, Refusal.UNAUTHORIZED),
        (200, PAGE, Refusal.UNAVAILABLE),  # the UI's: the URL lacks /api
        (200, b'{"id":1}', Refusal.UNAVAILABLE),
        (503, b'{"exception_message":"Service Unavailable"}', Refusal.UNAVAILABLE),
        (502, PAGE, Refusal.UNAVAILABLE),
    ],
)
def test_reasons_for_no_deployment(status: int, body: bytes, why: Refusal) -> None:
    assert ADAPTER.read_prepare(answer(status, body)) is why


def test_the_id_is_stale_once_the_deployment_is_deleted() -> None:
    assert ADAPTER.is_stale(answer(404, NO_DEPLOYMENT))
    assert not ADAPTER.is_stale(answer(404, NO_RUN))
    assert not ADAPTER.is_stale(answer(502, NO_DEPLOYMENT))
    assert not ADAPTER.is_stale(answer(404, PAGE))
    assert not ADAPTER.is_stale(answer(401, UNAUTHORIZED))
    assert not ADAPTER.is_stale(answer(201, RUN))


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [
        (200, DEPLOYMENT, None),
        (200, DEPLOYMENT.replace(b'"paused":false', b'"paused":true'), "paused"),
        (200, DEPLOYMENT.replace(b"READY", b"NOT_READY"), "no worker"),
        (404, NO_DEPLOYMENT, "no such deployment"),
        (404, b'{"detail":"Not Found"}', "answered 404"),
        (200, PAGE, "/api"),
        (502, PAGE, "answered 502"),
    ],
)
def test_problems_for_doctor(status: int, body: bytes, problem: str | None) -> None:
    ((name, request),) = ADAPTER.checks(DEPLOYMENT_ID).items()
    assert request.url == f"{URL}/deployments/name/take/production"
    found = ADAPTER.problem(name, answer(status, body))
    assert found is None if problem is None else problem in (found or "")
