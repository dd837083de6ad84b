"""How often one user may change something: the moving window of the `limits` package, on the store's Redis."""

import math
import time
from hashlib import sha256

from limits import parse
from limits.storage import RedisStorage
from limits.strategies import MovingWindowRateLimiter
from redis import Redis

from domain.errors import RateLimited
from store import keys
from store.client import redis_errors


class WriteLimit:
    """Counts each user's changes. `limit` is in words that `limits` knows, such as "60/minute"; empty: none."""

    def __init__(self, limit: str, client: Redis) -> None:
        self._limit = parse(limit) if limit else None
        # The address is not looked at: the connections are the client's.
        storage = RedisStorage(
            "redis://", connection_pool=client.connection_pool, key_prefix=keys.LIMITS
        )
        self._limiter = MovingWindowRateLimiter(storage)

    def count(self, user: str) -> None:
        """Count one change that this user is about to make. One that is refused does not count.

        Raises `RateLimited`, with the seconds until the next one is free, and `StoreUnavailable`.
        """
        if self._limit is None:
            return
        name = sha256(user.encode()).hexdigest()[:32]
        with redis_errors("EVALSHA"):
            if self._limiter.hit(self._limit, "write", name):
                return
            free_at = self._limiter.get_window_stats(self._limit, "write", name).reset_time
        raise RateLimited(retry_after=max(1, math.ceil(free_at - time.time())))
