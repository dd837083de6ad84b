"""The adapter for Restate. Bodies were recorded from Restate 1.7.12."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from domain.claim import ClaimEvent, Refusal, RunState
from orchestrators.base import Answer, Cancel, Dispatch, Request, Run
from orchestrators.restate import Restate

INVOCATION = "inv_19zzqrrT9bTB6v6pNjmGaqEunSXmL2UrZp"
KEY = "run-7b4e"
RESTATE = Restate("https://ingress/", "Take/run", "token", "https://admin/")
WITHOUT_ADMIN = Restate("https://ingress", "Take/run", "", "")
DISPATCH = Dispatch(KEY, {"job_id": "7b4e", "dispatch_id": KEY}, datetime(2026, 3, 2, tzinfo=UTC))

NO_SERVICE = (
    b'{"code":404,"message":"service \'Takex\' not found, make sure to register the service before '
    b'calling it.","source":"ingress"}'
)
PAGE = b"<html><h1>It works</h1></html>"


def answer(status: int, body: bytes = b"", is_whole: bool = True, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, named, body, is_whole)


def accepted(status: str) -> bytes:
    return json.dumps({"invocationId": INVOCATION, "status": status}).encode()


def test_a_start_is_a_send_under_the_dispatch_id() -> None:
    headers = {"Authorization": "Bearer token", "idempotency-key": KEY}
    request = RESTATE.start(DISPATCH, "")
    assert request == Request("POST", "https://ingress/Take/run/send", DISPATCH.body, headers)


def test_names_are_quoted() -> None:
    odd = Restate("https://ingress", "Ta ke/r?n", "", "https://admin")
    assert odd.start(DISPATCH, "").url == "https://ingress/Ta%20ke/r%3Fn/send"
    url = odd.ask("run/../x", "").url
    assert url == "https://ingress/restate/invocation/Ta%20ke/r%3Fn/run%2F..%2Fx/output"
    query = Restate("", "Ta'ke/run", "", "https://admin").ask_before_cancel(KEY, "").body
    assert b"target = 'Ta''ke/run' AND idempotency_key = 'run-7b4e'" in query


def test_without_credentials_there_is_no_authorization() -> None:
    assert WITHOUT_ADMIN.start(DISPATCH, "").headers == {"idempotency-key": KEY}


@pytest.mark.parametrize(
    ("status", "body", "meaning"),
    [
        (202, accepted("Accepted"), ClaimEvent.ACCEPTED),
        (202, accepted("PreviouslyAccepted"), ClaimEvent.ACCEPTED),
        (404, NO_SERVICE, Refusal.UNKNOWN_WORKFLOW),
        (
            404,
            b'{"code":404,"message":"the service \'Take\' exists, but the handler \'runx\' was not found, '
            b'check that the handler exists in the latest registered service version.","source":"ingress"}',
            Refusal.UNKNOWN_WORKFLOW,
        ),
        (
            400,
            b'{"code":400,"message":"input validation error: Content-type \'text/plain\' does not match '
            b'\'application/json\'","source":"ingress"}',
            Refusal.INVALID_PARAMETERS,
        ),
        (503, b'{"code":503,"message":"x","source":"ingress"}', ClaimEvent.LOST),
        # The rest could come from a gateway.
        (401, b"", Refusal.UNAUTHORIZED),
        (403, b"", Refusal.UNAUTHORIZED),
        (429, b"", Refusal.UNAVAILABLE),
        (302, b"", Refusal.REFUSED),
        (202, PAGE, ClaimEvent.LOST),
        (200, b"", ClaimEvent.LOST),
        (202, accepted("Accepted")[:-5], ClaimEvent.LOST),
        (202, b'{"status":"Accepted"}', ClaimEvent.LOST),
        (202, accepted("Rejected"), ClaimEvent.LOST),
        (202, b"[]", ClaimEvent.LOST),
        (500, accepted("Accepted"), ClaimEvent.LOST),
        (500, PAGE, ClaimEvent.LOST),
        (502, PAGE, ClaimEvent.LOST),
        (504, PAGE, ClaimEvent.LOST),
        (524, PAGE, ClaimEvent.LOST),
        (408, PAGE, ClaimEvent.LOST),
    ],
)
def test_answers_to_a_start(status: int, body: bytes, meaning: ClaimEvent | Refusal) -> None:
    assert RESTATE.read_start(answer(status, body)) == meaning


FAILED = b'{"code":500,"message":"transcription was asked to fail","source":"invocation"}'
NOT_FOUND = b'{"code":404,"message":"invocation not found","source":"ingress"}'
RUNNING = (
    b'{"code":470,"message":"the invocation exists but has not completed yet","source":"ingress"}'
)


@pytest.mark.parametrize(
    ("status", "body", "headers", "run"),
    [
        (200, b'"done"', {"x_restate_id": INVOCATION}, Run(RunState.SUCCEEDED, INVOCATION)),
        # A run may return anything.
        (200, b'{"rows":[]}', {"x_restate_id": INVOCATION}, Run(RunState.SUCCEEDED, INVOCATION)),
        (200, FAILED, {"x_restate_id": INVOCATION}, Run(RunState.SUCCEEDED, INVOCATION)),
        (200, b"", {"x_restate_id": INVOCATION}, Run(RunState.SUCCEEDED, INVOCATION)),
        (470, RUNNING, {}, Run(RunState.RUNNING)),
        (404, NOT_FOUND, {}, Run(RunState.NOT_FOUND)),
        (500, FAILED, {"x_restate_id": INVOCATION}, Run(RunState.FAILED, INVOCATION)),
        # A run may fail with any code, even one that has a meaning at the ingress.
        (404, NOT_FOUND.replace(b"ingress", b"invocation"), {}, Run(RunState.FAILED)),
        (470, RUNNING.replace(b"ingress", b"invocation"), {}, Run(RunState.FAILED)),
        (
            409,
            b'{"code":409,"message":"cancelled","source":"invocation"}',
            {"x_restate_id": INVOCATION},
            Run(RunState.CANCELLED, INVOCATION),
        ),
        (404, NO_SERVICE, {}, Run(RunState.NO_ANSWER)),
        (404, PAGE, {}, Run(RunState.NO_ANSWER)),
        (404, b"", {}, Run(RunState.NO_ANSWER)),
        (200, b'"done"', {}, Run(RunState.NO_ANSWER)),
        (200, PAGE, {}, Run(RunState.NO_ANSWER)),
        (470, PAGE, {}, Run(RunState.NO_ANSWER)),
        (401, b"", {}, Run(RunState.NO_ANSWER)),
        (502, PAGE, {}, Run(RunState.NO_ANSWER)),
        (503, b'{"code":503,"message":"x","source":"ingress"}', {}, Run(RunState.NO_ANSWER)),
    ],
)
def test_states_of_a_run_from_the_ingress(
    status: int, body: bytes, headers: dict[str, str], run: Run
) -> None:
    assert RESTATE.read_ask(answer(status, body, **headers)) == run


def test_an_answer_that_broke_off_proves_nothing() -> None:
    assert RESTATE.read_start(answer(202, accepted("Accepted"), False)) == ClaimEvent.LOST
    assert RESTATE.read_start(answer(404, NO_SERVICE, False)) == ClaimEvent.LOST
    assert RESTATE.read_ask(answer(404, NOT_FOUND, False)) == Run(RunState.NO_ANSWER)
    assert RESTATE.read_cancel(answer(200, b"", False)) == Cancel.NO_ANSWER


def row(**columns: Any) -> bytes:
    return json.dumps({"rows": [{"id": INVOCATION, **columns}]}).encode()


@pytest.mark.parametrize(
    ("body", "run"),
    [
        (row(status="backing-off"), Run(RunState.RUNNING, INVOCATION)),
        (row(status="paused"), Run(RunState.RUNNING, INVOCATION)),
        (row(status="completed", completion_result="success"), Run(RunState.SUCCEEDED, INVOCATION)),
        (
            row(status="completed", completion_result="failure", completion_failure="[500] no"),
            Run(RunState.FAILED, INVOCATION),
        ),
        (
            row(status="completed", completion_failure="[409] cancelled"),
            Run(RunState.CANCELLED, INVOCATION),
        ),
        (b'{"rows":[]}', Run(RunState.NOT_FOUND)),
        (b'{"rows":[7]}', Run(RunState.NO_ANSWER)),
        (b'{"rows":[{"status":"running"}]}', Run(RunState.NO_ANSWER)),
        (b'{"rows":{}}', Run(RunState.NO_ANSWER)),
        (b'{"rows":[', Run(RunState.NO_ANSWER)),
    ],
)
def test_states_of_a_run_from_the_admin_api(body: bytes, run: Run) -> None:
    assert RESTATE.read_ask(answer(200, body)) == run


def test_a_run_is_cancelled_by_restates_own_id() -> None:
    request = RESTATE.cancel(DISPATCH, Run(RunState.RUNNING, INVOCATION), "")
    headers = {"Authorization": "Bearer token"}
    url = f"https://admin/invocations/{INVOCATION}/cancel"
    assert request == Request("PATCH", url, headers=headers)
    assert RESTATE.cancel(DISPATCH, None, "") is None
    assert RESTATE.cancel(DISPATCH, Run(RunState.RUNNING), "") is None


def test_without_the_admin_api_nothing_is_cancelled() -> None:
    assert not WITHOUT_ADMIN.can_cancel
    assert not WITHOUT_ADMIN.asks_before_cancel


@pytest.mark.parametrize(
    ("status", "body", "meaning"),
    [
        (202, b"", Cancel.DONE),
        (409, b'{"message":"The invocation \'inv_1\' was already completed."}', Cancel.DONE),
        (404, b'{"message":"The requested invocation \'inv_1\' does not exist"}', Cancel.NOT_FOUND),
        (200, PAGE, Cancel.NO_ANSWER),
        (404, PAGE, Cancel.NO_ANSWER),
        (409, PAGE, Cancel.NO_ANSWER),
        (400, b'{"message":"The request field is invalid."}', Cancel.REFUSED),
        (401, b"", Cancel.NO_ANSWER),
        (500, PAGE, Cancel.NO_ANSWER),
        (502, PAGE, Cancel.NO_ANSWER),
    ],
)
def test_answers_to_a_cancel(status: int, body: bytes, meaning: Cancel) -> None:
    assert RESTATE.read_cancel(answer(status, body)) is meaning


def described(**changes: Any) -> bytes:
    service = {
        "name": "Take",
        "handlers": [{"name": "run", "public": True}],
        "public": True,
        "idempotency_retention": "30d",
    }
    return json.dumps(service | changes).encode()


def test_doctor_asks_the_ingress_and_the_admin_api_if_there_is_one() -> None:
    ingress, admin = "https://ingress/restate/health", "https://admin/services/Take"
    assert [check.url for check in RESTATE.checks("").values()] == [ingress, admin]
    assert [check.url for check in WITHOUT_ADMIN.checks("").values()] == [ingress]


@pytest.mark.parametrize(
    ("name", "status", "body", "problem"),
    [
        ("registered", 200, b'{"services":["Other","Take"]}', None),
        ("registered", 200, b'{"services":["Other"]}', "not registered"),
        ("registered", 200, b'{"services":7}', "not registered"),
        ("registered", 200, PAGE, "not registered"),
        ("handler", 200, described(), None),
        ("handler", 200, described(idempotency_retention="1d 12h"), None),
        ("handler", 200, described(idempotency_retention="23h 59m"), "less than a day"),
        ("handler", 200, described(idempotency_retention=None), "less than a day"),
        (
            "handler",
            200,
            described(handlers=[{"name": "run", "public": True, "idempotency_retention": "1h"}]),
            "less than a day",
        ),
        ("handler", 200, described(handlers=[{"name": "run", "public": False}]), "private"),
        ("handler", 200, described(handlers=[{"name": "other"}]), "no such handler"),
        ("handler", 404, b'{"message":"The requested service does not exist"}', "no such handler"),
        ("handler", 200, b'{"handlers":[1]}', "no such handler"),
        ("handler", 200, PAGE, "no such handler"),
    ],
)
def test_problems_for_doctor(name: str, status: int, body: bytes, problem: str | None) -> None:
    found = RESTATE.problem(name, answer(status, body))
    assert found is None if problem is None else problem in str(found)
