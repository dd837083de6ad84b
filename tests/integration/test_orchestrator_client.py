"""The client that posts dispatches: which headers it sends, and whether through a proxy."""

import socket
from threading import Thread
from typing import Any

import pytest

from devstack.ports import HOST
from domain.claim import ClaimEvent
from orchestrators.base import Outcome, Request
from orchestrators.client import OrchestratorClient
from orchestrators.engine import start_outcome
from orchestrators.signatures import Signer
from orchestrators.webhook import Webhook
from settings import Settings
from tests.support.orchestrator import StubOrchestrator

BODY = b'{"job_id": "one"}'
KEY = {"Idempotency-Key": "run-one"}
WEBHOOK = Webhook("", Signer([]))
NOWHERE = "http://orchestrator.invalid/dispatches"


def post(url: str, *, use_proxies: bool = False) -> Outcome:
    """Post once."""
    exchange = client(use_proxies=use_proxies).send(Request("POST", url, BODY, KEY), lambda: True)
    return start_outcome(WEBHOOK, exchange)


def client(*, ca_file: str = "", **settings: Any) -> OrchestratorClient:
    """A client with one try; `settings` are those of the orchestrator."""
    named = {f"orchestrator_{name}": value for name, value in settings.items()}
    defaults = {
        "orchestrator_timeout_seconds": 5,
        "orchestrator_connect_timeout_seconds": 1,
        "orchestrator_connect_tries": 1,
    }
    return OrchestratorClient(Settings(env="development", ca_file=ca_file, **(defaults | named)))


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> StubOrchestrator:
    """The proxy in the environment: it answers for any host."""
    stub = StubOrchestrator()
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://{HOST}:{stub.port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    return stub


def test_the_environments_proxy_is_used_if_the_settings_allow_it(proxy: StubOrchestrator) -> None:
    with proxy:
        assert post(NOWHERE, use_proxies=True).event is ClaimEvent.ACCEPTED
    assert [request.path for request in proxy.requests] == [NOWHERE]


def test_no_proxy_is_used_by_default(proxy: StubOrchestrator) -> None:
    with proxy:
        assert post(NOWHERE).event is ClaimEvent.NOT_STARTED
    assert proxy.requests == []


def test_a_dispatch_has_only_the_necessary_headers() -> None:
    heads: list[bytes] = []

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            head = b""
            while not head.endswith(BODY):
                head += connection.recv(65_536)
            heads.append(head)
            connection.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server((HOST, 0)) as listener:
        listener.settimeout(5)
        server = Thread(target=answer)
        server.start()
        outcome = post(f"http://{HOST}:{listener.getsockname()[1]}/dispatches")
        server.join()
    assert outcome.event is ClaimEvent.ACCEPTED
    head, _, body = heads[0].partition(b"\r\n\r\n")
    assert body == BODY
    names = {line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]}
    assert names == {
        b"host", b"accept-encoding", b"user-agent",
        b"content-type", b"content-length", b"idempotency-key",
    }  # fmt: skip
