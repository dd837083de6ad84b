"""Tokens that were verified before; what is refused at once is tested over HTTP."""

import time

from api.auth import Authenticator
from devstack.waiting import wait_until
from domain.errors import Unauthorized
from settings import Settings
from tests.acceptance.tokens import AUDIENCE, ISSUER, SHARED_KEY, claims, signed


def test_a_token_that_was_verified_is_refused_once_it_has_expired() -> None:
    settings = Settings(
        env="development", auth_mode="jwt", jwt_key=SHARED_KEY, jwt_algorithms="HS256",
        jwt_issuer=ISSUER, jwt_audience=AUDIENCE, jwt_leeway_seconds=0,
    )  # fmt: skip
    authenticator = Authenticator(settings)
    header = f"Bearer {signed('HS256', claims(exp=time.time() + 2))}"
    assert authenticator.principal(header).user == "carol"

    def is_refused() -> bool:
        try:
            authenticator.principal(header)
        except Unauthorized:
            return True
        return False

    wait_until(is_refused, 10, "the token has expired")
