"""A store for each test of the store."""

import pytest

from devstack.redis_server import RedisServer
from tests.support.stores import Shelf


@pytest.fixture
def shelf(redis_server: RedisServer) -> Shelf:
    """An empty store on a real Redis."""
    return Shelf(redis_server)
