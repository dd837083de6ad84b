"""The Redis client of a process, made from the settings, and what a failure of a command means."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from redis import BlockingConnectionPool, Redis, exceptions
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from observability import tracing
from settings import Settings
from settings.types import sentinel_nodes
from store.errors import StoreUnavailable

# Error replies of a Redis that is up but cannot serve as a primary right now.
_NOT_SERVING_TYPES = (
    exceptions.ClusterDownError, exceptions.MasterDownError, exceptions.NoPermissionError,
    exceptions.OutOfMemoryError, exceptions.ReadOnlyError,
)  # fmt: skip
# Redis 6 quotes that of a command in a script: "Error running script …: -OOM command not allowed …".
_NOT_SERVING = re.compile(
    "(^|: -)(LOADING|READONLY|MASTERDOWN|MISCONF|OOM|BUSY|CLUSTERDOWN|NOREPLICAS|UNBLOCKED|TRYAGAIN|NOAUTH"
    "|WRONGPASS|NOPERM)"
)

_SCANNED = 1_000


class _BlockingSentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Sentinel's pool whose callers wait for a free connection instead of failing at once."""


def make_client(settings: Settings, *, connections: int | None = None) -> Redis:
    """The client of the store that the settings name; it connects when it is first used.

    A caller waits at most `redis_timeout_seconds` for a free connection, and as long again to connect and
    for each reply. redis-py's own retries are off: a command that is sent twice can be carried out twice,
    and a `SET NX` that is answered at the second try says that the key is another's although it is ours.
    """
    timeout = settings.redis_timeout_seconds
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    pool = {"max_connections": connections or settings.redis_connections, "timeout": timeout}
    if settings.redis_url.startswith("sentinel://"):
        return _sentinel_client(settings, options, pool)
    if settings.redis_url.startswith("rediss://") and settings.ca_file:
        options["ssl_ca_certs"] = settings.ca_file
    return Redis(
        connection_pool=BlockingConnectionPool.from_url(settings.redis_url, **pool, **options)
    )


def _sentinel_client(settings: Settings, options: dict[str, Any], pool: dict[str, Any]) -> Redis:
    parts = urlsplit(settings.redis_url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    nodes = sentinel_nodes(hosts)
    if credentials:
        user, _, password = credentials.partition(":")
        options = {**options, "username": unquote(user) or None, "password": unquote(password)}
    # Without its own bounds redis-py would try a dead sentinel for seconds, at each connection.
    bounds = {name: options[name] for name in ("socket_timeout", "socket_connect_timeout", "retry")}
    own_password = settings.redis_sentinel_password.get_secret_value() or None
    sentinel = Sentinel(nodes, sentinel_kwargs={**bounds, "password": own_password, "protocol": 2})
    client: Redis = sentinel.master_for(
        settings.redis_sentinel_master,
        connection_pool_class=_BlockingSentinelPool,
        db=int(parts.path.strip("/") or 0),
        **pool,
        **options,
    )
    return client


@contextmanager
def redis_errors(operation: str) -> Iterator[None]:
    """Map the failures of what is called inside, one round trip named `operation`, to `StoreUnavailable`.

    The command may then have been carried out all the same. Other error replies are faults of ours, and
    pass as they are.
    """
    with tracing.store_span(operation):
        try:
            yield
        except (exceptions.RedisError, OSError) as error:
            is_reply = isinstance(error, exceptions.ResponseError)
            is_serving = is_reply and not isinstance(error, _NOT_SERVING_TYPES)
            if is_serving and not _NOT_SERVING.search(str(error)):
                raise
            raise StoreUnavailable(type(error).__name__) from error


def execute(pipeline: Pipeline, operation: str) -> list[Any]:
    """Send a pipeline in one round trip and return its replies, in order. Raises as `redis_errors` does."""
    with redis_errors(operation):
        replies: list[Any] = pipeline.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies


def scanned(client: Redis, pattern: str) -> Iterator[list[str]]:
    """The names of all keys like `pattern`, in batches (some empty), each read when it is asked for.

    A key that is there all the while comes at least once. Raises as `redis_errors` does.
    """
    cursor = None
    while cursor != 0:
        with redis_errors("SCAN"):
            cursor, found = client.scan(cursor or 0, match=pattern, count=_SCANNED)
        yield [name.decode() for name in found]
