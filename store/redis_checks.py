"""Whether a Redis is fit to be the store: its configuration, clock, memory and permissions."""

import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import NoPermissionError, ResponseError

from store import keys
from store.client import redis_errors
from store.errors import StoreUnavailable


def info(client: Redis) -> dict[str, Any]:
    """What Redis says of itself. Raises `StoreUnavailable`."""
    with redis_errors("INFO"):
        return dict(client.info())


def problems(client: Redis, *, production: bool) -> list[str]:
    """What makes this Redis unfit for `production`, in words for an operator; empty if nothing does.

    A store that evicts or loses claims would let a job be dispatched again. Where a provider hides CONFIG,
    what INFO says must do. Raises `StoreUnavailable`.
    """
    about = info(client)
    found = []
    if about.get("role") not in (None, "master"):
        found.append("the store is a replica: it cannot be written to")
    if about.get("maxmemory") and about.get("maxmemory_policy") != "noeviction":
        found.append(
            f"the store evicts (maxmemory-policy {about.get('maxmemory_policy')}): set noeviction"
        )
    if not _persists(client, about):
        found.append("the store keeps nothing on disk: set appendonly yes (or save)")
    return found if production else []


def seconds_apart(client: Redis) -> float:
    """How far Redis's clock is ahead of ours; negative if it is behind. Raises `StoreUnavailable`."""
    before = time.time()
    with redis_errors("TIME"):
        seconds, microseconds = client.time()
    return float(seconds + microseconds / 1e6 - (before + time.time()) / 2)


def missing_permissions(client: Redis) -> list[str]:
    """The commands that the service needs and this user may not call. It leaves nothing behind."""
    name = f"{keys.PREFIX}{{doctor-{uuid4().hex}}}"
    text, queue, fields, index, gone = (f"{name}:{kind}" for kind in "slhzu")
    calls: dict[str, tuple[Any, ...]] = {
        "SET": (text, "x", "NX", "EX", 5), "GET": (text,), "MGET": (text,), "EXISTS": (text,),
        "RPUSH": (queue, "x"), "LRANGE": (queue, 0, 0), "LLEN": (queue,), "LTRIM": (queue, 0, -1),
        "RPOP": (queue,), "LPUSH": (queue, "x"), "BRPOP": (queue, 0.1),
        "HSET": (fields, "x", "x"), "HGET": (fields, "x"), "HINCRBY": (fields, "n", 1),
        "ZADD": (index, 1, "x"), "ZCARD": (index,), "ZSCORE": (index, "x"), "ZRANGE": (index, 0, 0),
        "ZRANGEBYSCORE": (index, 0, 1), "ZRANGEBYLEX": (index, "-", "+"),
        "ZREVRANGEBYLEX": (index, "+", "-"), "ZLEXCOUNT": (index, "-", "+"),
        "ZREMRANGEBYRANK": (index, 0, -100), "ZREM": (index, "x"),
        "PEXPIRE": (gone, 1), "PTTL": (gone,), "PERSIST": (gone,), "UNLINK": (gone,),
        "EVAL": ("return 1", 1, text), "PUBLISH": (keys.changes_channel(client), ""),
        "SCAN": (0, "COUNT", 1), "DEL": (text, queue, fields, index),
    }  # fmt: skip
    missing = [name for name, arguments in calls.items() if not may(client, name, *arguments)]
    if not _is_allowed("WATCH", lambda: client.transaction(Pipeline.multi, text)):
        missing += ["WATCH", "MULTI", "EXEC"]
    return missing


def may(client: Redis, command: str, *arguments: Any) -> bool:
    """Whether this user may call a command, found out by calling it. Raises `StoreUnavailable`."""
    return _is_allowed(command, lambda: client.execute_command(command, *arguments))


def _is_allowed(command: str, call: Callable[[], Any]) -> bool:
    try:
        with redis_errors(command):
            call()
    except StoreUnavailable as error:
        if not isinstance(error.__cause__, NoPermissionError):
            raise
        return False
    except ResponseError:  # such as "EXEC without MULTI"
        return False
    return True


def _persists(client: Redis, about: dict[str, Any]) -> bool:
    if about.get("aof_enabled"):
        return True
    with redis_errors("CONFIG"):
        try:
            return bool(client.config_get("save").get("save"))
        except ResponseError:
            return True  # the command does not exist here, or not for this user
