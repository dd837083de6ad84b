"""The adapter for Airflow. Bodies were recorded from Airflow 3.3.2 unless a comment says otherwise."""

import json
from datetime import UTC, datetime

import pytest

from domain.claim import ClaimEvent, Refusal, RunState
from orchestrators.airflow import Airflow
from orchestrators.base import Answer, Cancel, Dispatch, Run

JSON = "application/json"
JOB = {"job_id": "j1", "video_uri": "s3://x", "dispatch_id": "run-j1"}
DISPATCH = Dispatch("run-j1", JOB, datetime(2026, 3, 1, tzinfo=UTC))
ADAPTER = Airflow(url="http://airflow:8080/", workflow="take_one", credentials="takeone:pass:word")
BEARER = Airflow(url="http://airflow:8080", workflow="a dag/1", credentials="eyJ.x.y")

RUN = (
    b'{"dag_run_id":"run-j1","dag_id":"take_one","logical_date":null,'
    b'"queued_at":"2026-11-26T17:48:43.649604Z","start_date":null,"end_date":null,"duration":null,'
    b'"data_interval_start":null,"data_interval_end":null,"run_after":"2026-11-26T17:48:43.638696Z",'
    b'"last_scheduling_decision":null,"run_type":"manual","state":"queued","triggered_by":"rest_api",'
    b'"triggering_user_name":"takeone","conf":{"job_id":"j1","video_uri":"s3://x"},"note":null,'
    b'"bundle_version":null,"dag_display_name":"take_one","partition_key":null,"partition_date":null}'
)
TAKEN = (
    b'{"detail":{"reason":"Unique constraint violation","statement":"hidden","orig_error":"hidden",'
    b'"message":"Serious error when handling your request. Check logs for more details - you will find it '
    b'in api server when you look for ID HDk26O4w"}}'
)
MISSING = b'{"detail":"The DagRun with dag_id: `take_one` and run_id: `nope` was not found"}'
DAG = {"dag_id": "take_one", "is_paused": False, "is_stale": False, "has_import_errors": False}
PAGE = b"<!doctype html><html><head><title>Airflow</title></head></html>"


def answer(status: int, body: bytes = b"", is_whole: bool = True) -> Answer:
    return Answer(status, {"Content-Type": JSON}, body, is_whole)


def test_a_start_names_the_run_by_the_dispatch_id() -> None:
    request = ADAPTER.start(DISPATCH, "token")
    assert request.method == "POST"
    assert request.url == "http://airflow:8080/api/v2/dags/take_one/dagRuns"
    assert request.headers == {"Authorization": "Bearer token"}
    assert json.loads(request.body) == {
        "dag_run_id": "run-j1",
        "logical_date": None,
        "conf": JOB,
    }


def test_names_are_quoted_in_urls() -> None:
    assert BEARER.start(DISPATCH, "").url.endswith("/api/v2/dags/a%20dag%2F1/dagRuns")
    assert ADAPTER.ask("run-j/1", "token").url.endswith("/dagRuns/run-j%2F1")


