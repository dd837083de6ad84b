"""How connections to Redis are made: directly, over TLS, or through sentinels."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool
from redis.retry import Retry
from redis.sentinel import Sentinel

from settings import Settings
from sockets import PromptSocket, limit_waits

Command = Sequence[Any]

_ANY_NUMBER = 2**31


class Connection(Protocol):
    """The part of a redis-py connection that is used here."""

    def connect(self) -> None: ...
    def disconnect(self, *args: Any) -> None: ...
    def can_read(self, timeout: float = 0) -> bool: ...
    def send_packed_command(self, command: Any, check_health: bool = True) -> None: ...
    def pack_command(self, *args: Any) -> Any: ...
    def read_response(self, *args: Any, **kwargs: Any) -> Any: ...


class KernelTimedConnection(redis.Connection):
    """A connection whose timeouts the kernel keeps.

    A Python socket with a timeout asks `poll` before each receive, and gives the GIL away for that as
    well: two hand-overs a round trip instead of one. A timeout shows as ConnectionError.
    """

    def _connect(self) -> Any:
        sock = PromptSocket.taking_over(super()._connect())  # type: ignore[no-untyped-call]
        sock.settimeout(None)
        limit_waits(sock, float(self.socket_timeout or 0))
        return sock

    def can_read(self, timeout: float = 0) -> bool:
        """Whether there is something to read; see redis-py."""
        try:
            return bool(super().can_read(timeout))
        finally:
            sock: Any = self._sock
            if sock is not None:  # redis-py has set a timeout of its own
                sock.settimeout(None)


def connections(settings: Settings) -> Callable[[], Connection]:
    """Return what makes connections to the store that these settings name. Connects to nothing."""
    return connection_factory(
        settings.redis_url,
        settings.redis_timeout_seconds,
        sentinel_master=settings.redis_sentinel_master,
        sentinel_password=settings.redis_sentinel_password.get_secret_value(),
        ca_file=settings.ca_file,
    )


def connection_factory(
    url: str,
    timeout_seconds: float,
    *,
    sentinel_master: str = "",
    sentinel_password: str = "",
    ca_file: str = "",
) -> Callable[[], Connection]:
    """Return what makes connections to `url`: redis://, rediss:// or sentinel://h1:p,h2:p/db.

    redis-py's own retries are off: a command that is sent twice can be carried out twice, and a `SET NX`
    that is answered at the second try says that the key is somebody else's although it is ours.
    """
    options: dict[str, Any] = {
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": timeout_seconds,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        # redis-py counts all connections that it ever made, and makes no more after its limit (100): a
        # process would not survive so many reconnects. How many there are at once, `Link` limits.
        "max_connections": _ANY_NUMBER,
    }
    if url.startswith("sentinel://"):
        return _sentinel_pool(url, sentinel_master, sentinel_password, options).make_connection
    if url.startswith("rediss://") and ca_file:
        options["ssl_ca_certs"] = ca_file
    if url.startswith("redis://"):
        options["connection_class"] = KernelTimedConnection
    return ConnectionPool.from_url(url, **options).make_connection


def _sentinel_pool(
    url: str, master: str, sentinel_password: str, options: dict[str, Any]
) -> ConnectionPool:
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    nodes = [(host, int(port or 26379)) for host, _, port in
             (node.partition(":") for node in hosts.split(","))]  # fmt: skip
    if credentials:
        user, _, password = credentials.partition(":")
        options = {**options, "username": unquote(user) or None, "password": unquote(password)}
    # Without its own bounds redis-py would try a dead sentinel for seconds, at each connection.
    bounds = {name: options[name] for name in ("socket_timeout", "socket_connect_timeout", "retry")}
    sentinel = Sentinel(
        nodes, sentinel_kwargs={**bounds, "password": sentinel_password or None, "protocol": 2}
    )
    pool: ConnectionPool = sentinel.master_for(
        master, db=int(parts.path.strip("/") or 0), **options
    ).connection_pool
    return pool
