"""Settings come from variables and files; incomplete or unsafe ones are refused; no secret is shown."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from docs.settings_page import PRODUCTION, REQUIRED, settings_page
from orchestrators.base import Dispatch
from orchestrators.registry import make_adapter
from settings import Settings, SettingsError
from settings.sources import may_be_secret, unknown_variables
from tests.unit.conftest import PRODUCTION_SETTINGS, Environment

MAY_COME_FROM_FILES = [
    name for name, field in Settings.model_fields.items() if may_be_secret(field)
]
SIGNING_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_a_complete_environment_is_accepted(environment: Environment) -> None:
    assert environment.load().production


@pytest.mark.parametrize("name", [name for name, note in PRODUCTION.items() if note == REQUIRED])
def test_production_requires_what_the_documentation_calls_required(
    name: str, environment: Environment
) -> None:
    variable = f"TAKEONE_{name.upper()}"
    assert environment.refusal(**{variable: None}) == [f"{variable} is not set"]


def test_all_problems_are_reported_at_once(environment: Environment, tmp_path: Path) -> None:
    lines = environment.refusal(
        TAKEONE_WEB_THREADS="many",
        TAKEONE_PUBLIC_URL="ftp://takeone.example",
        TAKEONE_CALLBACK_SECRET="short",
        TAKEONE_LOG_HASH_KEY_FILE=str(tmp_path / "missing"),
        TAKEONE_REDIS_URL=None,
        TAKEONE_JWT_ISSUER=None,
    )
    (threads,) = (line for line in lines if line.startswith("TAKEONE_WEB_THREADS: "))
    assert sorted(lines) == sorted(
        [
            "TAKEONE_CALLBACK_SECRET is too short or a known default",
            "TAKEONE_PUBLIC_URL: must be an absolute http or https URL",
            "TAKEONE_LOG_HASH_KEY_FILE cannot be read: No such file or directory",
            "TAKEONE_REDIS_URL is not set",
            "TAKEONE_JWT_ISSUER is not set",
            threads,
        ]
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"TAKEONE_AUTH_MODE": "jtw", "TAKEONE_JWT_ISSUER": None},
        {"TAKEONE_REDIS_URL": "x"},
        {"TAKEONE_ENV": "prod", "TAKEONE_CALLBACK_SECRET": "short"},
    ],
)
def test_a_rule_does_not_apply_if_a_setting_that_it_reads_is_invalid(
    changes: dict[str, str | None], environment: Environment
) -> None:
    assert [line.split(":")[0] for line in environment.refusal(**changes)] == [next(iter(changes))]


def test_a_rule_that_fails_on_valid_settings_lets_no_process_start(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {"a problem": lambda it: it.no_such_setting}
    monkeypatch.setattr(Settings, "rules", broken)
    with pytest.raises(AttributeError, match="no_such_setting"):
        environment.load()


def test_waiting_callers_may_not_take_every_thread() -> None:
    Settings(env="development", web_threads=32, web_wait_slots=31)
    with pytest.raises(SettingsError, match="WEB_WAIT_SLOTS must be below TAKEONE_WEB_THREADS"):
        Settings(env="development", web_threads=32, web_wait_slots=32)


@pytest.mark.parametrize(
    "value", ["http://[planted-secret", "http://[planted-secret]/", "http://x:planted-secret/", "x"]
)
@pytest.mark.parametrize("name", ["ORCHESTRATOR_URL", "PUBLIC_URL", "REDIS_URL", "CORS_ORIGINS"])
def test_a_refusal_shows_no_value(name: str, value: str, environment: Environment) -> None:
    (line,) = environment.refusal(**{f"TAKEONE_{name}": value})
    assert line.startswith(f"TAKEONE_{name}: must be ")
    assert "planted-secret" not in line


@pytest.mark.parametrize("name", ["ORCHESTRATOR_URL", "ORCHESTRATOR_CANCEL_URL", "PUBLIC_URL"])
@pytest.mark.parametrize("scheme", ["ftp", "file", "gopher", "javascript", "redis"])
def test_urls_that_are_posted_to_must_be_http_or_https(
    name: str, scheme: str, environment: Environment
) -> None:
    lines = environment.refusal(**{f"TAKEONE_{name}": f"{scheme}://flows.example/hook"})
    assert lines == [f"TAKEONE_{name}: must be an absolute http or https URL"]


def test_a_webhook_is_sent_the_headers_that_it_requires(environment: Environment) -> None:
    headers = "Authorization: Bearer a:b; X-Tenant: videos"
    adapter = make_adapter(environment.load(TAKEONE_ORCHESTRATOR_HEADERS=headers))
    request = adapter.start(Dispatch("run-1", {}, datetime.now(UTC)), "")
    assert request.headers == {
        "Authorization": "Bearer a:b", "X-Tenant": "videos", "Idempotency-Key": "run-1",
    }  # fmt: skip


@pytest.mark.parametrize("name", MAY_COME_FROM_FILES)
def test_a_secret_may_come_from_a_file(name: str, environment: Environment, tmp_path: Path) -> None:
    value = {
        "callback_secret": "first-secret-of-a-file,second-secret-of-a-file",
        "signing_secret": SIGNING_SECRET,
        "jwt_key": "k" * 40,
    }.get(name, "redis://:planted@127.0.0.1:6379/1")
    if name.startswith("orchestrator"):
        value = "https://caller:planted@flows.example/x"
    file, variable = tmp_path / "secret", f"TAKEONE_{name.upper()}"
    file.write_text(value + "\n")
    settings = environment.load(**{variable: None, f"{variable}_FILE": str(file)})
    loaded = getattr(settings, name)
    assert (loaded if isinstance(loaded, str) else loaded.get_secret_value()) == value


def test_secrets_and_urls_with_passwords_may_come_from_files() -> None:
    secrets = {"callback_secret", "signing_secret", "jwt_key", "log_hash_key"}
    urls = {"redis_url", "broker_url", "orchestrator_url"}
    assert secrets | urls <= set(MAY_COME_FROM_FILES)


def test_a_variable_and_its_file_may_not_both_be_set(
    environment: Environment, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("a-callback-secret-from-a-file")
    (line,) = environment.refusal(TAKEONE_CALLBACK_SECRET_FILE=str(tmp_path / "secret"))
    assert "TAKEONE_CALLBACK_SECRET and TAKEONE_CALLBACK_SECRET_FILE are both set" in line


def test_an_empty_variable_may_stand_beside_its_file(
    environment: Environment, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("a-callback-secret-from-a-file")
    settings = environment.load(
        TAKEONE_CALLBACK_SECRET="", TAKEONE_CALLBACK_SECRET_FILE=str(tmp_path / "secret")
    )
    assert settings.callback_secrets == ("a-callback-secret-from-a-file",)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xff\xfe-planted", "TAKEONE_CALLBACK_SECRET_FILE cannot be used: it is not text"),
        (b"\n", "TAKEONE_CALLBACK_SECRET is not set"),
    ],
)
def test_an_unusable_file_is_named(
    content: bytes, problem: str, environment: Environment, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(content)
    file = str(tmp_path / "secret")
    assert environment.refusal(TAKEONE_CALLBACK_SECRET=None, TAKEONE_CALLBACK_SECRET_FILE=file) == [
        problem
    ]


def test_printed_settings_show_no_secret(environment: Environment) -> None:
    settings = environment.load(TAKEONE_BROKER_URL="amqp://user:pass-of-broker@127.0.0.1//")
    for shown in (repr(settings), str(settings), f"{settings}"):
        for secret in ("pass-of", "a-callback-secret", "a-shared-key"):
            assert secret not in shown


@pytest.mark.parametrize(
    "secret", ["short", "whsec_", "whsec_c2hvcnQ=", "whsec_!!", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
)
def test_a_signing_secret_is_whsec_and_enough_bytes_in_base64(
    secret: str, environment: Environment
) -> None:
    assert environment.refusal(TAKEONE_SIGNING_SECRET=f"{SIGNING_SECRET},{secret}") == [
        "TAKEONE_SIGNING_SECRET: must be whsec_ and 24 to 64 bytes in base64, comma-separated"
    ]


def test_signed_callbacks_need_no_callback_secret(environment: Environment) -> None:
    settings = environment.load(TAKEONE_CALLBACK_SECRET=None, TAKEONE_SIGNING_SECRET=SIGNING_SECRET)
    assert settings.callback_secrets == ()


def test_production_refuses_a_short_shared_key(environment: Environment) -> None:
    lines = environment.refusal(TAKEONE_JWT_KEY="k" * 31)
    assert lines == ["TAKEONE_JWT_KEY: a shared key has at least 32 bytes"]


@pytest.mark.parametrize(
    "origins",
    [
        "*",
        "null",
        "https://editor.example/",
        "https://editor.example/app",
        "https://a@editor.example",
        "ftp://editor.example",
        "editor",
    ],
)
def test_an_origin_is_a_scheme_and_a_host(origins: str, environment: Environment) -> None:
    lines = environment.refusal(TAKEONE_CORS_ORIGINS=origins)
    assert [line.split(":")[0] for line in lines] == ["TAKEONE_CORS_ORIGINS"]


@pytest.mark.parametrize("rate", ["30/minute", "5/2 seconds", "100 per hour", ""])
def test_a_write_limit_is_a_rate(rate: str, environment: Environment) -> None:
    assert environment.load(TAKEONE_WRITE_LIMIT=rate).write_limit == rate


@pytest.mark.parametrize("rate", ["30", "many", "30/fortnight", "-1/minute"])
def test_a_write_limit_that_is_no_rate_is_refused(rate: str, environment: Environment) -> None:
    lines = environment.refusal(TAKEONE_WRITE_LIMIT=rate)
    assert lines == ["TAKEONE_WRITE_LIMIT: must be a rate such as 30/minute"]


def test_unknown_variables_are_found_with_the_name_that_was_meant(
    environment: Environment,
) -> None:
    environment.set(
        TAKEONE_UNKNOWN_HOLD_SECOND="60",
        TAKEONE_PORT_80_TCP="tcp://10.0.0.1:80",
        TAKEONE_CALLBACK_SECRET_FILE="/run/secrets/callback",
    )
    assert unknown_variables(Settings) == {
        "TAKEONE_PORT_80_TCP": None,
        "TAKEONE_UNKNOWN_HOLD_SECOND": "TAKEONE_UNKNOWN_HOLD_SECONDS",
    }


REQUIRED_BY_PROCESS = {
    "load_worker_settings": {"REDIS_URL", "PUBLIC_URL", "ORCHESTRATOR_URL"},
    "load_settings": {
        "REDIS_URL", "PUBLIC_URL", "CALLBACK_SECRET", "JWT_KEY", "JWT_ISSUER", "JWT_AUDIENCE",
    },
    "load_store_settings": {"REDIS_URL"},
}  # fmt: skip


@pytest.mark.parametrize("load", REQUIRED_BY_PROCESS)
def test_each_process_requires_only_its_own_settings(load: str, environment: Environment) -> None:
    lines = environment.refusal(load, **dict.fromkeys(PRODUCTION_SETTINGS))
    named = {line.partition("TAKEONE_")[2].split()[0] for line in lines}
    assert named == REQUIRED_BY_PROCESS[load]


def test_the_documentation_is_generated_from_the_settings() -> None:
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert page.read_text() == settings_page(), "run `make docs`"


@pytest.mark.parametrize("name", MAY_COME_FROM_FILES)
def test_every_secret_is_listed_with_what_it_gives_access_to(name: str) -> None:
    page = Path(__file__).parents[2] / "SECURITY.md"
    assert f"`TAKEONE_{name.upper()}`" in page.read_text()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_described(name: str) -> None:
    assert Settings.model_fields[name].description
