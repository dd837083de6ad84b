"""Signed dispatches and callbacks, by the Standard Webhooks specification."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from standardwebhooks.webhooks import Webhook

from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.conftest import NewStack
from tests.support import openapi
from tests.support.behaviours import accept, in_turn, refuse
from tests.support.client import ApiClient, status_report
from tests.support.job_handle import JobHandle
from tests.support.orchestrator import StubOrchestrator

OLD, NEW, FOREIGN = (f"whsec_{letter * 40}" for letter in "bcd")


@pytest.fixture(scope="module")
def service(new_stack: NewStack, orchestrator: StubOrchestrator) -> Iterator[Stack]:
    """A service during a rotation: the new secret signs, the old one is still accepted."""
    with new_stack(
        TAKEONE_ORCHESTRATOR_CANCEL_URL=f"{orchestrator.url}/cancelled",
        TAKEONE_SIGNING_SECRET=f"{NEW},{OLD}",
    ) as running:
        yield running


def signature(body: bytes, secret: str = NEW, seconds_ago: float = 0) -> dict[str, str]:
    """The headers of a signed message."""
    moment = datetime.now(UTC) - timedelta(seconds=seconds_ago)
    return {
        "webhook-id": "wf-1-step-2",
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(secret).sign("wf-1-step-2", moment, body.decode()),
    }


def post(url: str, job_id: str, body: bytes, headers: dict[str, str]) -> requests.Response:
    """Send a callback with these headers and no other credentials."""
    headers = {"Content-Type": "application/json", **headers}
    client = ApiClient(url, token="")
    return client.post(f"/internal/jobs/{job_id}/status", data=body, headers=headers)


def report(status: str = "AUDIO_READY") -> bytes:
    """A callback's body, with white space that would be lost if the body were parsed and rewritten."""
    return json.dumps(status_report(status), indent=3).encode()


def verified(request: Any) -> str:
    """Verify the request's signature with the first secret; return its webhook-id."""
    Webhook(NEW).verify(request.body, request.headers)
    return str(request.headers["webhook-id"])


def test_a_dispatch_is_signed_with_the_first_secret_under_its_id(
    handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    handle.lead_to("AUDIO_EXTRACTING")
    (request,) = orchestrator.requests_for(handle.id)
    assert verified(request) == request.dispatch_id == handle.run_id
    openapi.check_webhook("run", request.json, request.headers)


def test_a_resent_dispatch_is_signed_again_under_the_same_id(
    handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[handle.id] = in_turn(refuse(500), accept())
    assert handle.client.run(handle.id).status_code == 502
    assert handle.client.run(handle.id).status_code == 202
    ids = [verified(request) for request in orchestrator.requests_for(handle.id)]
    assert ids == [handle.run_id] * 2


def test_a_cancel_notification_is_signed(handle: JobHandle, orchestrator: StubOrchestrator) -> None:
    handle.lead_to("AUDIO_EXTRACTING")
    assert handle.client.cancel(handle.id).status_code == 200
    orchestrator.wait_for_requests(handle.id, 2)
    notification = orchestrator.requests_for(handle.id)[1]
    assert verified(notification) == notification.dispatch_id
    assert notification.path.endswith("/cancelled")
    openapi.check_webhook("cancel", notification.json, notification.headers)


@pytest.mark.parametrize("secret", [OLD, NEW])
def test_a_signed_callback_needs_no_shared_secret(
    secret: str, handle: JobHandle, service: Stack
) -> None:
    handle.lead_to("AUDIO_EXTRACTING")
    body = report()
    first = post(service.api_url, handle.id, body, signature(body, secret))
    again = post(service.api_url, handle.id, body, signature(body, secret))
    assert (first.status_code, again.status_code) == (204, 200)
    assert again.json()["replayed"] is True
    assert handle.status == "AUDIO_READY"


def test_an_unsigned_callback_with_the_shared_secret_is_accepted(handle: JobHandle) -> None:
    handle.lead_to("AUDIO_READY")
    assert handle.status == "AUDIO_READY"


def test_a_wrong_signature_is_refused_even_with_the_right_shared_secret(
    handle: JobHandle, service: Stack
) -> None:
    handle.lead_to("AUDIO_EXTRACTING")
    before, body = handle.everything(), report()
    wrong = [
        signature(body, FOREIGN),
        signature(body + b" "),
        signature(body, seconds_ago=310),
        signature(body, seconds_ago=-310),
        {**signature(body), "webhook-id": "wf-1-step-3"},
        {**signature(body), "webhook-signature": ""},
        {**signature(body), "webhook-signature": "v1,\xe4"},
        {"webhook-signature": signature(body)["webhook-signature"]},
    ]
    for headers in wrong:
        for secret in ({}, {"X-Callback-Secret": handle.secret}):
            answer = post(service.api_url, handle.id, body, {**headers, **secret})
            assert answer.status_code == 401, headers
            assert answer.json()["code"] == "UNAUTHORIZED"
    assert handle.everything() == before


def test_the_signature_is_checked_before_the_body(handle: JobHandle, service: Stack) -> None:
    for body in (b"{not json", b"\xff\xfe", b""):
        answer = post(service.api_url, handle.id, body, signature(b"{}"))
        assert answer.status_code == 401
    answer = post(service.api_url, handle.id, b"{not json", signature(b"{not json"))
    assert answer.status_code == 400
    answer = post(service.api_url, handle.id, b"x" * 100_000, signature(b"{}"))
    assert answer.status_code == 413


def test_without_a_signing_secret_nothing_is_signed_and_signatures_are_not_accepted(
    alice: ApiClient, callback_secret: str, stack: Stack, orchestrator: StubOrchestrator
) -> None:
    unsigned = JobHandle.uploaded(alice, callback_secret).lead_to("AUDIO_EXTRACTING")
    (request,) = orchestrator.requests_for(unsigned.id)
    assert not [name for name in request.headers if name.startswith("webhook-")]
    body = report()
    assert post(stack.api_url, unsigned.id, body, signature(body)).status_code == 401


def test_logs_hold_no_signing_secret_and_no_signature(
    handle: JobHandle, service: Stack, orchestrator: StubOrchestrator
) -> None:
    handle.lead_to("AUDIO_EXTRACTING")
    (request,) = orchestrator.requests_for(handle.id)
    worker = service.workers[0]
    wait_until(lambda: handle.run_id in worker.log(), 30, "the worker logs the dispatch")
    for process in service.processes:
        logged = Path(process.log_path).read_text()
        for secret in (NEW, OLD, NEW.removeprefix("whsec_"), request.headers["webhook-signature"]):
            assert secret not in logged
