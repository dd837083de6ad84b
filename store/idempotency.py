"""What an `Idempotency-Key` of a create stands for: an id, and the body that came with it."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import orjson
from redis import Redis

from domain.errors import BEING_ERASED, Forbidden, IdempotencyKeyMismatch
from store import keys
from store.client import redis_errors, scanned

_REMEMBER = Path(__file__).with_name("remember.lua").read_text()


class IdempotencyKeys:
    """Remembers each key for `seconds`, by a digest: a key is the caller's text."""

    def __init__(self, client: Redis, seconds: int) -> None:
        self._client, self.seconds = client, seconds
        self._remember = client.register_script(_REMEMBER)

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
        Raises `IdempotencyKeyMismatch` if the key came with another body before, `Forbidden` if it is new and
        the caller is being erased, and `StoreUnavailable`.
        """
        name = keys.idempotency_key(key[0], _digest(key))
        with redis_errors("GET"):
            stored = self._client.get(name)
        if stored is None:
            before_write()
            names, value = [name, keys.user_erasure(key[0])], f"{new_id} {_digest(body)}"
            with redis_errors("EVALSHA"):
                stored = self._remember(names, [value, self.seconds])
        if stored is None:
            raise Forbidden(BEING_ERASED)
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
