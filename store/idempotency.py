"""What an `Idempotency-Key` of a create stands for: an id, and the body that came with it."""

from collections.abc import Callable
from hashlib import sha256

import orjson
from redis import Redis

from domain.errors import IdempotencyKeyMismatch
from store import keys
from store.client import execute, redis_errors, scanned
from store.errors import StoreContended


class IdempotencyKeys:
    """Remembers each key for `seconds`, by a digest: a key is the caller's text."""

    def __init__(self, client: Redis, seconds: int) -> None:
        self._client, self.seconds = client, seconds

    def id_for(
        self,
        key: tuple[str, str, str],
        body: dict[str, object],
        new_id: str,
        before_write: Callable[[], None],
    ) -> str:
        """The id that `key` (caller, place, the caller's own key) stands for: `new_id` if it is new.

        The record itself is made after this, under that id: after a crash in between, a repeat makes it.
        `before_write` is called where the key is not known yet: what it raises leaves it so.
        Raises `IdempotencyKeyMismatch` if the key came with another body before, and `StoreUnavailable`.
        """
        name = keys.idempotency_key(key[0], _digest(key))
        with redis_errors("GET"):
            stored = self._client.get(name)
        if stored is None:
            before_write()
            pipeline = self._client.pipeline(transaction=False)
            pipeline.set(name, f"{new_id} {_digest(body)}", nx=True, ex=self.seconds).get(name)
            _, stored = execute(pipeline, "SET GET")
        if stored is None:  # it has ended this moment
            raise StoreContended(new_id)
        known_id, _, body_digest = stored.decode().partition(" ")
        if body_digest != _digest(body):
            raise IdempotencyKeyMismatch
        return str(known_id)

    def forget(self, user: str) -> int:
        """Forget every key of a user; how many there were. Reads the whole keyspace, a batch at a time."""
        forgotten = 0
        for batch in scanned(self._client, keys.idempotency_key(user, "*")):
            if batch:
                with redis_errors("UNLINK"):
                    forgotten += self._client.unlink(*batch)
        return forgotten


def _digest(value: object) -> str:
    return sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()
