"""The editor's token, and the settings that accept it."""

import time

import jwt

OWNER = "bench"

_KEY = "a-shared-key-of-the-bench-with-enough-bytes"
_ISSUER, _AUDIENCE = "https://issuer.bench", "takeone"
_VALID_SECONDS = 3_600


def auth_settings(mode: str) -> dict[str, str]:
    """TAKEONE_ settings for `jwt` (HS256) or `dev`; only development allows the latter."""
    if mode == "dev":
        return {"TAKEONE_ENV": "development", "TAKEONE_AUTH_MODE": "dev"}
    return {
        "TAKEONE_AUTH_MODE": "jwt",
        "TAKEONE_JWT_KEY": _KEY,
        "TAKEONE_JWT_ALGORITHMS": "HS256",
        "TAKEONE_JWT_ISSUER": _ISSUER,
        "TAKEONE_JWT_AUDIENCE": _AUDIENCE,
    }


def token(mode: str) -> str:
    """A bearer token of an editor."""
    if mode == "dev":
        return f"test:{OWNER}:editor"
    claims = {"sub": OWNER, "roles": ["editor"], "iss": _ISSUER, "aud": _AUDIENCE}
    return jwt.encode({**claims, "exp": int(time.time()) + _VALID_SECONDS}, _KEY, "HS256")
