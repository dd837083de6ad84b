"""A process outlives any number of broken connections to its store."""

from contextlib import suppress

from demo.redis_server import RedisServer
from store.connecting import connection_factory
from store.errors import StoreUnavailable
from store.link import Link

# Every second call connects. redis-py has a limit of 100, and counts every connection ever made.
RECONNECTS = 220


def test_a_process_connects_again_as_often_as_it_takes(redis_server: RedisServer) -> None:
    link = Link(connection_factory(redis_server.url, 1.0), size=2, timeout_seconds=1.0)
    with redis_server.client() as client:
        for _ in range(RECONNECTS):
            with suppress(StoreUnavailable):  # that is how it learns of the broken connection
                link.call(("PING",))
            client.client_kill_filter(_type="normal", skipme=True)
    with suppress(StoreUnavailable):
        link.call(("PING",))
    assert link.call(("PING",)) == [b"PONG"]
