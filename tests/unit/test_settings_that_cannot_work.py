"""Settings that would let a process start and then fail: mended where the meaning is plain, else refused."""

from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import settings as own
from orchestrators.registry import make_adapter
from settings import Settings, SettingsError, load_settings
from store.client import make_client
from tests.acceptance.tokens import RSA_KEY, public_pem
from tests.unit.test_settings import PRODUCTION_SETTINGS

PEM = public_pem(RSA_KEY).strip()
PRIVATE_PEM = RSA_KEY.private_bytes(
    Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
).decode()  # fmt: skip
EC_PEM = public_pem(ec.generate_private_key(ec.SECP256R1()))  # type: ignore[arg-type]
RS256 = {"TAKEONE_JWT_ALGORITHMS": "RS256"}
JWKS = {**RS256, "TAKEONE_JWT_KEY": ""}
LOADERS = ("load_settings", "load_worker_settings", "load_flower_settings", "load_store_settings")


def forget() -> None:
    for each in LOADERS:
        getattr(own, each).cache_clear()


@pytest.fixture(autouse=True)
def production(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An environment with everything that production needs."""
    for name, value in PRODUCTION_SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HOST", raising=False)
    forget()
    yield
    forget()


def loaded(monkeypatch: pytest.MonkeyPatch, **changes: str) -> Settings:
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    forget()
    return load_settings()


MENDED = {
    "TAKEONE_PUBLIC_URL": ("https://takeone.example/\n", "https://takeone.example"),
    "TAKEONE_ORCHESTRATOR_URL": ("https://flows.example/hook\r\n", "https://flows.example/hook"),
    "TAKEONE_REDIS_URL": (" redis://127.0.0.1:6379/0\n", "redis://127.0.0.1:6379/0"),
    "TAKEONE_JWT_ISSUER": ("https://login.example\n", "https://login.example"),
    "TAKEONE_WRITE_LIMIT": ("30/minute\n", "30/minute"),
    "HOST": ("[::]", "::"),
}


@pytest.mark.parametrize("name", MENDED)
def test_what_is_plainly_meant_is_mended(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given, meant = MENDED[name]
    settings = loaded(monkeypatch, **{name: given})
    assert getattr(settings, name.removeprefix("TAKEONE_").lower()) == meant


@pytest.mark.parametrize("given", [PEM.replace("\n", "\\n"), f"{PEM}\n"])
def test_a_public_key_on_one_line_is_read(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loaded(monkeypatch, TAKEONE_JWT_KEY=given, **RS256)
    assert settings.jwt_key.get_secret_value() == PEM


REFUSED = {
    "a key that is any text": ("TAKEONE_JWT_KEY", {**RS256, "TAKEONE_JWT_KEY": "planted" * 9}),
    "a private key": ("TAKEONE_JWT_KEY", {**RS256, "TAKEONE_JWT_KEY": PRIVATE_PEM}),
    "a key of another kind": ("TAKEONE_JWT_KEY", {**RS256, "TAKEONE_JWT_KEY": EC_PEM}),
    "a public key as a shared one": ("TAKEONE_JWT_KEY", {"TAKEONE_JWT_KEY": PEM}),
    "a shared and a public key at once": (
        "TAKEONE_JWT_KEY", {"TAKEONE_JWT_KEY": PEM, "TAKEONE_JWT_ALGORITHMS": "RS256,HS256"},
    ),
    "a shared key for both": ("TAKEONE_JWT_KEY", {"TAKEONE_JWT_ALGORITHMS": "HS256,RS256"}),
    "an algorithm that there is not": (
        "TAKEONE_JWT_ALGORITHMS", {"TAKEONE_JWT_ALGORITHMS": "HS265"},
    ),
    "keys over http": (
        "TAKEONE_JWT_JWKS_URL", {**JWKS, "TAKEONE_JWT_JWKS_URL": "http://login.planted/keys"},
    ),
    "a host that is a name": ("HOST", {"HOST": "planted.example"}),
    "a port that is none": ("PORT", {"PORT": "tcp://planted"}),
    "a public URL with a query": (
        "TAKEONE_PUBLIC_URL", {"TAKEONE_PUBLIC_URL": "https://planted.example/?a=b"},
    ),
    "a line feed inside a URL": (
        "TAKEONE_ORCHESTRATOR_URL", {"TAKEONE_ORCHESTRATOR_URL": "https://planted.example/a\nb"},
    ),
    "a callback secret that no header can carry": (
        "TAKEONE_CALLBACK_SECRET", {"TAKEONE_CALLBACK_SECRET": "plänted-callback-secret"},
    ),
    "queues by their name of the release before": (
        "TAKEONE_DISPATCH_LANES", {"TAKEONE_DISPATCH_LANES": "4"},
    ),
    "wait slots by their name of the release before": (
        "TAKEONE_WEB_WAITERS", {"TAKEONE_WEB_WAITERS": "4"},
    ),
    "no model profile": ("TAKEONE_MODEL_PROFILES", {"TAKEONE_MODEL_PROFILES": " , "}),
    "a hold beyond all time": (
        "TAKEONE_UNKNOWN_HOLD_SECONDS", {"TAKEONE_UNKNOWN_HOLD_SECONDS": "inf"},
    ),
    "authorities that are none": ("TAKEONE_CA_FILE", {"TAKEONE_CA_FILE": __file__}),
    "a broker that there is not": ("TAKEONE_BROKER_URL", {"TAKEONE_BROKER_URL": "planted://host"}),
    **{
        f"Redis by {url}": ("TAKEONE_REDIS_URL", {"TAKEONE_REDIS_URL": url})
        for url in (
            "redis://user:planted/ss@host/0", "redis://user:12/planted@host/0",
            "redis://user:planted#ss@host/0", "redis://host/planted", "redis://host/0?planted=1",
            "redis://host:port/0", "redis://", "sentinel://host:planted/0",
            "sentinel://one,two/planted", "sentinel://user:pl/anted@one:1,two:2/0",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_by_name_and_never_shown(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, changes = REFUSED[case]
    with pytest.raises(SettingsError) as refusal:
        loaded(monkeypatch, **changes)
    (line,) = str(refusal.value).splitlines()
    assert line.startswith(name)
    assert "planted" not in line


def test_keys_over_http_from_this_machine_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded(monkeypatch, TAKEONE_JWT_JWKS_URL="http://127.0.0.1:9/keys", **JWKS)


@pytest.mark.parametrize(
    ("url", "nodes"),
    [
        ("sentinel://[::1]:26380/0", [("::1", 26380)]),
        ("sentinel://u:p%2Fw@[::1],host:1/2", [("::1", 26379), ("host", 1)]),
    ],
)
def test_sentinels_may_have_ipv6_addresses(
    url: str, nodes: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_client(loaded(monkeypatch, TAKEONE_REDIS_URL=url)).connection_pool
    found = [each.get_connection_kwargs() for each in pool.sentinel_manager.sentinels]
    assert [(each["host"], each["port"]) for each in found] == nodes


NEEDED = {
    "load_worker_settings": {"REDIS_URL", "PUBLIC_URL", "ORCHESTRATOR_URL"},
    "load_settings": {
        "REDIS_URL", "PUBLIC_URL", "CALLBACK_SECRET", "JWT_KEY", "JWT_ISSUER", "JWT_AUDIENCE",
    },
    "load_store_settings": {"REDIS_URL"},
}  # fmt: skip


@pytest.mark.parametrize("load", NEEDED)
def test_each_process_asks_for_its_own_settings_alone(
    load: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PRODUCTION_SETTINGS:
        monkeypatch.delenv(name)
    with pytest.raises(SettingsError) as refusal:
        getattr(own, load)()
    named = {line.partition("TAKEONE_")[2].split()[0] for line in str(refusal.value).splitlines()}
    assert named == NEEDED[load]


def test_one_environment_may_serve_this_release_and_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = {"TAKEONE_DISPATCH_LANES": "4", "TAKEONE_DISPATCH_QUEUES": "4"}
    assert loaded(monkeypatch, **both).dispatch_queues == 4


def test_development_listens_on_this_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loaded(monkeypatch).listen_address == "0.0.0.0"
    assert loaded(monkeypatch, TAKEONE_ENV="development").listen_address == "127.0.0.1"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1"])
def test_tokens_that_anyone_can_write_are_believed_on_this_machine_alone(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    development = {"TAKEONE_ENV": "development", "TAKEONE_AUTH_MODE": "dev"}
    loaded(monkeypatch, HOST="::1", **development)
    with pytest.raises(SettingsError, match="HOST must be a loopback address"):
        loaded(monkeypatch, HOST=host, **development)


MACHINE = "arn:aws:states:eu-central-1:123456789012:stateMachine:take"
STEP_FUNCTIONS = {
    "TAKEONE_ORCHESTRATOR_KIND": "step_functions",
    "TAKEONE_ORCHESTRATOR_URL": "",
    "TAKEONE_ORCHESTRATOR_WORKFLOW": MACHINE,
    "TAKEONE_ORCHESTRATOR_CREDENTIALS": "AKIDEXAMPLE:secret",
}


def test_step_functions_needs_the_arn_of_a_state_machine_and_no_url(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = loaded(monkeypatch, **STEP_FUNCTIONS)
    request = make_adapter(settings).prepare()
    assert request is not None
    assert request.url == "https://states.eu-central-1.amazonaws.com/"


@pytest.mark.parametrize(
    "workflow",
    ["", "take", f"{MACHINE}:live", f"{MACHINE}:3", f"{MACHINE}/map", f"{MACHINE} x",
     MACHINE.replace("stateMachine", "execution"), MACHINE.replace("eu-central-1", "evil.example/")],
)  # fmt: skip
def test_another_name_than_a_state_machine_s_arn_is_refused(
    workflow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = STEP_FUNCTIONS | {"TAKEONE_ORCHESTRATOR_WORKFLOW": workflow}
    with pytest.raises(SettingsError, match="TAKEONE_ORCHESTRATOR_WORKFLOW must name"):
        loaded(monkeypatch, **changes)