@pytest.mark.parametrize(
    ("status", "body", "meaning"),
    [
        (200, RUN, ClaimEvent.ACCEPTED),
        (409, TAKEN, ClaimEvent.LOST),
        (401, b'{"detail":"Not authenticated"}', Refusal.UNAUTHORIZED),
        (401, b'{"detail":"Token Expired"}', Refusal.UNAUTHORIZED),
        (403, b'{"detail":"Forbidden"}', Refusal.UNAUTHORIZED),
        (404, b'{"detail":"Dag with dag_id: \'nope\' not found"}', Refusal.UNKNOWN_WORKFLOW),
        (400, b'{"detail":"The run_id provided \'a/b\' does not match regex pattern"}',
         Refusal.INVALID_PARAMETERS),
        (422, b'{"detail":[{"type":"missing","loc":["body","logical_date"],"msg":"Field required"}]}',
         Refusal.INVALID_PARAMETERS),
        (500, b'{"detail":{"reason":"Database error","statement":"hidden"}}',
         ClaimEvent.LOST),
        (502, PAGE, ClaimEvent.LOST),
        (503, b"", ClaimEvent.LOST),
        (504, PAGE, ClaimEvent.LOST),
        # The rest could come from a gateway.
        (200, PAGE, ClaimEvent.LOST),
        (200, b"", ClaimEvent.LOST),
        (200, b"[]", ClaimEvent.LOST),
        (200, b'{"dag_run_id":"run-j1"}', ClaimEvent.LOST),
        (201, b'{"id":"of another API"}', ClaimEvent.LOST),
        (408, b"", ClaimEvent.LOST),
        (522, PAGE, ClaimEvent.LOST),
        (409, PAGE, Refusal.REFUSED),
        (409, b'{"detail":"Unique constraint violation"}', Refusal.REFUSED),
        (302, b"", Refusal.REFUSED),
        (429, b"", Refusal.UNAVAILABLE),
    ],
)  # fmt: skip
def test_answers_to_a_start(status: int, body: bytes, meaning: ClaimEvent | Refusal) -> None:
    assert ADAPTER.read_start(answer(status, body)) == meaning


@pytest.mark.parametrize(("status", "body"), [(200, RUN), (409, TAKEN), (404, b'{"detail":"Dag')])
def test_an_answer_that_broke_off_proves_nothing(status: int, body: bytes) -> None:
    broken = answer(status, body[:-1], is_whole=False)
    assert ADAPTER.read_start(broken) is ClaimEvent.LOST
    assert ADAPTER.read_ask(broken).state is RunState.NO_ANSWER
    assert ADAPTER.read_cancel(broken) is Cancel.NO_ANSWER


@pytest.mark.parametrize(
    ("status", "body", "state"),
    [
        (200, RUN, RunState.RUNNING),
        (200, RUN.replace(b'"queued"', b'"running"'), RunState.RUNNING),
        (200, RUN.replace(b'"queued"', b'"success"'), RunState.SUCCEEDED),
        (200, RUN.replace(b'"queued"', b'"failed"'), RunState.FAILED),
        (200, RUN.replace(b'"queued"', b'"of a later release"'), RunState.NO_ANSWER),
        (404, MISSING, RunState.NOT_FOUND),
        (404, b'{"error":"API route not found"}', RunState.NO_ANSWER),
        (404, PAGE, RunState.NO_ANSWER),
        (200, PAGE, RunState.NO_ANSWER),
        (200, MISSING, RunState.NO_ANSWER),
        (401, b'{"detail":"Not authenticated"}', RunState.NO_ANSWER),
        (500, b'{"detail":{"reason":"Database error"}}', RunState.NO_ANSWER),
        (502, PAGE, RunState.NO_ANSWER),
    ],
)
def test_answers_to_an_ask(status: int, body: bytes, state: RunState) -> None:
    assert ADAPTER.read_ask(answer(status, body)) == Run(state)


def test_a_run_is_cancelled_by_marking_it_as_failed() -> None:
    request = ADAPTER.cancel(DISPATCH, Run(RunState.RUNNING), "token")
    assert request.method == "PATCH"
    assert request.url == "http://airflow:8080/api/v2/dags/take_one/dagRuns/run-j1"
    assert json.loads(request.body)["state"] == "failed"
    assert ADAPTER.asks_before_cancel


@pytest.mark.parametrize(
    ("status", "body", "meaning"),
    [
        (200, RUN.replace(b'"queued"', b'"failed"'), Cancel.DONE),
        (404, MISSING, Cancel.NOT_FOUND),
        # The run is there, and its DAG's file is not.
        (404, b'{"detail":"The Dag with ID: `take_one` was not found"}', Cancel.NO_ANSWER),
        (404, PAGE, Cancel.NO_ANSWER),
        (403, b'{"detail":"Forbidden"}', Cancel.NO_ANSWER),
        (422, b'{"detail":[]}', Cancel.REFUSED),
        (200, PAGE, Cancel.NO_ANSWER),
        (500, b'{"detail":{"reason":"Database error"}}', Cancel.NO_ANSWER),
        (502, PAGE, Cancel.NO_ANSWER),
    ],
)
def test_answers_to_a_cancel(status: int, body: bytes, meaning: Cancel) -> None:
    assert ADAPTER.read_cancel(answer(status, body)) is meaning


