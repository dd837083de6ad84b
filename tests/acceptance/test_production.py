"""Production: refuses to start with missing or unsafe settings, and is not ready on an unsafe store."""

import json
from collections.abc import Callable, Iterator, Mapping

import pytest

from devstack.redis_server import RedisServer
from devstack.stack import Stack, procfile_command
from devstack.waiting import wait_until
from tests.acceptance.programs import run_program
from tests.acceptance.raw_http import of
from tests.acceptance.tokens import AUDIENCE, ISSUER, SHARED_KEY, claims, signed
from tests.conftest import NewStack
from tests.support.client import ApiClient
from tests.support.orchestrator import StubOrchestrator

Configure = Callable[[Mapping[str, str]], None]

PLANTED = "planted-5f1c0a"
COMPLETE = {
    "TAKEONE_ENV": "production",
    "TAKEONE_AUTH_MODE": "jwt",
    "TAKEONE_REDIS_URL": f"redis://user:{PLANTED}@127.0.0.1:9/0",
    "TAKEONE_PUBLIC_URL": f"https://{PLANTED}.example",
    "TAKEONE_ORCHESTRATOR_URL": f"https://user:{PLANTED}@orchestrator.example/hook?key={PLANTED}",
    "TAKEONE_CALLBACK_SECRET": f"{PLANTED}-callback-secret",
    "TAKEONE_JWT_KEY": f"{PLANTED}-shared-key-that-is-long-enough",
    "TAKEONE_JWT_ALGORITHMS": "HS256",
    "TAKEONE_JWT_ISSUER": f"https://{PLANTED}.example/",
    "TAKEONE_JWT_AUDIENCE": PLANTED,
}
NEEDED = {
    "REDIS_URL", "PUBLIC_URL", "CALLBACK_SECRET", "JWT_KEY", "JWT_JWKS_URL", "JWT_ISSUER",
    "JWT_AUDIENCE",
}  # fmt: skip
REFUSED: dict[str, tuple[dict[str, str | None], set[str]]] = {
    "nothing is set": (dict.fromkeys(COMPLETE), NEEDED),
    "development tokens": ({"TAKEONE_AUTH_MODE": "dev"}, {"AUTH_MODE"}),
    "the default callback secret": (
        {"TAKEONE_CALLBACK_SECRET": "dev-callback-secret"},
        {"CALLBACK_SECRET"},
    ),
    "a short callback secret beside a good one": (
        {"TAKEONE_CALLBACK_SECRET": f"{PLANTED}-callback-secret,short"},
        {"CALLBACK_SECRET"},
    ),
    "only commas as callback secret": ({"TAKEONE_CALLBACK_SECRET": " , "}, {"CALLBACK_SECRET"}),
    "unsigned tokens": ({"TAKEONE_JWT_ALGORITHMS": "HS256,none"}, {"JWT_ALGORITHMS"}),
    "two sources of keys": (
        {"TAKEONE_JWT_JWKS_URL": f"https://{PLANTED}.example/"},
        {"JWT_KEY", "JWT_JWKS_URL"},
    ),
    "a shared key algorithm with a JWKS URL": (
        {"TAKEONE_JWT_KEY": None, "TAKEONE_JWT_JWKS_URL": f"https://{PLANTED}.example/"},
        {"JWT_ALGORITHMS"},
    ),
    "an orchestrator that is not an http URL": (
        {"TAKEONE_ORCHESTRATOR_URL": f"ftp://user:{PLANTED}@orchestrator.example"},
        {"ORCHESTRATOR_URL"},
    ),
    "invalid numbers": (
        {"TAKEONE_RUN_WAIT_SECONDS": PLANTED, "TAKEONE_UNKNOWN_HOLD_SECONDS": "-1"},
        {"RUN_WAIT_SECONDS", "UNKNOWN_HOLD_SECONDS"},
    ),
    "several at once": (
        {
            "TAKEONE_AUTH_MODE": "dev",
            "TAKEONE_PUBLIC_URL": None,
            "TAKEONE_CALLBACK_SECRET": "changeme",
        },
        {"AUTH_MODE", "PUBLIC_URL", "CALLBACK_SECRET"},
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_web_refuses_to_start_and_names_the_wrong_settings_without_their_values(case: str) -> None:
    changes, names = REFUSED[case]
    settings = {name: value for name, value in {**COMPLETE, **changes}.items() if value is not None}
    ended = run_program(procfile_command("web"), {**settings, "PORT": "0"})
    output = ended.stdout + ended.stderr
    assert ended.returncode != 0
    assert "refuses to start" in output
    assert {name for name in names if f"TAKEONE_{name}" not in output} == set()
    assert PLANTED not in output
    assert "Traceback" not in output


@pytest.fixture(scope="module")
def production(
    new_stack: NewStack, tmp_path_factory: pytest.TempPathFactory, orchestrator: StubOrchestrator
) -> Iterator[Stack]:
    """A stack with production settings, on a durable Redis."""
    settings = {
        **COMPLETE,
        "TAKEONE_JWT_KEY": SHARED_KEY,
        "TAKEONE_JWT_ISSUER": ISSUER,
        "TAKEONE_JWT_AUDIENCE": AUDIENCE,
        "TAKEONE_ORCHESTRATOR_URL": orchestrator.url,
    }
    redis = RedisServer(tmp_path_factory.mktemp("redis"), append_only=True)
    settings["TAKEONE_REDIS_URL"] = redis.url
    settings["TAKEONE_PUBLIC_URL"] = "http://127.0.0.1:9"
    with redis, new_stack(redis=redis, **settings) as stack:
        yield stack


@pytest.fixture
def carol(production: Stack) -> ApiClient:
    """An editor with a token of the issuer."""
    return ApiClient(production.api_url, token=signed("HS256", claims()))


def test_production_accepts_tokens_of_the_issuer_and_logs_json(
    production: Stack, carol: ApiClient, orchestrator: StubOrchestrator
) -> None:
    job_id = carol.uploaded_job()["id"]
    assert carol.run(job_id).status_code == 202
    assert len(orchestrator.requests_for(job_id)) == 1
    assert ApiClient(production.api_url, "carol").get("/projects").status_code == 401
    for process in production.processes:
        # Lines are written a moment after the answer.
        wait_until(lambda process=process: job_id in process.log(), 10, f"{process.name} logs it")
        for line in process.log().splitlines():
            if job_id in line:
                assert json.loads(line)["job_id"] == job_id


NOT_PERSISTENT = {"appendonly": "no", "save": ""}
EVICTING = {"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}
UNSAFE: dict[str, tuple[dict[str, str], set[str]]] = {
    "persists nothing": (NOT_PERSISTENT, {"disk"}),
    "evicts": (EVICTING, {"evict"}),
    "evicts expiring keys": ({**EVICTING, "maxmemory-policy": "volatile-ttl"}, {"evict"}),
    "both": (NOT_PERSISTENT | EVICTING, {"disk", "evict"}),
}
SAFE = {
    "an append-only file": {"appendonly": "yes", "save": ""},
    "snapshots": {"appendonly": "no", "save": "3600 1"},
    "a limit without eviction": {"maxmemory": "100mb", "maxmemory-policy": "noeviction"},
}
GOOD = {"appendonly": "yes", "save": "", "maxmemory": "0", "maxmemory-policy": "noeviction"}


@pytest.fixture
def configure(production: Stack) -> Iterator[Configure]:
    """Changes the store's configuration for one test."""

    def to(settings: Mapping[str, str]) -> None:
        with production.redis.client() as client:
            for name, value in {**GOOD, **settings}.items():
                client.config_set(name, value)

    yield to
    to(GOOD)


@pytest.mark.parametrize("case", UNSAFE)
def test_it_is_not_ready_on_a_store_that_may_lose_data_and_says_why(
    case: str, carol: ApiClient, configure: Configure
) -> None:
    settings, problems = UNSAFE[case]
    configure(settings)
    answer = of(carol.call("GET", "/readyz"))
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1
    error = json.loads(answer.body)
    assert error["code"] == "SERVICE_UNAVAILABLE"
    assert {word for word in ("disk", "evict") if word in error["message"]} == problems
    assert carol.call("GET", "/healthz").status_code == 200


@pytest.mark.parametrize("case", SAFE)
def test_it_is_ready_on_a_durable_store(case: str, carol: ApiClient, configure: Configure) -> None:
    configure(SAFE[case])
    assert carol.call("GET", "/readyz").status_code == 200


def test_a_store_that_hides_its_configuration_is_trusted(
    production: Stack, carol: ApiClient, configure: Configure
) -> None:
    configure({"appendonly": "no", "save": "3600 1"})
    with production.redis.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-config")
        try:
            assert carol.call("GET", "/readyz").status_code == 200
        finally:
            client.execute_command("ACL", "SETUSER", "default", "+config")
