"""What most acceptance tests start from: an editor, a job, an operator, and calls in other threads."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest

from devstack.stack import Stack
from tests.support.behaviours import reset_after_read
from tests.support.client import ApiClient
from tests.support.job_handle import JobHandle
from tests.support.orchestrator import StubOrchestrator

# So that a failed assertion in these modules shows its values.
pytest.register_assert_rewrite("tests.acceptance.outcomes", "tests.acceptance.stored")

InThread = Callable[..., Future[Any]]


@pytest.fixture(scope="session")
def service(stack: Stack) -> Stack:
    """The stack under test. A module that needs other settings overrides it."""
    return stack


@pytest.fixture
def editor(service: Stack) -> ApiClient:
    """An editor that no other test uses, with time for long polls."""
    return ApiClient(service.api_url, f"editor-{uuid4()}", timeout_seconds=30)


@pytest.fixture
def olga(service: Stack) -> ApiClient:
    """An operator without the editor role."""
    return ApiClient(service.api_url, "olga", "operator")


@pytest.fixture
def handle(editor: ApiClient, callback_secret: str) -> JobHandle:
    """A job of the editor, UPLOADED."""
    return JobHandle.uploaded(editor, callback_secret)


@pytest.fixture
def unknown(handle: JobHandle, orchestrator: StubOrchestrator) -> JobHandle:
    """The same job after a run with an unknown outcome; the orchestrator accepts from now on."""
    orchestrator.behaviours[handle.id] = reset_after_read()
    assert handle.client.run(handle.id).status_code == 502
    del orchestrator.behaviours[handle.id]
    return handle


@pytest.fixture
def in_thread() -> Iterator[InThread]:
    """Makes calls in threads: `in_thread(client.run, job_id)` returns a future of the answer."""
    with ThreadPoolExecutor() as pool:
        yield pool.submit
