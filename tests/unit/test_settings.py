"""Settings: from variables and files, complete and safe or not at all, and never shown."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from docs.settings_page import PRODUCTION, REQUIRED, settings_page
from settings import Settings, SettingsError, load_settings
from settings.rules import RULES
from settings.sources import may_be_secret, unknown_variables

PRODUCTION_SETTINGS = {
    "TAKEONE_REDIS_URL": "redis://:pass-of-redis@127.0.0.1:6379/0",
    "TAKEONE_ORCHESTRATOR_URL": "https://caller:pass-of-orchestrator@flows.example/hook",
    "TAKEONE_PUBLIC_URL": "https://takeone.example",
    "TAKEONE_CALLBACK_SECRET": "a-callback-secret-of-the-tests",
    "TAKEONE_JWT_KEY": "a-shared-key-that-is-long-enough-for-hs256",
    "TAKEONE_JWT_ISSUER": "https://login.example",
    "TAKEONE_JWT_AUDIENCE": "takeone",
    "TAKEONE_JWT_ALGORITHMS": "HS256",
}
MAY_COME_FROM_FILES = [
    name for name, field in Settings.model_fields.items() if may_be_secret(field)
]


@pytest.fixture(autouse=True)
def production(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An environment with everything that production needs."""
    for name, value in PRODUCTION_SETTINGS.items():
        monkeypatch.setenv(name, value)
    load_settings.cache_clear()
    yield
    load_settings.cache_clear()


def refused() -> list[str]:
    """What a start-up that must be refused says, line by line."""
    load_settings.cache_clear()
    with pytest.raises(SettingsError) as refusal:
        load_settings()
    return str(refusal.value).splitlines()


def test_a_complete_environment_is_accepted() -> None:
    assert load_settings().production


