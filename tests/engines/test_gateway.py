"""The gateway spoils starts as the engines' tests expect, and no other requests."""

from collections.abc import Iterator

import pytest
import requests

from devstack.waiting import wait_until
from tests.engines.gateway import Gateway
from tests.support.behaviours import accept
from tests.support.orchestrator import StubOrchestrator


@pytest.fixture
def engine() -> Iterator[StubOrchestrator]:
    with StubOrchestrator(accept(201, b'{"id": 1}')) as stub:
        yield stub


@pytest.fixture
def gateway(engine: StubOrchestrator) -> Iterator[Gateway]:
    with Gateway(engine.url, lambda request: request.path.startswith("/start")) as running:
        yield running


def send(gateway: Gateway, path: str = "/start?a=%20b", timeout: float = 10) -> requests.Response:
    headers = {"Authorization": "Bearer x"}
    return requests.patch(gateway.url + path, data=b"body", headers=headers, timeout=timeout)


def test_it_forwards_the_request_and_the_answer(gateway: Gateway, engine: StubOrchestrator) -> None:
    answer = send(gateway)
    assert (answer.status_code, answer.content) == (201, b'{"id": 1}')
    (arrived,) = engine.requests
    assert (arrived.method, arrived.path, arrived.body) == ("PATCH", "/start?a=%20b", b"body")
    assert arrived.headers["authorization"] == "Bearer x"
    assert [start.answered for start in gateway.starts] == [201]


def test_it_drops_the_answer_of_the_next_start_only(
    gateway: Gateway, engine: StubOrchestrator
) -> None:
    gateway.drop_next_answers()
    assert send(gateway, "/other").status_code == 201
    with pytest.raises(requests.ConnectionError):
        send(gateway)
    assert send(gateway).status_code == 201
    assert len(engine.requests) == 3


def test_it_forwards_a_held_request_after_the_caller_gave_up(
    gateway: Gateway, engine: StubOrchestrator
) -> None:
    gateway.hold_next_start(1.0)
    with pytest.raises(requests.ReadTimeout):
        send(gateway, timeout=0.2)
    assert engine.requests == []
    wait_until(lambda: engine.requests, 10, "the held request arrives")


def test_it_answers_instead_of_the_engine(gateway: Gateway, engine: StubOrchestrator) -> None:
    gateway.answer_next_start(504)
    assert send(gateway).status_code == 504
    assert engine.requests == []
    engine.stop()
    assert send(gateway).status_code == 502
