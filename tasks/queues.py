"""The broker: its address, its options and the names of its queues."""

from collections.abc import Iterable
from socket import TCP_KEEPCNT, TCP_KEEPIDLE, TCP_KEEPINTVL
from ssl import CERT_REQUIRED
from typing import Any

from kombu import Connection

from settings import Settings
from settings.types import sentinel_parts

KEY_PREFIX = "takeone:broker:"
#: For asks and cancels while dispatching is paused: workers then take messages from this queue only.
FOLLOW_UPS = "takeone.follow-ups"


def queue_names(settings: Settings) -> list[str]:
    """All queues; the last is the one that workers also take from while dispatching is paused."""
    return [*dispatch_queue_names(settings), FOLLOW_UPS]


def dispatch_queue_names(settings: Settings) -> list[str]:
    """The dispatch queues. Workers take from them in turn, and a user's jobs are in two of them only (shuffle
    sharding), so many jobs of one user do not delay the jobs of others."""
    return [f"takeone.dispatch.{number}" for number in range(settings.dispatch_queues)]


def queue_keys(queues: Iterable[str]) -> list[str]:
    """The Redis keys of queues, if the broker is Redis."""
    return [KEY_PREFIX + queue for queue in queues]


def is_redis(settings: Settings) -> bool:
    """Whether the broker is Redis, directly or behind sentinels."""
    return broker_transport_url(settings).startswith(("redis", "sentinel"))


def broker_transport_url(settings: Settings) -> str:
    """The broker's URL as kombu expects it: with a URL for each sentinel."""
    url = settings.broker_url or settings.redis_url
    if not url.startswith("sentinel://") or ";" in url:
        return url
    credentials, hosts, database = sentinel_parts(url)
    prefix = f"sentinel://{credentials}@" if credentials else "sentinel://"
    return ";".join(f"{prefix}{host}/{database}" for host in hosts)


def broker_options(settings: Settings) -> dict[str, Any]:
    """kombu's transport options. Without the timeouts a publish to a hung broker never returns."""
    tries = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1}
    timeout = settings.redis_timeout_seconds
    if not is_redis(settings):
        return {
            **tries,
            "connect_timeout": min(0.5, timeout),
            "read_timeout": timeout,
            "write_timeout": timeout,
            # A message counts as sent once the broker confirms it.
            "confirm_publish": True,
        }
    sockets = {"socket_connect_timeout": min(0.5, timeout), "socket_timeout": timeout}
    return {
        **tries,
        **sockets,
        "socket_keepalive": True,
        # By the kernel's defaults, Flower, which only listens, would notice a lost host after two hours.
        "socket_keepalive_options": {TCP_KEEPIDLE: 15, TCP_KEEPINTVL: 5, TCP_KEEPCNT: 3},
        # With the default of 25 s, a worker waits a minute at a connection that has fallen silent.
        "health_check_interval": 2,
        "global_keyprefix": KEY_PREFIX,
        # One key per queue instead of four: dispatches have no priorities.
        "priority_steps": [0],
        "queue_order_strategy": "round_robin",
        "master_name": settings.redis_sentinel_master,
        # Without these, redis-py would try a dead sentinel for seconds at each connection.
        "sentinel_kwargs": {
            **sockets,
            "retry": None,
            "password": settings.redis_sentinel_password.get_secret_value() or None,
        },
    }


def broker_tls(settings: Settings) -> dict[str, Any] | None:
    """kombu's TLS options; None if the broker's URL is without TLS.

    By default kombu accepts any certificate of a rediss:// broker, and any name of an amqps:// broker.
    """
    url, trusted = broker_transport_url(settings), settings.ca_file or None
    if url.startswith("rediss://"):
        return {"ssl_cert_reqs": CERT_REQUIRED, "ssl_ca_certs": trusted}
    if url.startswith("amqps://"):
        return {"cert_reqs": CERT_REQUIRED, "ca_certs": trusted, "server_hostname": None}
    return None


def broker_connection(settings: Settings) -> Connection:
    """A connection to the broker; it connects when it is first used."""
    return Connection(
        broker_transport_url(settings),
        transport_options=broker_options(settings),
        ssl=broker_tls(settings),
        connect_timeout=settings.redis_timeout_seconds,
    )


def broker_answers(settings: Settings) -> bool:
    """Whether the broker accepts a connection within about a second."""
    try:
        with broker_connection(settings) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=1)
    except Exception:  # every transport has its own errors
        return False
    return True
