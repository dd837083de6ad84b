"""Valid and forged tokens, and an issuer that publishes its key on the loopback interface."""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from devstack.ports import HOST
from tests.support.behaviours import answer
from tests.support.orchestrator import StubOrchestrator

ISSUER = "https://issuer.example/"
AUDIENCE = "take-one"
SHARED_KEY = "a shared key of the tests that is long enough"
KEY_ID = "key-1"

RSA_KEY = generate_private_key(public_exponent=65_537, key_size=2_048)
OTHER_RSA_KEY = generate_private_key(public_exponent=65_537, key_size=2_048)


def public_pem(key: RSAPrivateKey) -> str:
    """The public key in PEM, as an operator would configure it."""
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a valid editor's token; a change to None removes a claim."""
    good = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "carol",
        "exp": time.time() + 300,
        "roles": ["editor"],
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def signed(algorithm: str, body: dict[str, Any], key: Any = None, **header: Any) -> str:
    """A token with this body, signed with the issuer's key or with `key`."""
    key = key or (SHARED_KEY if algorithm.startswith("HS") else RSA_KEY)
    return jwt.encode(body, key, algorithm=algorithm, headers={"kid": KEY_ID, **header})


def handmade(header: dict[str, Any], body: Any, hmac_key: bytes | None = None) -> str:
    """A token that no library would create; without `hmac_key` its signature is empty."""
    parts = [_base64(json.dumps(part).encode()) for part in (header, body)]
    signature = b""
    if hmac_key is not None:
        signature = hmac.new(hmac_key, ".".join(parts).encode(), hashlib.sha256).digest()
    return ".".join([*parts, _base64(signature)])


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer(StubOrchestrator):
    """An HTTP server that publishes the keys while it runs; `default` is how it answers."""

    def __init__(self) -> None:
        jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(RSA_KEY.public_key()))
        keys = {"keys": [{**jwk, "kid": KEY_ID, "use": "sig", "alg": "RS256"}]}
        super().__init__(answer(200, json.dumps(keys).encode()))

    @property
    def url(self) -> str:
        """The address of the key set."""
        return f"http://{HOST}:{self.port}/jwks.json"
