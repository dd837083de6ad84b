"""The issuer's public keys (JWKS, RFC 7517), refreshed in the background.

PyJWT's own client fetches within the request, and all other callers wait for it.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import jwt
import structlog

from domain.errors import ServiceUnavailable, Unauthorized
from orchestrators.bounded_session import BoundedSession, sending

log = structlog.get_logger("api")

_TIMEOUT_SECONDS = 2.0
# How long a withdrawn key is still accepted at most.
LIFETIME_SECONDS = 60.0
_REFRESH_AFTER_SECONDS = 30.0
_PAUSE_SECONDS = 5.0
_MAX_BYTES = 1_000_000
_MAX_WAITERS = 4


class SigningKeys:
    """Keys by their id (`kid`). One refresh runs at a time; after each, also a failed one, there is a pause.

    A caller with a known key never waits. One with an unknown key waits for a refresh if one is due, as one of
    a few; during the pause, an unknown key is refused at once.
    """

    def __init__(
        self, url: str, ca_file: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._url, self._clock = url, clock
        self._session = BoundedSession(ca_file)  # without a proxy, which could replace the keys
        self._keys: dict[str, Any] = {}
        self._fetched_at = float("-inf")
        self._next_refresh = float("-inf")
        self._refresher = threading.Thread()
        self._lock = threading.Lock()
        self._waiters = threading.BoundedSemaphore(_MAX_WAITERS)

    @property
    def valid_for(self) -> float:
        """Seconds for which the keys, and a signature that they have verified, are still valid."""
        return self._fetched_at + LIFETIME_SECONDS - self._clock()

    def key(self, key_id: str) -> Any:
        """The key. Raises `Unauthorized` if the issuer has no such key, `ServiceUnavailable` if its keys could
        not be fetched."""
        key = self._current(key_id)
        if key is None or self._clock() - self._fetched_at >= _REFRESH_AFTER_SECONDS:
            self._start_refresh()
        if key is None:
            self._wait_for_refresh()
            key = self._current(key_id)
        if key is None:
            raise Unauthorized if self.valid_for > 0 else ServiceUnavailable
        return key

    def _current(self, key_id: str) -> Any:
        return self._keys.get(key_id) if self.valid_for > 0 else None

    def _wait_for_refresh(self) -> None:
        refresher = self._refresher
        if not refresher.is_alive():
            return
        if not self._waiters.acquire(blocking=False):
            raise ServiceUnavailable
        try:
            refresher.join(2 * _TIMEOUT_SECONDS)
        finally:
            self._waiters.release()

    def _start_refresh(self) -> None:
        with self._lock:
            if self._refresher.is_alive() or self._clock() < self._next_refresh:
                return
            self._refresher = threading.Thread(target=self._refresh, daemon=True)
            self._refresher.start()

    def _refresh(self) -> None:
        try:
            began = self._clock()
            self._keys, self._fetched_at = self.fetch(), began
        except Exception as error:  # the issuer may answer anything
            log.warning("signing_keys.not_fetched", error=type(error).__name__)
        self._next_refresh = self._clock() + _PAUSE_SECONDS

    def fetch(self) -> dict[str, Any]:
        """Fetch the keys now. Raises any exception of the request or of parsing its answer."""
        sending.end_by(time.monotonic() + 2 * _TIMEOUT_SECONDS)
        with self._session.get(self._url, timeout=_TIMEOUT_SECONDS, stream=True) as response:
            response.raise_for_status()
            body = response.raw.read(_MAX_BYTES, decode_content=True)
        published = jwt.PyJWKSet.from_json(body.decode()).keys
        return {key.key_id or "": key.key for key in published if key.public_key_use != "enc"}
