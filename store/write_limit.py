"""How often one user may change something: a moving window of the `limits` package, kept in the store."""

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
    """Counts each user's changes. `limit` is in the notation of `limits`, as "60/minute"; empty: no limit."""

    def __init__(self, limit: str, client: Redis) -> None:
        self._limit = parse(limit) if limit else None
        # The storage wants an address, but uses the client's connections.
        pool = client.connection_pool
        storage = RedisStorage("redis://", connection_pool=pool, key_prefix=keys.LIMITS)
        self._limiter = MovingWindowRateLimiter(storage)

    def count(self, user: str) -> None:
        """Count a change that the user is about to make. A refused one does not count.

        Raises `RateLimited`, with the seconds until the next change is allowed, and `StoreUnavailable`.
        """
        if self._limit is None:
            return
        name = sha256(user.encode()).hexdigest()[:32]
        with redis_errors("EVALSHA"):
            if self._limiter.hit(self._limit, "write", name):
                return
            free_at = self._limiter.get_window_stats(self._limit, "write", name).reset_time
        # No change counts for longer, although a clock that was ahead may have timed it.
        free_in = min(free_at - time.time(), self._limit.get_expiry())
        raise RateLimited(retry_after=max(1, math.ceil(free_in)))
