"""A store for each test of the store, and the command line on it."""

from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from devstack.redis_server import RedisServer
from settings import load_store_settings
from tests.support.stores import Database

Command = Callable[..., Result]


@pytest.fixture
def database(redis_server: RedisServer) -> Database:
    """An empty store on a real Redis."""
    return Database(redis_server)


@pytest.fixture
def takeone(database: Database) -> Iterator[Command]:
    """Runs the command `takeone` on the database's store; `typed` is its input, other options are settings."""

    def run(*arguments: str, typed: str | None = None, **settings: str) -> Result:
        load_store_settings.cache_clear()
        environment = {"TAKEONE_ENV": "development", "TAKEONE_REDIS_URL": database.url, **settings}
        return CliRunner().invoke(main, arguments, env=environment, input=typed)

    yield run
    load_store_settings.cache_clear()
