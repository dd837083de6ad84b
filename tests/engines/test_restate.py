"""The adapter for Restate, and its example, on a real Restate."""

from collections.abc import Iterator

import pytest

from domain.claim import Refusal
from tests.engines.clients import NewDispatch
from tests.engines.contract import EngineContract, assert_refused
from tests.engines.restate_server import RestateServer
from tests.engines.scenarios import Scenarios


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, callback_secret: str
) -> Iterator[RestateServer]:
    with RestateServer(tmp_path_factory.mktemp("restate"), callback_secret) as running:
        yield running


class TestRestate(EngineContract):
    pass


class TestTakeOneWithRestate(Scenarios):
    pass


@pytest.mark.parametrize("workflow", ["Nope/run", "Take/nope"])
def test_an_unknown_workflow_is_refused(
    workflow: str, server: RestateServer, new_dispatch: NewDispatch
) -> None:
    engine = server.connect(workflow=workflow)
    assert_refused(server, engine, new_dispatch(), Refusal.UNKNOWN_WORKFLOW)
    assert len(list(engine.problems())) >= 1


def test_without_the_admin_api_nothing_is_cancelled(server: RestateServer) -> None:
    assert not server.connect(cancel_url="").adapter.can_cancel


def test_doctor_finds_nothing_wrong_with_the_example(server: RestateServer) -> None:
    assert list(server.connect().problems()) == []
    assert list(server.connect(cancel_url="").problems()) == []


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ({"public": False}, {"public": True}),
        ({"idempotency_retention": "23h"}, {"idempotency_retention": "30d"}),
    ],
)
def test_doctor_reports_a_private_service_and_a_short_retention(
    wrong: dict[str, object], right: dict[str, object], server: RestateServer
) -> None:
    server.configure(**wrong)
    try:
        assert len(list(server.connect().problems())) == 1
    finally:
        server.configure(**right)
    assert list(server.connect().problems()) == []
