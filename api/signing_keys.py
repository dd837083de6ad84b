"""The issuer's public keys (JWKS, RFC 7517), fetched in the background so that no caller is delayed."""

import threading
import time
from collections.abc import Callable
from typing import Any

import jwt
import requests
import structlog

from domain.errors import ServiceUnavailable, Unauthorized

log = structlog.get_logger("api")

_TIMEOUT_SECONDS = 2.0
# A key that its issuer withdraws is accepted no longer than this.
LIFETIME_SECONDS = 60.0
_REFRESH_AFTER_SECONDS = 30.0
_PAUSE_SECONDS = 5.0
_MOST_BYTES = 1_000_000
_MOST_WAITERS = 4


class SigningKeys:
    """Keys by their id (`kid`). One refresh runs at a time, with a pause after each, failed ones too.

    A caller with a known key never waits. One with an unknown key waits for a refresh if one is due, with a
    few others at the most; during the pause the key counts as unknown to the issuer.
    """

    def __init__(
        self, url: str, ca_file: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._url, self._clock = url, clock
        self._session = requests.Session()
        self._session.trust_env = False  # keys that a proxy could replace would be no keys
        self._session.verify = ca_file or True
        self._keys: dict[str, Any] = {}
        self._fetched_at = float("-inf")
        self._next_refresh = float("-inf")
        self._refreshed = threading.Event()
        self._refreshed.set()
        self._lock = threading.Lock()
        self._waiters = threading.BoundedSemaphore(_MOST_WAITERS)

    @property
    def valid_for(self) -> float:
        """Seconds for which what a key has verified may be believed."""
        return self._fetched_at + LIFETIME_SECONDS - self._clock()

    def key(self, key_id: str) -> Any:
        """The key. Raises `Unauthorized` if the issuer has none of that id, `ServiceUnavailable` if it is
        not known what the issuer has."""
        found = self._known(key_id)
        if found is None or self._clock() - self._fetched_at >= _REFRESH_AFTER_SECONDS:
            self._start_refresh()
        if found is None:
            self._wait_for_refresh()
            found = self._known(key_id)
        if found is None:
            raise Unauthorized if self.valid_for > 0 else ServiceUnavailable
        return found

    def _known(self, key_id: str) -> Any:
        return self._keys.get(key_id) if self.valid_for > 0 else None

    def _wait_for_refresh(self) -> None:
        if self._refreshed.is_set():
            return
        if not self._waiters.acquire(blocking=False):
            raise ServiceUnavailable
        try:
            self._refreshed.wait(2 * _TIMEOUT_SECONDS)
        finally:
            self._waiters.release()

    def _start_refresh(self) -> None:
        with self._lock:
            if not self._refreshed.is_set() or self._clock() < self._next_refresh:
                return
            self._refreshed.clear()
        threading.Thread(target=self._refresh, name="signing-keys", daemon=True).start()

    def _refresh(self) -> None:
        try:
            began = self._clock()
            self._keys, self._fetched_at = self.fetch(), began
        except Exception as error:  # whatever the issuer published, it was no set of keys
            log.warning("signing_keys.not_fetched", error=type(error).__name__)
        finally:
            self._next_refresh = self._clock() + _PAUSE_SECONDS
            self._refreshed.set()

    def fetch(self) -> dict[str, Any]:
        """Ask the issuer now. Raises whatever the request or its answer gives cause for."""
        with self._session.get(
            self._url, timeout=_TIMEOUT_SECONDS, stream=True, allow_redirects=False
        ) as answer:
            answer.raise_for_status()
            body = answer.raw.read(_MOST_BYTES, decode_content=True)
        published = jwt.PyJWKSet.from_json(body.decode()).keys
        return {key.key_id or "": key.key for key in published if key.public_key_use != "enc"}
