"""Authentication: editors and operators by bearer token, the orchestrator by the callback secret."""

import hmac
import time
from dataclasses import dataclass
from typing import Any

import jwt

from api.signing_keys import LIFETIME_SECONDS, SigningKeys
from domain.errors import Unauthorized
from settings import Settings

EDITOR_ROLE = "editor"
_MAX_USER = 256
_MAX_CACHED = 10_000


@dataclass(frozen=True)
class Principal:
    """An authenticated caller. Only editors own projects and jobs."""

    user: str
    is_editor: bool
    is_operator: bool = False


class Authenticator:
    """Verifies tokens as the settings say (contract, "Auth"), and caches what it has verified."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keys = (
            SigningKeys(settings.jwt_jwks_url, settings.ca_file) if settings.jwt_jwks_url else None
        )
        # By token, with the time until which it is valid. Verifying costs more than the rest of a replay.
        self._verified: dict[str, tuple[Principal, float]] = {}

    def principal(self, authorization: str | None) -> Principal:
        """The caller that an Authorization header names. Raises `Unauthorized`, and `ServiceUnavailable` if the
        issuer's keys are not available."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized
        token = token.strip()
        if self._settings.auth_mode == "dev":
            return _dev_principal(token)
        verified = self._verified.get(token)
        if verified is None or time.time() >= verified[1]:
            verified = self._verify(token)
            if len(self._verified) >= _MAX_CACHED:
                self._verified.clear()
            self._verified[token] = verified
        return verified[0]

    def _verify(self, token: str) -> tuple[Principal, float]:
        try:
            if self._keys is None:
                key: Any = self._settings.jwt_key.get_secret_value()
            else:
                key = self._keys.key(jwt.get_unverified_header(token).get("kid", ""))
            claims = jwt.decode(
                token,
                key,
                algorithms=self._settings.jwt_algorithms,
                audience=self._settings.jwt_audience,
                issuer=self._settings.jwt_issuer,
                leeway=self._settings.jwt_leeway_seconds,
                options={"require": ["exp", "sub", "iss", "aud"]},
            )
            expires_at = float(claims["exp"]) + self._settings.jwt_leeway_seconds
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
            raise Unauthorized from None
        roles = _roles(claims.get(self._settings.jwt_roles_claim))
        seconds = self._keys.valid_for if self._keys else LIFETIME_SECONDS
        return _principal(claims["sub"], roles), min(expires_at, time.time() + seconds)


def _dev_principal(token: str) -> Principal:
    prefix, _, rest = token.partition(":")
    user, _, roles = rest.rpartition(":")
    if prefix != "test" or not user or not roles:
        raise Unauthorized
    return _principal(user, set(roles.split(",")))


def _principal(user: str, roles: set[str]) -> Principal:
    # JSON can hold half of a surrogate pair, which cannot be encoded.
    has_surrogate = any("\ud800" <= character <= "\udfff" for character in user)
    if not 0 < len(user) <= _MAX_USER or has_surrogate:
        raise Unauthorized
    return Principal(user, EDITOR_ROLE in roles, "operator" in roles)


def _roles(claim: Any) -> set[str]:
    if isinstance(claim, str):
        return set(claim.split())
    if isinstance(claim, list):
        return {role for role in claim if isinstance(role, str)}
    return set()


def is_callback_secret(given: str | None, valid: tuple[str, ...]) -> bool:
    """Whether `given` is one of the valid secrets; the time taken does not depend on which, or how nearly."""
    offered = (given or "").encode(errors="replace")
    matches = [hmac.compare_digest(offered, secret.encode()) for secret in valid]
    return any(matches)
