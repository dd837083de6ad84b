"""`takeone token`: made where the service itself can make one, and what is made is what it believes."""

from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from api.auth import Authenticator, Principal
from cli.token import token
from domain.errors import Unauthorized
from settings import load_settings
from tests.acceptance.tokens import RSA_KEY, public_pem

HS256 = {
    "TAKEONE_ENV": "development",
    "TAKEONE_AUTH_MODE": "jwt",
    "TAKEONE_JWT_KEY": "a-shared-key-that-is-long-enough-for-hs256",
    "TAKEONE_JWT_ALGORITHMS": "HS256",
    "TAKEONE_JWT_ISSUER": "https://login.example",
    "TAKEONE_JWT_AUDIENCE": "takeone",
}


@pytest.fixture(autouse=True)
def fresh_settings() -> Iterator[None]:
    """No other test sees these settings."""
    yield
    load_settings.cache_clear()


def made(arguments: list[str], settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Result:
    """What the command does with these settings, which stay for the test."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    load_settings.cache_clear()
    return CliRunner().invoke(token, arguments)


def believed(result: Result) -> Principal:
    """Whom the service takes the token's bearer for."""
    return Authenticator(load_settings()).principal(f"Bearer {result.stdout.strip()}")


@pytest.mark.parametrize("settings", [{"TAKEONE_ENV": "development"}, HS256], ids=["dev", "HS256"])
def test_a_token_is_believed_for_its_user_and_role(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert believed(made(["alice"], settings, monkeypatch)) == Principal("alice", True)
    assert believed(made(["bob", "--role", "viewer"], settings, monkeypatch)) == Principal(
        "bob", False
    )


def test_a_minted_token_is_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    result = made(["alice"], HS256, monkeypatch)
    monkeypatch.setenv("TAKEONE_JWT_KEY", "another-key-that-is-long-enough-for-hs256")
    load_settings.cache_clear()
    with pytest.raises(Unauthorized):
        believed(result)


@pytest.mark.parametrize(
    "settings",
    [
        {**HS256, "TAKEONE_JWT_KEY": "", "TAKEONE_JWT_ALGORITHMS": "RS256",
         "TAKEONE_JWT_JWKS_URL": "https://login.example/keys"},
        {**HS256, "TAKEONE_JWT_ALGORITHMS": "RS256", "TAKEONE_JWT_KEY": public_pem(RSA_KEY)},
    ],
    ids=["JWKS", "PEM"],
)  # fmt: skip
def test_no_token_is_made_where_only_the_issuer_can(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = made(["alice"], settings, monkeypatch)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "the issuer makes the tokens" in result.stderr


def test_no_token_is_made_where_the_settings_are_incomplete(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = made(["alice"], {"TAKEONE_ENV": "production"}, monkeypatch)
    assert result.exit_code == 1
    assert "TAKEONE_REDIS_URL is not set" in result.stderr
