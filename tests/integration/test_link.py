"""The link to Redis: every wait ends, replies belong to their requests, and a restart is survived."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from demo.redis_server import RedisServer
from store.connecting import connection_factory
from store.errors import StoreUnavailable
from store.link import Link, Script
from tests.support.stores import make_link
from tests.support.tcp_proxy import TcpProxy

LIMIT = 0.3
SLACK = 1.5  # seconds that a busy machine may add to a limit


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that these tests may stop, stall and restart."""
    with RedisServer(tmp_path_factory.mktemp("link-redis"), append_only=True) as server:
        yield server


@pytest.fixture
def link(own_redis: RedisServer) -> Iterator[Link]:
    """A link to it with a short limit."""
    made = make_link(own_redis.url, size=2, timeout_seconds=LIMIT)
    yield made
    made.close()


def _unavailable_within(limit: float, act: Any) -> None:
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        act()
    assert time.monotonic() - began < limit + SLACK


def _held(link: Link, release: threading.Event) -> Any:
    """A connection of the link's, taken out until `release`."""
    slot = link._take()
    release.wait(10)
    link._free.put(slot)
    return slot


def test_a_caller_waits_for_a_connection_no_longer_than_the_limit(link: Link) -> None:
    release = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        holders = [pool.submit(_held, link, release) for _ in range(2)]
        try:
            while link._free.qsize():
                time.sleep(0.01)
            _unavailable_within(LIMIT, lambda: link.call(("PING",)))
        finally:
            release.set()
        assert all(holder.result(5) for holder in holders)
    assert link.call(("PING",)) == [b"PONG"]


def test_more_callers_than_connections_share_them(own_redis: RedisServer) -> None:
    link = make_link(own_redis.url, size=2, timeout_seconds=10)
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda n: link.call(("ECHO", str(n)))[0], range(400)))
    assert replies == [str(n).encode() for n in range(400)]
    assert link._free.qsize() == 2
    link.close()


def test_a_redis_that_hangs_is_unavailable_within_the_limit(
    own_redis: RedisServer, link: Link
) -> None:
    link.call(("PING",))
    own_redis.pause()
    try:
        _unavailable_within(LIMIT, lambda: link.call(("PING",)))  # on the kept connection
        _unavailable_within(2 * LIMIT, lambda: link.call(("PING",)))  # on a new one
    finally:
        own_redis.resume()
    assert link.call(("PING",)) == [b"PONG"]


def test_no_reply_of_before_a_hang_is_read_after_it(own_redis: RedisServer, link: Link) -> None:
    link.call(("SET", "answer", "old"))
    own_redis.pause()
    try:
        for _ in range(2):
            _unavailable_within(2 * LIMIT, lambda: link.call(("GET", "answer")))
    finally:
        own_redis.resume()
    for number in range(20):
        assert link.call(("ECHO", str(number))) == [str(number).encode()]


def test_a_redis_that_is_gone_is_unavailable_and_a_restarted_one_is_found(
    own_redis: RedisServer, link: Link
) -> None:
    link.call(("SET", "kept", "yes"))
    own_redis.kill()
    for _ in range(4):
        _unavailable_within(LIMIT, lambda: link.call(("PING",)))
    own_redis.start()
    assert link.call(("GET", "kept")) == [b"yes"]
    assert link._free.qsize() == 2