def test_a_token_is_requested_with_the_password_in_the_body() -> None:
    request = ADAPTER.prepare()
    assert request is not None
    assert (request.method, request.url) == ("POST", "http://airflow:8080/auth/token")
    assert json.loads(request.body) == {"username": "takeone", "password": "pass:word"}
    assert not request.headers


def test_the_token_is_read_from_the_answer() -> None:
    assert ADAPTER.read_prepare(answer(201, b'{"access_token":"eyJ.x.y"}')) == "eyJ.x.y"


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (401, b'{"detail":"Invalid credentials"}', Refusal.UNAUTHORIZED),
        (400, b'{"detail":"Username and password must be provided"}', Refusal.UNAUTHORIZED),
        (404, PAGE, Refusal.UNAVAILABLE),
        (200, PAGE, Refusal.UNAVAILABLE),
        (201, b'{"access_token":null}', Refusal.UNAVAILABLE),
        (500, b"", Refusal.UNAVAILABLE),
        (502, PAGE, Refusal.UNAVAILABLE),
    ],
)
def test_reasons_for_no_token(status: int, body: bytes, why: Refusal) -> None:
    assert ADAPTER.read_prepare(answer(status, body)) is why


def test_a_bearer_token_is_sent_without_a_sign_in() -> None:
    assert BEARER.prepare() is None
    assert BEARER.start(DISPATCH, "").headers == {"Authorization": "Bearer eyJ.x.y"}
    assert not BEARER.is_stale(answer(401, b'{"detail":"Token Expired"}'))
    no_credentials = Airflow(url="http://airflow:8080", workflow="take_one", credentials="")
    assert no_credentials.start(DISPATCH, "").headers == {}


@pytest.mark.parametrize(
    ("status", "body", "is_stale"),
    [
        (401, b'{"detail":"Token Expired"}', True),
        (401, b'{"detail":"Not authenticated"}', True),
        (403, b'{"detail":"Invalid JWT token"}', True),
        (403, b'{"detail":"Forbidden"}', False),
        (403, PAGE, False),
        (502, b'{"detail":"Invalid JWT token"}', False),
        (200, RUN, False),
        (409, TAKEN, False),
    ],
)
def test_answers_that_renew_the_token(status: int, body: bytes, is_stale: bool) -> None:
    assert ADAPTER.is_stale(answer(status, body)) is is_stale


def health(scheduler: object) -> bytes:
    return json.dumps({"metadatabase": {"status": "healthy"}, "scheduler": scheduler}).encode()


@pytest.mark.parametrize(
    ("name", "status", "body", "problem"),
    [
        ("dag", 200, json.dumps(DAG).encode(), None),
        ("dag", 200, json.dumps({**DAG, "is_paused": True}).encode(), "paused"),
        ("dag", 200, json.dumps({**DAG, "is_stale": True}).encode(), "cannot read"),
        ("dag", 200, json.dumps({**DAG, "has_import_errors": True}).encode(), "cannot read"),
        ("dag", 404, b'{"detail":"The Dag with ID: `nope` was not found"}', "no such DAG"),
        ("dag", 404, PAGE, "answered 404"),
        ("dag", 200, PAGE, "answered 200"),
        ("dag", 401, b'{"detail":"Not authenticated"}', "answered 401"),
        ("scheduler", 200, health({"status": "healthy"}), None),
        ("scheduler", 200, health({"status": "unhealthy"}), "no scheduler"),
        ("scheduler", 200, health(None), "answered 200"),
        ("scheduler", 502, PAGE, "answered 502"),
    ],
)
def test_problems_for_doctor(name: str, status: int, body: bytes, problem: str | None) -> None:
    assert ADAPTER.checks("token")[name].method == "GET"
    found = ADAPTER.problem(name, answer(status, body))
    assert found is None if problem is None else problem in (found or "")
