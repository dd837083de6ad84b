"""Fixtures of all tests: a real Redis, the Procfile's processes, and a stub orchestrator."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from devstack import ports
from devstack.redis_server import RedisServer
from devstack.stack import Stack
from tests.support import rabbitmq
from tests.support.client import ApiClient
from tests.support.orchestrator import StubOrchestrator
from tests.support.specification_coverage import SpecificationCoverage

# When a test's stack stops, no caller waits any more. Graceful stops are tested in tests/load.
Stack.drains_on_stop = False

CALLBACK_SECRETS = ("first-callback-secret-of-the-tests", "second-callback-secret-of-the-tests")

# Short enough that a test can wait for every timeout, long enough for a busy machine.
QUICK_SETTINGS = {
    "TAKEONE_CALLBACK_SECRET": ",".join(CALLBACK_SECRETS),
    "TAKEONE_RUN_WAIT_SECONDS": "6",
    "TAKEONE_ORCHESTRATOR_TIMEOUT_SECONDS": "2",
    "TAKEONE_ORCHESTRATOR_CONNECT_TIMEOUT_SECONDS": "0.5",
    "TAKEONE_UNKNOWN_HOLD_SECONDS": "2",
    "TAKEONE_CLAIM_LEASE_SECONDS": "2",
    "TAKEONE_SWEEP_INTERVAL_SECONDS": "0.2",
    "TAKEONE_LOG_FORMAT": "json",
    # Tests that share a stack make many posts fail in a row, which must not open the circuit.
    "TAKEONE_BREAKER_FAILURES": "0",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the project's own command line options."""
    parser.addoption("--broker", choices=("redis", "amqp"), default="redis")
    parser.addoption("--install", action="store_true", help="install as the Dockerfile does")
    parser.addoption("--thorough", action="store_true", help="as many random examples as in CI")


def pytest_configure(config: pytest.Config) -> None:
    """Give each process of pytest-xdist its own share of the ports."""
    config.pluginmanager.register(SpecificationCoverage())
    process = getattr(config, "workerinput", None)
    if process is not None:
        number = int(process["workerid"].removeprefix("gw"))
        ports.take_share(number, process["workercount"])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With another broker than Redis, skip the tests that look into Redis's queues."""
    if config.getoption("--broker") == "redis":
        return
    for item in items:
        if item.get_closest_marker("redis_broker"):
            item.add_marker(pytest.mark.skip(reason="looks into Redis's queues"))


@pytest.fixture(scope="session")
def broker_settings(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], dict[str, str]]]:
    """Returns the settings for one more stack on the broker of --broker."""
    if request.config.getoption("--broker") == "redis":
        yield dict
        return
    if rabbitmq.PROGRAM is None:
        pytest.skip(rabbitmq.INSTALL_HINT)
    with rabbitmq.RabbitMq(tmp_path_factory.mktemp("rabbitmq"), virtual_hosts=60) as running:
        yield lambda: {"TAKEONE_BROKER_URL": running.broker_url()}


@pytest.fixture(scope="session")
def callback_secret() -> str:
    """A callback secret that the service accepts."""
    return CALLBACK_SECRETS[0]


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for tests of the store alone."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def orchestrator() -> Iterator[StubOrchestrator]:
    """The orchestrator of `stack`. Tests share it, so set its behaviour for a job only."""
    with StubOrchestrator() as stub:
        yield stub


NewStack = Callable[..., Stack]


@pytest.fixture(scope="session")
def new_stack(
    tmp_path_factory: pytest.TempPathFactory,
    orchestrator: StubOrchestrator,
    broker_settings: Callable[[], dict[str, str]],
) -> NewStack:
    """Makes a stack that `with` starts and stops: `new_stack(web=2, TAKEONE_WRITE_LIMIT="5/second")`.

    The settings of the call override QUICK_SETTINGS and the address of `orchestrator`.
    """

    def make(
        *,
        redis: RedisServer | None = None,
        web: int = 1,
        workers: int = 1,
        flower: bool = False,
        **settings: str,
    ) -> Stack:
        given = {"TAKEONE_ORCHESTRATOR_URL": orchestrator.url, **broker_settings(), **settings}
        return Stack(
            tmp_path_factory.mktemp("stack"),
            settings=QUICK_SETTINGS | given,
            redis=redis,
            web=web,
            workers=workers,
            flower=flower,
        )

    return make


@pytest.fixture(scope="session")
def stack(new_stack: NewStack) -> Iterator[Stack]:
    """The service that most tests share. A test that breaks a part of it makes its own stack."""
    with new_stack() as running:
        yield running


@pytest.fixture(scope="session")
def alice(stack: Stack) -> ApiClient:
    """An editor."""
    return ApiClient(stack.api_url, "alice")


@pytest.fixture(scope="session")
def bob(stack: Stack) -> ApiClient:
    """Another editor."""
    return ApiClient(stack.api_url, "bob")


@pytest.fixture
def job(alice: ApiClient) -> dict[str, Any]:
    """A job of Alice's, UPLOADED."""
    return alice.uploaded_job()


@pytest.fixture
def job_id(job: dict[str, Any]) -> str:
    """The id of a job of Alice's, UPLOADED."""
    return str(job["id"])
