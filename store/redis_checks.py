"""Whether a Redis is fit to be the store: its configuration, clock, memory and permissions."""

import time
from typing import Any
from uuid import uuid4

from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError

from store import keys
from store.client import redis_errors
from store.errors import StoreUnavailable


def problems(client: Redis, *, production: bool) -> list[str]:
    """What makes this Redis unfit for `production`, in words for an operator; empty if nothing does.

    A store that evicts or loses claims would let a job be dispatched again. Where a provider hides CONFIG,
    what INFO says must do. Raises `StoreUnavailable`.
    """
    info = _info(client)
    found = []
    if info.get("role") not in (None, "master"):
        found.append("the store is a replica: it cannot be written to")
    if info.get("maxmemory") and info.get("maxmemory_policy") != "noeviction":
        found.append(
            f"the store evicts (maxmemory-policy {info.get('maxmemory_policy')}): set noeviction"
        )
    if not _persists(client, info):
        found.append("the store keeps nothing on disk: set appendonly yes (or save)")
    return found if production else []


def version(client: Redis) -> str:
    """Redis's version, such as 7.0.15. Raises `StoreUnavailable`."""
    return str(_info(client).get("redis_version", "0"))


def seconds_apart(client: Redis) -> float:
    """How far Redis's clock is ahead of ours; negative if it is behind. Raises `StoreUnavailable`."""
    before = time.time()
    with redis_errors("TIME"):
        seconds, microseconds = client.time()
    return float(seconds + microseconds / 1e6 - (before + time.time()) / 2)


def memory(client: Redis) -> tuple[int, int]:
    """Bytes in use, and the limit: `maxmemory`, else the machine's memory (0: unknown)."""
    info = _info(client)
    return info["used_memory"], info.get("maxmemory") or info.get("total_system_memory") or 0


def missing_permissions(client: Redis) -> list[str]:
    """The commands that the service needs and this user may not call. It leaves nothing behind."""
    name = f"{keys.PREFIX}{{doctor-{uuid4().hex}}}"
    calls: dict[str, tuple[Any, ...]] = {
        "SET": (f"{name}:s", "x", "NX", "EX", 5), "GET": (f"{name}:s",), "MGET": (f"{name}:s",),
        "RPUSH": (f"{name}:l", "x"), "LRANGE": (f"{name}:l", 0, 0), "LLEN": (f"{name}:l",),
        "LTRIM": (f"{name}:l", 0, -1),
        "RPOP": (f"{name}:l",), "LPUSH": (f"{name}:l", "x"), "BRPOP": (f"{name}:l", 0.1),
        "HSET": (f"{name}:h", "x", "x"), "HGET": (f"{name}:h", "x"), "HINCRBY": (f"{name}:h", "n", 1),
        "ZADD": (f"{name}:z", 1, "x"), "ZCARD": (f"{name}:z",), "ZRANGE": (f"{name}:z", 0, 0),
        "ZRANGEBYLEX": (f"{name}:z", "-", "+"), "ZREVRANGEBYLEX": (f"{name}:z", "+", "-"),
        "ZRANGEBYSCORE": (f"{name}:z", 0, 1), "ZLEXCOUNT": (f"{name}:z", "-", "+"),
        "ZSCORE": (f"{name}:z", "x"), "ZREMRANGEBYRANK": (f"{name}:z", 0, -100), "ZREM": (f"{name}:z", "x"),
        "PEXPIRE": (f"{name}:u", 1), "PTTL": (f"{name}:u",), "PERSIST": (f"{name}:u",),
        "SCAN": (0, "COUNT", 1), "UNLINK": (f"{name}:u",),
        "EVAL": ("return 1", 1, f"{name}:s"),
        "EXISTS": (f"{name}:s",),
        "PUBLISH": (keys.changes_channel(client), ""),
        "DEL": (f"{name}:s", f"{name}:l", f"{name}:h", f"{name}:z"),
    }  # fmt: skip
    return [command for command, arguments in calls.items() if not may(client, command, *arguments)]


def may(client: Redis, command: str, *arguments: Any) -> bool:
    """Whether this user may call a command, found out by calling it. Raises `StoreUnavailable`."""
    try:
        with redis_errors(command):
            client.execute_command(command, *arguments)
    except StoreUnavailable as error:
        if not isinstance(error.__cause__, NoPermissionError):
            raise
        return False
    return True


def _info(client: Redis) -> dict[str, Any]:
    with redis_errors("INFO"):
        info: dict[str, Any] = client.info()
    return info


def _persists(client: Redis, info: dict[str, Any]) -> bool:
    if info.get("aof_enabled"):
        return True
    with redis_errors("CONFIG"):
        try:
            return bool(client.config_get("save").get("save"))
        except ResponseError:
            return True  # the command does not exist here, or not for this user
