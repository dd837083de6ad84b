"""Settings with which a process would start and then fail: corrected if the meaning is clear, else refused."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from orchestrators.registry import dispatch_policy, make_adapter
from settings import load_worker_settings
from store.client import make_client
from tests.acceptance.tokens import RSA_KEY, public_pem
from tests.unit.conftest import Environment

PEM = public_pem(RSA_KEY).strip()
PRIVATE_PEM = RSA_KEY.private_bytes(
    Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
).decode()  # fmt: skip
EC_PEM = public_pem(ec.generate_private_key(ec.SECP256R1()))  # type: ignore[arg-type]
RS256 = {"TAKEONE_JWT_ALGORITHMS": "RS256"}
BOTH_ALGORITHMS = {"TAKEONE_JWT_ALGORITHMS": "RS256,HS256"}
JWKS = {**RS256, "TAKEONE_JWT_KEY": ""}

CORRECTED = {
    "TAKEONE_PUBLIC_URL": ("https://takeone.example/\n", "https://takeone.example"),
    "TAKEONE_ORCHESTRATOR_URL": ("https://flows.example/hook\r\n", "https://flows.example/hook"),
    "TAKEONE_REDIS_URL": (" redis://127.0.0.1:6379/0\n", "redis://127.0.0.1:6379/0"),
    "TAKEONE_JWT_ISSUER": ("https://login.example\n", "https://login.example"),
    "TAKEONE_WRITE_LIMIT": ("30/minute\n", "30/minute"),
    "HOST": ("[::]", "::"),
}


@pytest.mark.parametrize("name", CORRECTED)
def test_a_value_whose_meaning_is_clear_is_corrected(name: str, environment: Environment) -> None:
    given, meant = CORRECTED[name]
    settings = environment.load(**{name: given})
    assert getattr(settings, name.removeprefix("TAKEONE_").lower()) == meant


@pytest.mark.parametrize("given", [PEM.replace("\n", "\\n"), f"{PEM}\n"])
def test_a_public_key_may_be_written_on_one_line(given: str, environment: Environment) -> None:
    settings = environment.load(TAKEONE_JWT_KEY=given, **RS256)
    assert settings.jwt_key.get_secret_value() == PEM


# The last variable of each case is the one that is refused.
REFUSED = {
    "a key that is any text": {**RS256, "TAKEONE_JWT_KEY": "planted" * 9},
    "a private key": {**RS256, "TAKEONE_JWT_KEY": PRIVATE_PEM},
    "a key of another type": {**RS256, "TAKEONE_JWT_KEY": EC_PEM},
    "a public key as a shared one": {"TAKEONE_JWT_KEY": PEM},
    "a public key for both algorithms": {**BOTH_ALGORITHMS, "TAKEONE_JWT_KEY": PEM},
    "a shared key for both algorithms": {**BOTH_ALGORITHMS, "TAKEONE_JWT_KEY": "planted" * 9},
    "no algorithm": {"TAKEONE_JWT_ALGORITHMS": " , "},
    "an unknown algorithm": {"TAKEONE_JWT_ALGORITHMS": "HS265"},
    "keys over http": {**JWKS, "TAKEONE_JWT_JWKS_URL": "http://login.planted/keys"},
    "keys over HTTP": {**JWKS, "TAKEONE_JWT_JWKS_URL": "HTTP://login.planted/keys"},
    "a host name": {"HOST": "planted.example"},
    "a port that is a URL": {"PORT": "tcp://planted"},
    "a public URL with a query": {"TAKEONE_PUBLIC_URL": "https://planted.example/?a=b"},
    "a public URL with a fragment": {"TAKEONE_PUBLIC_URL": "https://planted.example/#a"},
    "a URL without a host": {"TAKEONE_ORCHESTRATOR_URL": "https:///planted"},
    "a header that is not ASCII": {"TAKEONE_ORCHESTRATOR_HEADERS": "X-Key: plänted"},
    "a header with a control character": {"TAKEONE_ORCHESTRATOR_HEADERS": "X-Key: planted\x7fx"},
    "a line feed inside a URL": {"TAKEONE_ORCHESTRATOR_URL": "https://planted.example/a\nb"},
    "a secret that no header can carry": {"TAKEONE_CALLBACK_SECRET": "plänted-callback-secret"},
    "no model profile": {"TAKEONE_MODEL_PROFILES": " , "},
    "an infinite hold": {"TAKEONE_UNKNOWN_HOLD_SECONDS": "inf"},
    "a CA file without a certificate": {"TAKEONE_CA_FILE": __file__},
    "an unknown broker": {"TAKEONE_BROKER_URL": "planted://host"},
    **{
        f"the Redis URL {url}": {"TAKEONE_REDIS_URL": url}
        for url in (
            "", "redis://user:planted/ss@host/0", "redis://user:12/planted@host/0",
            "redis://user:planted#ss@host/0", "redis://host/planted", "redis://host/0?planted=1",
            "redis://host:port/0", "redis://", "redis://host/0#planted", "sentinel://host:planted/0",
            "sentinel://:26379/0",
            "sentinel://one,two/planted", "sentinel://user:pl/anted@one:1,two:2/0",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_value_that_cannot_work_is_refused_and_not_shown(
    case: str, environment: Environment
) -> None:
    (line,) = environment.refusal(**REFUSED[case])
    assert line.startswith([*REFUSED[case]][-1])
    assert "planted" not in line


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("TAKEONE_DISPATCH_LANES", "TAKEONE_DISPATCH_QUEUES", "4"),
        ("TAKEONE_WEB_WAITERS", "TAKEONE_WEB_WAIT_SLOTS", "4"),
        ("TAKEONE_RUN_LIMIT", "TAKEONE_WRITE_LIMIT", "30/minute"),
        ("TAKEONE_ORCHESTRATOR_DEDUPLICATES", "TAKEONE_ORCHESTRATOR_IDEMPOTENCY_SECONDS", "600"),
    ],
)
def test_an_old_name_is_refused_unless_the_new_one_is_set_too(
    old: str, new: str, value: str, environment: Environment
) -> None:
    assert environment.refusal(**{old: value}) == [f"{old} is now called {new}"]
    environment.load(**{old: value, new: value})


def test_keys_may_come_over_http_from_this_machine(environment: Environment) -> None:
    environment.load(TAKEONE_JWT_JWKS_URL="http://127.0.0.1:9/keys", **JWKS)


@pytest.mark.parametrize(
    ("url", "nodes"),
    [
        ("sentinel://[::1]:26380/0", [("::1", 26380)]),
        ("sentinel://u:p%2Fw@[::1],host:1/2", [("::1", 26379), ("host", 1)]),
    ],
)
def test_sentinels_may_have_ipv6_addresses(
    url: str, nodes: list[tuple[str, int]], environment: Environment
) -> None:
    pool = make_client(environment.load(TAKEONE_REDIS_URL=url)).connection_pool
    found = [client.get_connection_kwargs() for client in pool.sentinel_manager.sentinels]
    assert [(options["host"], options["port"]) for options in found] == nodes


def test_development_listens_on_the_loopback_address(environment: Environment) -> None:
    assert environment.load().listen_address == "0.0.0.0"
    assert environment.load(TAKEONE_ENV="development").listen_address == "127.0.0.1"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1"])
def test_dev_tokens_are_accepted_on_a_loopback_address_only(
    host: str, environment: Environment
) -> None:
    environment.load(HOST="::1", TAKEONE_ENV="development", TAKEONE_AUTH_MODE="dev")
    (line,) = environment.refusal(HOST=host)
    assert "HOST must be a loopback address" in line


MACHINE = "arn:aws:states:eu-central-1:123456789012:stateMachine:take"
STEP_FUNCTIONS = {
    "TAKEONE_ORCHESTRATOR_KIND": "step_functions",
    "TAKEONE_ORCHESTRATOR_URL": "",
    "TAKEONE_ORCHESTRATOR_WORKFLOW": MACHINE,
    "TAKEONE_ORCHESTRATOR_CREDENTIALS": "AKIDEXAMPLE:secret",
}


def test_step_functions_needs_the_arn_of_a_state_machine_and_no_url(
    environment: Environment,
) -> None:
    settings = environment.load(**STEP_FUNCTIONS)
    assert dispatch_policy(settings).engine, "its dispatches are known as those of this engine"
    request = make_adapter(settings).prepare()
    assert request is not None
    assert request.url == "https://states.eu-central-1.amazonaws.com/"
    assert load_worker_settings.__wrapped__().orchestrator_workflow == MACHINE


@pytest.mark.parametrize(
    "workflow",
    ["", "take", f"{MACHINE}:live", f"{MACHINE}:3", f"{MACHINE}/map", f"{MACHINE} x",
     MACHINE.replace("stateMachine", "execution"), MACHINE.replace("eu-central-1", "evil.example/")],
)  # fmt: skip
def test_step_functions_refuses_any_other_workflow(workflow: str, environment: Environment) -> None:
    changes = STEP_FUNCTIONS | {"TAKEONE_ORCHESTRATOR_WORKFLOW": workflow}
    (line,) = environment.refusal(**changes)
    assert line.startswith("TAKEONE_ORCHESTRATOR_WORKFLOW must name")
