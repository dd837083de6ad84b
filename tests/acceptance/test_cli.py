"""The command line as an operator uses it: `doctor`, `jobs show`, `hash`, and usage errors."""

import json
from collections.abc import Iterator

import pytest

from devstack.ports import free_port
from devstack.redis_server import RedisServer
from devstack.stack import DEVELOPMENT_SETTINGS, Stack
from devstack.waiting import wait_until
from tests.acceptance.programs import takeone
from tests.support.client import ApiClient
from tests.support.job_handle import JobHandle
from tests.support.orchestrator import StubOrchestrator

PRODUCTION = {
    "TAKEONE_ENV": "production",
    "TAKEONE_AUTH_MODE": "jwt",
    "TAKEONE_JWT_KEY": "a-shared-key-that-is-long-enough-for-hs256",
    "TAKEONE_JWT_ALGORITHMS": "HS256",
    "TAKEONE_JWT_ISSUER": "https://login.example",
    "TAKEONE_JWT_AUDIENCE": "takeone",
}


def states(output: str) -> dict[str, set[str]]:
    """The states in the doctor's output, by subject."""
    found: dict[str, set[str]] = {}
    for line in output.splitlines():
        about, _, rest = line.partition("  ")
        if about:
            found.setdefault(about, set()).add(rest.split()[0])
    return found


@pytest.fixture(scope="module")
def unsafe_redis(redis_server: RedisServer) -> Iterator[RedisServer]:
    """A Redis that is unsafe for production: it evicts keys, and persists nothing."""
    with redis_server.client() as client:
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        yield redis_server
        client.config_set("maxmemory", "0")
        client.config_set("maxmemory-policy", "noeviction")


def test_the_doctor_passes_a_running_stack_and_dispatches_nothing(
    stack: Stack, orchestrator: StubOrchestrator
) -> None:
    before = len(orchestrator.requests)
    ended = takeone("doctor", {**stack.settings, "TAKEONE_LOG_LEVLE": "DEBUG"})
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = states(ended.stdout)
    assert found.keys() == {
        "settings", "store", "broker", "workers", "orchestrator", "callback URL",
        "clocks", "memory", "Redis user", "dispatches", "unreadable records", "open files",
    }  # fmt: skip
    for about in found.keys() - {"settings", "store"}:
        assert found[about] == {"ok"}
    assert "rename it to TAKEONE_LOG_LEVEL" in ended.stdout
    assert "-> use Redis" not in ended.stdout, "what is fine needs no advice"
    assert len(orchestrator.requests) == before
    with stack.redis.client() as client:
        assert not set(client.scan_iter("*doctor*")), "the doctor left its queue behind"


def test_the_doctor_reports_each_problem_with_advice(unsafe_redis: RedisServer) -> None:
    settings = {
        **DEVELOPMENT_SETTINGS,
        **PRODUCTION,
        "TAKEONE_REDIS_URL": unsafe_redis.database_url(5),
        "TAKEONE_ORCHESTRATOR_URL": f"http://caller:planted@127.0.0.1:{free_port()}/planted",
        "TAKEONE_PUBLIC_URL": "http://localhost:8000",
    }
    ended = takeone("doctor", settings)
    assert ended.returncode == 1
    found = states(ended.stdout)
    for about in ("store", "workers", "orchestrator", "callback URL"):
        assert "WRONG" in found[about], ended.stdout
    for text in (
        "evicts", "set noeviction", "keeps nothing on disk", "appendonly yes",
        "ConnectionRefusedError", "only this machine's own", "start the Procfile's",
    ):  # fmt: skip
        assert text in ended.stdout
    assert "planted" not in ended.stdout + ended.stderr


def test_the_doctor_continues_after_an_unreachable_store() -> None:
    settings = {
        **DEVELOPMENT_SETTINGS,
        "TAKEONE_REDIS_URL": f"redis://:planted@127.0.0.1:{free_port()}/0",
    }
    ended = takeone("doctor", settings)
    assert ended.returncode == 1
    found = states(ended.stdout)
    assert found["store"] == found["broker"] == found["workers"] == {"WRONG"}
    assert "planted" not in ended.stdout + ended.stderr


def test_the_doctor_names_every_invalid_setting() -> None:
    ended = takeone("doctor", {"TAKEONE_WEB_THREADS": "planted"})
    assert ended.returncode == 1
    assert "TAKEONE_REDIS_URL is not set" in ended.stdout
    assert "TAKEONE_ORCHESTRATOR_URL is not set" in ended.stdout
    assert ended.stdout.count("TAKEONE_WEB_THREADS") == 1
    assert "planted" not in ended.stdout + ended.stderr


def test_jobs_show_prints_the_job_of_any_owner_with_its_trail(
    stack: Stack, alice: ApiClient, callback_secret: str
) -> None:
    handle = JobHandle.uploaded(alice, callback_secret).lead_to("AUDIO_READY")
    shown = json.loads(takeone(f"jobs show {handle.id}", stack.settings).stdout)
    assert shown["owner"] == "alice"
    assert shown["events"] == handle.trail()
    operator = ApiClient(stack.api_url, "olga", "operator")
    assert shown == operator.get(f"/operations/jobs/{handle.id}").json()
    ended = takeone("jobs show nothing", stack.settings)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "there is no job nothing" in ended.stderr


def test_an_argument_that_is_not_utf_8_is_a_usage_error(stack: Stack) -> None:
    ended = takeone("jobs show \udcff", stack.settings)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "UTF-8" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_help_lists_every_command() -> None:
    output = takeone("--help", {}).stdout
    for name in ("doctor", "token", "jobs", "dispatches", "pause", "hash"):
        assert f"  {name} " in output


def test_a_request_is_found_in_the_logs_by_its_id(stack: Stack, alice: ApiClient) -> None:
    request_id = "a-request-to-be-found"
    alice.get("/projects", headers={"X-Request-Id": request_id})
    hashed = takeone(f"hash {request_id}", stack.settings).stdout.strip()
    wait_until(lambda: hashed in stack.webs[0].log(), 10, "the request is logged")
    without = takeone(
        "hash x", {"TAKEONE_REDIS_URL": "redis://127.0.0.1", "TAKEONE_ENV": "production"}
    )
    assert (without.returncode, without.stdout) == (1, "")


@pytest.mark.parametrize("arguments", ["hash x", "doctor --json", "--help"])
def test_output_that_cannot_be_written_is_an_error_of_one_line(arguments: str) -> None:
    ended = takeone(f"{arguments} > /dev/full", DEVELOPMENT_SETTINGS)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "Error: [Errno 28] No space left on device\n"


def test_a_closed_output_is_an_error_before_anything_is_done(stack: Stack) -> None:
    ended = takeone("pause --reason why >&-", stack.settings)
    assert (ended.returncode, ended.stderr) == (1, "Error: standard output is closed\n")
    assert takeone("resume", stack.settings).stdout == "dispatching is not paused\n"


def test_output_in_an_encoding_without_its_characters_is_no_usage_error(stack: Stack) -> None:
    user = ApiClient(stack.api_url, "alice")
    assert user.create_project(name="日本").status_code == 201
    settings = {**stack.settings, "PYTHONIOENCODING": "latin-1"}
    ended = takeone("jobs export --user alice", settings)
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: 'latin-1' codec can't encode")
    assert "Traceback" not in ended.stderr
