"""What the tests of all engines share. Each engine is in a module of its own, as a session's fixture."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from orchestrators.base import Dispatch
from tests.engines.callbacks import CallbackReceiver

HERE = Path(__file__).parent
TEST_SECONDS = 180


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Time limits are for the tests alone: what installs and starts an engine has limits of its own."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(TEST_SECONDS, func_only=True))


@pytest.fixture(scope="session")
def callbacks(callback_secret: str) -> Iterator[CallbackReceiver]:
    """Where the workflows of the adapters' own tests report."""
    with CallbackReceiver(callback_secret) as receiver:
        yield receiver


NewDispatch = Callable[..., Dispatch]


@pytest.fixture
def new_dispatch(callbacks: CallbackReceiver) -> NewDispatch:
    """Makes a dispatch of a new job, as Take One would; `fields` come on top of the contract's."""

    def make(video_uri: str = "s3://uploads/one.mp4", **fields: str) -> Dispatch:
        job_id = str(uuid4())
        given = {
            "job_id": job_id,
            "project_id": str(uuid4()),
            "video_uri": video_uri,
            "callback_url": callbacks.url_for(job_id),
            "dispatch_id": f"run-{job_id}",
            **fields,
        }
        return Dispatch(given["dispatch_id"], given, datetime.now(UTC))

    return make
