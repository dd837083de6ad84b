"""Idempotency keys of create requests: which id, and which request body, a key was first used for."""

from collections.abc import Callable
from hashlib import sha256

import orjson
from redis import Redis

from domain.errors import BEING_ERASED, Forbidden, IdempotencyKeyMismatch
from store import keys
from store.client import load_script, redis_errors, scan_keys


class IdempotencyKeys:
    """Remembers each key for `seconds`, as a digest: a key is the caller's text."""

    def __init__(self, client: Redis, seconds: int) -> None:
        self._client, self.seconds = client, seconds
        self._remember = load_script(client, "remember")

    def id_for(
        self,
        key: tuple[str, str, str],
        body: dict[str, object],
        new_id: str,
        before_write: Callable[[], None],
    ) -> str:
        """The id that `key` (user, place, the caller's own key) stands for: `new_id` if the key is new.

        The record is created afterwards, under that id; after a crash in between, a repeat creates it.
        `before_write` is called before a new key is stored, and may prevent that by raising.
        Raises `IdempotencyKeyMismatch` if the key was used with another body, `Forbidden` if it is new and the
        user is being erased, and `StoreUnavailable`.
        """
        name = keys.idempotency_key(key[0], _digest(key))
        with redis_errors("GET"):
            stored = self._client.get(name)
        if stored is None:
            before_write()
            value = f"{new_id} {_digest(body)}"
            stored = self._remember([name, keys.erasure(key[0])], [value, self.seconds])
        if stored is None:
            raise Forbidden(BEING_ERASED)
        known_id, _, body_digest = stored.decode().partition(" ")
        if body_digest != _digest(body):
            raise IdempotencyKeyMismatch
        return str(known_id)

    def forget(self, user: str) -> int:
        """Forget all keys of a user; how many there were. Scans the whole keyspace, in batches."""
        forgotten = 0
        for batch in scan_keys(self._client, keys.idempotency_key(user, "*")):
            if batch:
                with redis_errors("UNLINK"):
                    forgotten += self._client.unlink(*batch)
        return forgotten


def _digest(value: object) -> str:
    return sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()
