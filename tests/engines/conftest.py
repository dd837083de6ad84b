"""Fixtures for all engines. Each engine's module has a fixture `server`."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from orchestrators.base import Dispatch
from orchestrators.engine import Engine
from tests.engines.callbacks import CallbackReceiver
from tests.engines.clients import NewDispatch
from tests.engines.contract import EngineServer
from tests.engines.gateway import Gateway

HERE = Path(__file__).parent
TEST_SECONDS = 180


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Limit the tests, not their fixtures: installing and starting an engine has limits of its own."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(TEST_SECONDS, func_only=True))


@pytest.fixture(scope="session")
def callbacks(callback_secret: str) -> Iterator[CallbackReceiver]:
    """Receives the reports of the workflows in the adapters' tests."""
    with CallbackReceiver(callback_secret) as receiver:
        yield receiver


@pytest.fixture
def new_dispatch(callbacks: CallbackReceiver) -> NewDispatch:
    """Make a dispatch of a new job, as Take One would; `fields` are added to the contract's."""

    def make(video_uri: str = "s3://uploads/one.mp4", **fields: str) -> Dispatch:
        job_id = str(uuid4())
        payload = {
            "job_id": job_id,
            "project_id": str(uuid4()),
            "video_uri": video_uri,
            "callback_url": callbacks.url_for(job_id),
            "dispatch_id": f"run-{job_id}",
            **fields,
        }
        return Dispatch(payload["dispatch_id"], payload, datetime.now(UTC))

    return make


@pytest.fixture
def engine(server: EngineServer) -> Engine:
    """The engine, without a gateway."""
    return server.connect()


@pytest.fixture
def gateway(server: EngineServer) -> Iterator[Gateway]:
    """A gateway in front of the engine."""
    with server.gateway() as running:
        yield running