def test_an_idle_connection_to_a_restarted_redis_is_not_used(
    own_redis: RedisServer, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.link._IDLE_CHECK_SECONDS", 0.0)
    link.call(("PING",))
    own_redis.terminate()
    own_redis.start()
    assert link.call(("PING",)) == [b"PONG"]


def test_a_script_that_redis_has_forgotten_is_loaded_again(
    own_redis: RedisServer, link: Link, tmp_path: Path
) -> None:
    source = tmp_path / "count.lua"
    source.write_text("return redis.call('INCR', KEYS[1])")
    script = Script.load(source)
    link.call(("DEL", "counted", "before"))
    assert link.run(script, ["counted"], []) == 1
    with own_redis.client() as client:
        client.script_flush()
    assert link.run(script, ["counted"], [], ("INCR", "before")) == 2
    assert link.call(("GET", "counted"), ("GET", "before")) == [b"2", b"1"]


def test_an_exception_between_request_and_reply_leaves_no_reply_to_the_next(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = Link._exchange

    def broken_off(connection: Any, commands: Any) -> Any:
        connection.send_packed_command(connection.pack_command(*commands[0]), False)
        raise KeyboardInterrupt

    for _ in range(3):
        monkeypatch.setattr(Link, "_exchange", staticmethod(broken_off))
        with pytest.raises(KeyboardInterrupt):
            link.call(("ECHO", "of the one who was interrupted"))
        monkeypatch.setattr(Link, "_exchange", staticmethod(exchange))
        assert link.call(("ECHO", "mine")) == [b"mine"]
    assert link._free.qsize() == 2


def test_an_error_reply_among_others_leaves_no_reply_unread(link: Link) -> None:
    link.call(("SET", "text", "x"))
    with pytest.raises(ResponseError):
        link.call(("ECHO", "1"), ("LPUSH", "text", "y"), ("ECHO", "2"))
    for number in range(4):
        assert link.call(("ECHO", str(number))) == [str(number).encode()]


def test_a_connection_that_is_cut_costs_one_call_and_no_more(own_redis: RedisServer) -> None:
    with TcpProxy(int(own_redis.port or 0)) as proxy:
        link = make_link(f"redis://127.0.0.1:{proxy.port}/0", size=1, timeout_seconds=LIMIT)
        link.call(("PING",))
        proxy.cut()
        _unavailable_within(LIMIT, lambda: link.call(("PING",)))
        assert link.call(("PING",)) == [b"PONG"]
        link.close()


@pytest.mark.parametrize(
    "reply",
    [
        "LOADING Redis is loading the dataset in memory",
        "READONLY You can't write against a read only replica.",
        "MISCONF Redis is configured to save RDB snapshots",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "MASTERDOWN Link with MASTER is down",
        "BUSY Redis is busy running a script.",
        "NOREPLICAS Not enough good replicas to write.",
        "NOAUTH Authentication required.",
    ],
    ids=lambda reply: reply.split()[0],
)
def test_a_redis_that_cannot_serve_now_is_unavailable(own_redis: RedisServer, reply: str) -> None:
    link = make_link(own_redis.url, size=1)
    with pytest.raises(StoreUnavailable):
        link.call(_erring(reply))
    assert link.call(("PING",)) == [b"PONG"]
    link.close()


def test_an_error_of_our_own_making_is_not_taken_for_an_outage(link: Link) -> None:
    with pytest.raises(ResponseError):
        link.call(_erring("ERR wrong number of arguments"))


def test_a_full_redis_that_refuses_writes_is_unavailable(own_redis: RedisServer) -> None:
    link = make_link(own_redis.url, size=1)
    with own_redis.client() as client:
        client.config_set("maxmemory", "1")
        try:
            with pytest.raises(StoreUnavailable):
                link.call(("SET", "more", "x"))
        finally:
            client.config_set("maxmemory", "0")
    link.close()


def test_a_password_that_is_missing_is_unavailable_and_is_not_told(own_redis: RedisServer) -> None:
    with own_redis.client() as client:
        client.config_set("requirepass", "secret-of-the-store")
        try:
            url = f"redis://:wrong-password@127.0.0.1:{own_redis.port}/0"
            link = Link(connection_factory(url, LIMIT), 1, LIMIT)
            with pytest.raises(StoreUnavailable) as caught:
                link.call(("PING",))
            assert "wrong-password" not in str(caught.value)
        finally:
            client.config_set("requirepass", "")


def _erring(reply: str) -> tuple[str, ...]:
    """A command that a real Redis answers with this error."""
    return ("EVAL", "return redis.error_reply(ARGV[1])", "0", reply)
