"""How often one user may call run: the moving window of the `limits` package, on the store's Redis."""

import math
import time
from collections.abc import Callable, Sequence
from hashlib import sha1, sha256
from typing import Any

from limits import parse
from limits.storage import RedisStorage
from limits.strategies import MovingWindowRateLimiter

from domain.errors import RateLimited
from store import keys
from store.link import Link, Script


class _Storage(RedisStorage):
    """limits' own scripts over our own connections: with their bounds, timeouts and errors."""

    def __init__(self, link: Link) -> None:
        self._link = link
        super().__init__("redis://", key_prefix=keys.LIMITS)

    def get_connection(self, readonly: bool = False) -> Any:  # noqa: ARG002
        """What the scripts are registered with."""
        return self

    def register_script(self, source: bytes) -> Callable[[Sequence[str], Sequence[Any]], Any]:
        """A function that runs the script."""
        script = Script(source.decode(), sha1(source, usedforsecurity=False).hexdigest())
        return lambda names, arguments: self._link.run(script, names, arguments)


class RunLimit:
    """Counts the calls of each user. `limit` is in words that `limits` knows, such as "30/minute"."""

    def __init__(self, limit: str, link: Link) -> None:
        self._limit = parse(limit)
        self._limiter = MovingWindowRateLimiter(_Storage(link))

    def count(self, user: str) -> None:
        """Count one call of this user. A call that is refused does not count.

        Raises `RateLimited`, with the seconds until the next call is free, and `StoreUnavailable`.
        """
        name = sha256(user.encode()).hexdigest()[:32]
        if not self._limiter.hit(self._limit, "run", name):
            free_at = self._limiter.get_window_stats(self._limit, "run", name).reset_time
            raise RateLimited(retry_after=max(1, math.ceil(free_at - time.time())))
