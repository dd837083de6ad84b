"""The outcome of a dispatch for each kind of answer of the orchestrator."""

from uuid import uuid4

import pytest

from devstack.stack import Stack
from tests.acceptance import stored
from tests.acceptance.outcomes import (
    assert_accepted,
    assert_dispatched,
    assert_failed,
    assert_unknown,
    shown,
)
from tests.support import behaviours
from tests.support.behaviours import Behaviour, Exchange, accept, refuse
from tests.support.client import ApiClient
from tests.support.orchestrator import StubOrchestrator

# The shared stack's timeout, plus time for a busy machine.
EXCHANGE_SECONDS = 2 + 2


def send_and_close(head: bytes) -> Behaviour:
    """Send these bytes as the beginning of an answer, and close."""

    def behave(exchange: Exchange) -> None:
        exchange.send(head)
        exchange.close()

    return behave


def endless_body(status: int) -> Behaviour:
    """Answer without a length, and never end the body."""

    def behave(exchange: Exchange) -> None:
        exchange.begin(status, {"Connection": "close"})
        while not exchange.stopping.wait(0.1):
            exchange.send(b"x")

    return behave


ACCEPTED: dict[str, Behaviour] = {
    **{str(status): accept(status) for status in (200, 201, 202, 299)},
    "204 without a body": behaviours.answer(204, b""),
    "200 with an empty body": behaviours.empty_body(),
    "200 with a body that is not JSON": behaviours.not_json(),
    "200 with a huge body": behaviours.huge_body(),
    "200 with a body that breaks off": behaviours.truncated_body(),
    "200 with a body that never ends": behaviours.drip_body(),
}
REFUSED: dict[str, Behaviour] = {
    **{str(status): refuse(status) for status in (400, 401, 404, 409, 429, 500, 501)},
    "304": behaviours.answer(304, b""),
    "500 with an empty body": behaviours.answer(500, b""),
    "500 with a huge body": behaviours.huge_body(500),
}
# The reason of each status; others have the reason `refused`.
WHY = {
    "400": "invalid_parameters",
    "401": "unauthorized",
    "404": "unknown_workflow",
    "409": "refused",
    "429": "unavailable",
}
# Refused or unknown, depending on how much of it can be parsed.
NOT_VALID_HTTP = {
    "a status that is not a number": b"HTTP/1.1 abc OK\r\n\r\n",
    "a status of five digits": b"HTTP/1.1 50000 Told\r\nContent-Length: 0\r\n\r\n",
    "two lengths": b"HTTP/1.1 500 Told\r\nContent-Length: 5, 6\r\n\r\nhello",
    "a negative length": b"HTTP/1.1 500 Told\r\nContent-Length: -5\r\n\r\nhello",
    "a chunk without a length": b"HTTP/1.1 500 Told\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello",
    "a header of 70,000 bytes": b"HTTP/1.1 500 Told\r\nX-Long: " + b"x" * 70_000 + b"\r\n\r\n",
    "too many headers": b"HTTP/1.1 500 Told\r\n" + b"X-Many: x\r\n" * 200 + b"\r\n",
    "an invalid redirect": b"HTTP/1.1 302 Told\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n",
    "invalid gzip": (
        b"HTTP/1.1 500 Told\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello"
    ),
    "bytes beyond ASCII": b"HTTP/1.1 500 T\xff\xfe\r\nX-\xe4: \xff\r\nContent-Length: 0\r\n\r\n",
    "an invalid cookie": (
        b"HTTP/1.1 500 Told\r\nSet-Cookie: =;;=\x00\xff; expires=never\r\nContent-Length: 0\r\n\r\n"
    ),
    "only interim answers": b"HTTP/1.1 100 Continue\r\n\r\n" * 3,
}
UNKNOWN: dict[str, Behaviour] = {
    **{str(status): refuse(status) for status in (408, 460, 499, 502, 503, 504, 520, 527)},
    "a reset after the request was read": behaviours.reset_after_read(),
    "a close after the request was read": behaviours.close_after_read(),
    "an answer that is not HTTP": behaviours.not_http(),
    "500 with a head that breaks off": send_and_close(b"HTTP/1.1 500 Told\r\nContent-Type: te"),
    "500 with a head that ends too early": send_and_close(b"HTTP/1.1 500 Told\r\nX-A: b\r\n"),
    "200 with a head that breaks off": send_and_close(b"HTTP/1.1 200 OK\r\nContent-Len"),
    "500 with a body that breaks off": behaviours.truncated_body(500),
    "500 with a body of no length that never ends": endless_body(500),
    "500 with a body that never ends": behaviours.drip_body(500),
    "no answer": behaviours.hang(),
    "a head that never ends": behaviours.drip_head(),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_any_2xx_accepts_whatever_the_body(
    case: str, alice: ApiClient, job_id: str, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[job_id] = ACCEPTED[case]
    answer = alice.run(job_id)
    assert_accepted(answer)
    assert answer.elapsed.total_seconds() < EXCHANGE_SECONDS
    assert shown(alice, job_id) == ("AUDIO_EXTRACTING", "SENT", None)
    assert_accepted(alice.run(job_id), code=200)
    assert len(orchestrator.requests_for(job_id)) == 1


@pytest.mark.parametrize("case", REFUSED)
def test_a_complete_answer_that_is_not_2xx_refuses_and_the_next_run_reuses_the_id(
    case: str, alice: ApiClient, stack: Stack, job_id: str, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[job_id] = REFUSED[case]
    why = WHY.get(case, "refused")
    assert_failed(alice.run(job_id), why)
    assert shown(alice, job_id) == ("UPLOADED", "RELEASED", why)
    assert stored.claim(stack.redis, job_id) is None
    assert len(orchestrator.requests_for(job_id)) == 1
    orchestrator.behaviours[job_id] = accept()
    assert_accepted(alice.run(job_id))
    assert_dispatched(orchestrator, job_id, times=2)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_refusal_and_is_not_followed(
    status: int, alice: ApiClient, job_id: str, orchestrator: StubOrchestrator
) -> None:
    elsewhere = f"/elsewhere-{uuid4()}"
    location = orchestrator.url.replace("/dispatches", elsewhere)
    orchestrator.behaviours[job_id] = behaviours.redirect(location, status)
    assert_failed(alice.run(job_id), "refused")
    assert shown(alice, job_id) == ("UPLOADED", "RELEASED", "refused")
    assert elsewhere not in {request.path for request in orchestrator.requests}
    assert len(orchestrator.requests_for(job_id)) == 1


@pytest.mark.parametrize("case", UNKNOWN)
def test_without_a_complete_answer_the_outcome_is_unknown_and_nothing_is_sent_during_the_hold(
    case: str, alice: ApiClient, stack: Stack, job_id: str, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[job_id] = UNKNOWN[case]
    answer = alice.run(job_id)
    assert_unknown(answer)
    assert answer.elapsed.total_seconds() < EXCHANGE_SECONDS
    assert shown(alice, job_id) == ("UPLOADED", "UNKNOWN", "outcome_unknown")
    assert_unknown(alice.run(job_id))
    claim = stored.claim(stack.redis, job_id)
    assert (claim["phase"], claim["epoch"]) == ("UNKNOWN", 1)
    assert len(orchestrator.requests_for(job_id)) == 1


@pytest.mark.parametrize("case", NOT_VALID_HTTP)
def test_an_answer_that_violates_http_is_refused_or_unknown(
    case: str, alice: ApiClient, job_id: str, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[job_id] = send_and_close(NOT_VALID_HTTP[case])
    answer = alice.run(job_id)
    assert answer.status_code == 502
    reason = answer.json()["details"]["reason"]
    phase = {"refused": "RELEASED", "outcome_unknown": "UNKNOWN"}[reason]
    assert shown(alice, job_id) == ("UPLOADED", phase, reason)
    assert len(orchestrator.requests_for(job_id)) == 1


def test_a_reset_before_the_request_was_read_is_unknown_because_bytes_were_sent(
    alice: ApiClient, job_id: str, orchestrator: StubOrchestrator
) -> None:
    orchestrator.resets_before_reading = True
    try:
        assert_unknown(alice.run(job_id))
    finally:
        orchestrator.resets_before_reading = False
    assert shown(alice, job_id) == ("UPLOADED", "UNKNOWN", "outcome_unknown")
    assert orchestrator.requests_for(job_id) == []


def test_a_stale_connection_after_a_restart_of_the_orchestrator_does_not_fail_the_next_run(
    alice: ApiClient, job_id: str, orchestrator: StubOrchestrator
) -> None:
    assert_accepted(alice.run(alice.uploaded_job()["id"]))
    orchestrator.stop()
    orchestrator.start()
    assert_accepted(alice.run(job_id))
    assert len(orchestrator.requests_for(job_id)) == 1
