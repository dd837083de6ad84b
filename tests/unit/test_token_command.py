"""`takeone token`: the service accepts its tokens, and it makes none if only the issuer can."""

from collections.abc import Iterator

import jwt
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
    """Hide these settings from other tests."""
    yield
    load_settings.cache_clear()


def run(arguments: list[str], settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Result:
    """Run the command with these settings, which stay set for the test."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    load_settings.cache_clear()
    return CliRunner().invoke(token, arguments)


def authenticated(result: Result) -> Principal:
    """The caller that the service sees in the token."""
    return Authenticator(load_settings()).principal(f"Bearer {result.stdout.strip()}")


@pytest.mark.parametrize("settings", [{"TAKEONE_ENV": "development"}, HS256], ids=["dev", "HS256"])
def test_a_token_is_accepted_for_its_user_and_role(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = run(["alice"], settings, monkeypatch)
    assert authenticated(editor) == Principal("alice", True)
    viewer = run(["bob", "--role", "viewer"], settings, monkeypatch)
    assert authenticated(viewer) == Principal("bob", False)


@pytest.mark.parametrize("settings", [{"TAKEONE_ENV": "development"}, HS256], ids=["dev", "HS256"])
@pytest.mark.parametrize("user", ["", "x" * 257])
def test_no_token_is_made_that_the_service_refuses(
    settings: dict[str, str], user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run([user], settings, monkeypatch)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "the service would refuse" in result.stderr


def test_a_token_expires_after_the_given_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, minutes in ([], 60), (["--minutes", "1"], 1):
        made = run(["alice", *arguments], HS256, monkeypatch).stdout.strip()
        claims = jwt.decode(made, options={"verify_signature": False})
        assert claims["exp"] - claims["iat"] == minutes * 60


def test_a_token_is_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(["alice"], HS256, monkeypatch)
    monkeypatch.setenv("TAKEONE_JWT_KEY", "another-key-that-is-long-enough-for-hs256")
    load_settings.cache_clear()
    with pytest.raises(Unauthorized):
        authenticated(result)


@pytest.mark.parametrize(
    "settings",
    [
        {**HS256, "TAKEONE_JWT_KEY": "", "TAKEONE_JWT_ALGORITHMS": "RS256",
         "TAKEONE_JWT_JWKS_URL": "https://login.example/keys"},
        {**HS256, "TAKEONE_JWT_ALGORITHMS": "RS256", "TAKEONE_JWT_KEY": public_pem(RSA_KEY)},
    ],
    ids=["JWKS", "PEM"],
)  # fmt: skip
def test_no_token_is_made_if_only_the_issuer_can_make_one(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(["alice"], settings, monkeypatch)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "the issuer makes the tokens" in result.stderr


def test_no_token_is_made_if_the_settings_are_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(["alice"], {"TAKEONE_ENV": "production"}, monkeypatch)
    assert result.exit_code == 1
    assert "TAKEONE_REDIS_URL is not set" in result.stderr
