"""Whether this Redis may be trusted with claims."""

from redis.exceptions import NoPermissionError, ResponseError

from store.errors import StoreUnavailable
from store.link import Link

_MOST_RESPONSIVE = "noeviction"


def problems(link: Link, *, production: bool) -> list[str]:
    """What makes this Redis unfit to be the store, in words for an operator; empty if nothing does.

    A store that evicts or forgets would let a dispatched job be dispatched again, so in production
    neither is accepted. A provider that hides CONFIG is believed by what INFO says.
    Raises `StoreUnavailable`.
    """
    (raw,) = link.call(("INFO",))
    info = _parse(raw)
    found = []
    if info.get("role") not in (None, "master"):
        found.append("the store is a replica: it cannot be written to")
    if info.get("maxmemory", "0") != "0" and info.get("maxmemory_policy") != _MOST_RESPONSIVE:
        found.append(
            f"the store evicts (maxmemory-policy {info.get('maxmemory_policy')}): set noeviction"
        )
    if not _persists(link, info):
        found.append("the store keeps nothing on disk: set appendonly yes (or save)")
    return found if production else []


def version(link: Link) -> str:
    """Redis's version, such as 7.0.15. Raises `StoreUnavailable`."""
    (raw,) = link.call(("INFO", "server"))
    return _parse(raw).get("redis_version", "0")


def _persists(link: Link, info: dict[str, str]) -> bool:
    if info.get("aof_enabled") == "1":
        return True
    try:
        (save,) = link.call(("CONFIG", "GET", "save"))
    except ResponseError:
        return True  # no such command here
    except StoreUnavailable as error:
        if isinstance(error.__cause__, NoPermissionError):
            return True
        raise
    return bool(save) and bool(save[1])


def _parse(raw: bytes | str) -> dict[str, str]:
    text = raw.decode() if isinstance(raw, bytes) else raw
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name: value.strip() for name, _, value in pairs}
