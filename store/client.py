"""The Redis client of a process, made from the settings, and how its failures are reported."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from redis import BlockingConnectionPool, Redis, exceptions
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from observability import tracing
from settings import Settings
from settings.types import sentinel_node, sentinel_parts
from store.errors import StoreUnavailable

# Error replies of a Redis that is up but cannot serve as a primary right now.
_NOT_SERVING_TYPES = (
    exceptions.ClusterDownError, exceptions.MasterDownError, exceptions.NoPermissionError,
    exceptions.NoScriptError, exceptions.OutOfMemoryError, exceptions.ReadOnlyError,
)  # fmt: skip
# Redis 6 quotes the error of a command in a script: "Error running script …: -OOM command not allowed …".
_NOT_SERVING = re.compile(
    "(^|: -)(LOADING|READONLY|MASTERDOWN|MISCONF|OOM|BUSY|CLUSTERDOWN|NOREPLICAS|UNBLOCKED|TRYAGAIN|NOAUTH"
    "|WRONGPASS|NOPERM)"
)
_SCAN_COUNT = 1_000

Script = Callable[[Sequence[str], Sequence[Any]], Any]


class _BlockingSentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Sentinel's pool whose callers wait for a free connection instead of failing at once."""


def make_client(settings: Settings, *, connections: int | None = None) -> Redis:
    """The client of the store in the settings; it connects on first use.

    Waiting for a free connection, connecting and each reply take at most `redis_timeout_seconds` each.
    redis-py's own retries are off: a command that is sent twice can be carried out twice, and a repeated
    `SET NX` would report our own key as taken.
    """
    timeout = settings.redis_timeout_seconds
    options: dict[str, Any] = {
        "max_connections": connections or settings.redis_connections,
        "timeout": timeout,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    if settings.redis_url.startswith("sentinel://"):
        return _sentinel_client(settings, options)
    if settings.redis_url.startswith("rediss://") and settings.ca_file:
        options["ssl_ca_certs"] = settings.ca_file
    return Redis(connection_pool=BlockingConnectionPool.from_url(settings.redis_url, **options))


def _sentinel_client(settings: Settings, options: dict[str, Any]) -> Redis:
    credentials, hosts, database = sentinel_parts(settings.redis_url)
    user, _, user_password = credentials.partition(":")
    # Without limits of its own, redis-py tries a dead sentinel for seconds at each connection.
    limits = {name: options[name] for name in ("socket_timeout", "socket_connect_timeout", "retry")}
    password = settings.redis_sentinel_password.get_secret_value() or None
    sentinel = Sentinel(
        [sentinel_node(host) for host in hosts],
        sentinel_kwargs={**limits, "password": password, "protocol": 2},
    )
    client: Redis = sentinel.master_for(
        settings.redis_sentinel_master,
        connection_pool_class=_BlockingSentinelPool,
        db=int(database or 0),
        username=unquote(user) or None,
        password=unquote(user_password) or None,
        **options,
    )
    return client


@contextmanager
def redis_errors(operation: str) -> Iterator[None]:
    """Trace one round trip as `operation`, and raise `StoreUnavailable` if Redis cannot serve it.

    The command may have been carried out all the same. Other error replies are bugs, and pass unchanged.
    """
    with tracing.store_span(operation):
        try:
            yield
        except (exceptions.RedisError, OSError) as error:
            is_reply = isinstance(error, exceptions.ResponseError)
            code = _NOT_SERVING.search(str(error)) if is_reply else None
            if is_reply and not code and not isinstance(error, _NOT_SERVING_TYPES):
                raise
            raise StoreUnavailable(code[2] if code else type(error).__name__) from error


def execute(pipeline: Pipeline, operation: str) -> list[Any]:
    """Send a pipeline in one round trip; its replies in order. Raises as `redis_errors` does."""
    with redis_errors(operation):
        replies: list[Any] = pipeline.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies


def load_script(client: Redis, name: str) -> Script:
    """The script `store/<name>.lua`, to call with its keys and arguments. Raises as `redis_errors` does."""
    script = client.register_script(Path(__file__).with_name(f"{name}.lua").read_text())

    def run(keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        with redis_errors("EVALSHA"):
            return script(keys, arguments)

    return run


def scan_keys(client: Redis, pattern: str) -> Iterator[list[str]]:
    """The names of all keys that match `pattern`, in batches (some empty), each read on demand.

    A key that exists throughout is returned at least once. Raises as `redis_errors` does.
    """
    cursor = None
    while cursor != 0:
        with redis_errors("SCAN"):
            cursor, found = client.scan(cursor or 0, match=pattern, count=_SCAN_COUNT)
        yield [name.decode() for name in found]