@pytest.mark.parametrize("name", [name for name, word in PRODUCTION.items() if word == REQUIRED])
def test_production_refuses_to_start_without_what_the_documentation_calls_required(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(f"TAKEONE_{name.upper()}")
    assert refused() == [f"TAKEONE_{name.upper()} is not set"]


def test_everything_that_is_wrong_is_named_at_once_whatever_kind_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TAKEONE_WEB_THREADS", "many")
    monkeypatch.setenv("TAKEONE_PUBLIC_URL", "ftp://takeone.example")
    monkeypatch.setenv("TAKEONE_CALLBACK_SECRET", "short")
    monkeypatch.setenv("TAKEONE_LOG_HASH_KEY_FILE", str(tmp_path / "missing"))
    monkeypatch.delenv("TAKEONE_REDIS_URL")
    monkeypatch.delenv("TAKEONE_JWT_ISSUER")
    lines = refused()
    assert len(lines) == 6
    assert "TAKEONE_CALLBACK_SECRET is too short or a known default" in lines
    assert "TAKEONE_PUBLIC_URL: must be an absolute http or https URL" in lines
    assert "TAKEONE_LOG_HASH_KEY_FILE cannot be read: No such file or directory" in lines
    assert {"TAKEONE_REDIS_URL is not set", "TAKEONE_JWT_ISSUER is not set"} <= set(lines)
    assert any(line.startswith("TAKEONE_WEB_THREADS: ") for line in lines)


def test_a_rule_between_settings_is_passed_over_when_one_of_them_is_not_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TAKEONE_AUTH_MODE", "jtw")
    monkeypatch.delenv("TAKEONE_JWT_ISSUER")
    assert [line.split(":")[0] for line in refused()] == ["TAKEONE_AUTH_MODE"]


def test_those_who_wait_may_not_take_every_thread() -> None:
    Settings(env="development", web_threads=8, web_wait_slots=7)
    with pytest.raises(ValidationError, match="WEB_WAIT_SLOTS must be below TAKEONE_WEB_THREADS"):
        Settings(env="development", web_threads=8, web_wait_slots=8)


def test_every_rule_reads_settings_that_exist() -> None:
    read = {name for rule in RULES for name in rule.reads.split()}
    assert read <= Settings.model_fields.keys()


@pytest.mark.parametrize(
    "value", ["http://[planted-secret", "http://[planted-secret]/", "http://x:planted-secret/", "x"]
)
@pytest.mark.parametrize("name", ["ORCHESTRATOR_URL", "PUBLIC_URL", "REDIS_URL", "CORS_ORIGINS"])
def test_a_refusal_shows_no_value(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"TAKEONE_{name}", value)
    (line,) = refused()
    assert line.startswith(f"TAKEONE_{name}: must be ")
    assert "planted-secret" not in line
    with pytest.raises(ValidationError) as error:
        Settings()
    assert "planted-secret" not in str(error.value)


@pytest.mark.parametrize("name", ["ORCHESTRATOR_URL", "ORCHESTRATOR_CANCEL_URL", "PUBLIC_URL"])
@pytest.mark.parametrize("scheme", ["ftp", "file", "gopher", "javascript", "redis"])
def test_where_the_service_posts_to_is_http_or_https_and_nothing_else(
    name: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"TAKEONE_{name}", f"{scheme}://flows.example/hook")
    assert refused() == [f"TAKEONE_{name}: must be an absolute http or https URL"]


@pytest.mark.parametrize("name", MAY_COME_FROM_FILES)
def test_a_secret_may_come_from_a_file(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    value = {
        "callback_secret": "first-secret-of-a-file,second-secret-of-a-file",
        "signing_secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    }.get(name, "redis://:planted@127.0.0.1:6379/1" if name != "jwt_key" else "k" * 40)
    if name.startswith("orchestrator"):
        value = "https://caller:planted@flows.example/x"
    (tmp_path / "secret").write_text(value + "\n")
    monkeypatch.delenv(f"TAKEONE_{name.upper()}", raising=False)
    monkeypatch.setenv(f"TAKEONE_{name.upper()}_FILE", str(tmp_path / "secret"))
    given = getattr(load_settings(), name)
    assert (given if isinstance(given, str) else given.get_secret_value()) == value


@pytest.mark.parametrize("name", ["CALLBACK_SECRET", "SIGNING_SECRET", "JWT_KEY", "LOG_HASH_KEY"])
def test_what_is_named_a_secret_may_come_from_a_file(name: str) -> None:
    assert name.lower() in MAY_COME_FROM_FILES


@pytest.mark.parametrize("name", ["REDIS_URL", "BROKER_URL", "ORCHESTRATOR_URL"])
def test_a_url_that_may_hold_a_password_may_come_from_a_file(name: str) -> None:
    assert name.lower() in MAY_COME_FROM_FILES


def test_a_secret_and_a_file_for_it_are_one_too_many(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("a-callback-secret-from-a-file")
    monkeypatch.setenv("TAKEONE_CALLBACK_SECRET_FILE", str(tmp_path / "secret"))
    (line,) = refused()
    assert "TAKEONE_CALLBACK_SECRET and TAKEONE_CALLBACK_SECRET_FILE are both set" in line


def test_an_empty_variable_beside_a_file_is_no_second_value(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("a-callback-secret-from-a-file")
    monkeypatch.setenv("TAKEONE_CALLBACK_SECRET", "")
    monkeypatch.setenv("TAKEONE_CALLBACK_SECRET_FILE", str(tmp_path / "secret"))
    assert load_settings().callback_secrets == ("a-callback-secret-from-a-file",)


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"\xff\xfe-planted", "it is not text"), (b"x" * 100_000, "it is too large"), (b"\n", "")],
)
def test_a_file_that_cannot_be_used_is_named(
    content: bytes, why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(content)
    monkeypatch.delenv("TAKEONE_CALLBACK_SECRET")
    monkeypatch.setenv("TAKEONE_CALLBACK_SECRET_FILE", str(tmp_path / "secret"))
    (line,) = refused()
    named = f"TAKEONE_CALLBACK_SECRET_FILE cannot be used: {why}"
    assert line == (named if why else "TAKEONE_CALLBACK_SECRET is not set")


def test_no_secret_and_no_password_shows_when_settings_are_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TAKEONE_BROKER_URL", "amqp://user:pass-of-broker@127.0.0.1//")
    settings = load_settings()
    for shown in (repr(settings), str(settings), f"{settings}"):
        for secret in ("pass-of", "a-callback-secret", "a-shared-key"):
            assert secret not in shown


@pytest.mark.parametrize(
    "secret", ["short", "whsec_", "whsec_c2hvcnQ=", "whsec_!!", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
)
def test_a_signing_secret_is_whsec_and_enough_bytes_in_base64(
    secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAKEONE_SIGNING_SECRET", f"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw,{secret}")
    assert refused() == [
        "TAKEONE_SIGNING_SECRET: must be whsec_ and 24 to 64 bytes in base64, comma-separated"
    ]


def test_signed_callbacks_need_no_shared_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAKEONE_CALLBACK_SECRET")
    monkeypatch.setenv("TAKEONE_SIGNING_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    assert load_settings().callback_secrets == ()


def test_production_refuses_a_shared_key_that_can_be_guessed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TAKEONE_JWT_KEY", "k" * 31)
    assert refused() == ["TAKEONE_JWT_KEY: a shared key has at least 32 bytes"]


@pytest.mark.parametrize(
    "origins", ["*", "null", "https://editor.example/", "https://editor.example/app", "editor"]
)
def test_an_origin_is_scheme_and_host_and_never_everyone(
    origins: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAKEONE_CORS_ORIGINS", origins)
    assert [line.split(":")[0] for line in refused()] == ["TAKEONE_CORS_ORIGINS"]


def test_a_variable_that_no_setting_answers_to_is_found_with_what_was_meant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TAKEONE_UNKNOWN_HOLD_SECOND", "60")
    monkeypatch.setenv("TAKEONE_PORT_80_TCP", "tcp://10.0.0.1:80")
    monkeypatch.setenv("TAKEONE_CALLBACK_SECRET_FILE", "/run/secrets/callback")
    assert unknown_variables(Settings) == {
        "TAKEONE_PORT_80_TCP": None,
        "TAKEONE_UNKNOWN_HOLD_SECOND": "TAKEONE_UNKNOWN_HOLD_SECONDS",
    }


def test_the_documentation_is_the_one_that_the_settings_make() -> None:
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert page.read_text() == settings_page(), "run `make docs`"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_a_meaning(name: str) -> None:
    assert Settings.model_fields[name].description
