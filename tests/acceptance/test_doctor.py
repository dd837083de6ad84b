"""`takeone doctor` on deployments with one problem each: its findings and its advice."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from devstack.ports import HOST, free_port
from devstack.processes import ROOT
from devstack.redis_server import RedisServer
from devstack.stack import DEVELOPMENT_SETTINGS, Stack
from store import keys
from store.redis_checks import missing_permissions
from tests.acceptance.programs import TAKEONE, takeone
from tests.acceptance.test_cli import PRODUCTION
from tests.acceptance.tokens import Issuer
from tests.conftest import NewStack
from tests.support.behaviours import reset_after_read
from tests.support.client import ApiClient
from tests.support.orchestrator import StubOrchestrator
from tests.support.stores import client_of

# The resolver reads it as 127.0.0.1, while the settings do not recognise a loopback address in it.
# (In "::ffff:127.0.0.1" they do from Python 3.13 on.)
SHORTENED = "http://127.1"
OTHER_CLOCK = (
    'python -c "import time; now = time.time; time.time = lambda: now() + {}; '
    'from cli.main import main; main()"'
)
FEW_FILES = "/bin/sh -c 'ulimit -n 1024 && exec python -m cli.main \"$@\"' x"


@pytest.fixture
def settings(redis_server: RedisServer) -> dict[str, str]:
    """A development deployment without worker and orchestrator."""
    nowhere = f"http://{HOST}:{free_port()}"
    return {
        **DEVELOPMENT_SETTINGS,
        "TAKEONE_REDIS_URL": redis_server.database_url(6),
        "TAKEONE_PUBLIC_URL": nowhere,
        "TAKEONE_ORCHESTRATOR_URL": nowhere,
    }


def findings(settings: dict[str, str], about: str, program: str = TAKEONE) -> list[dict[str, Any]]:
    """What the doctor finds about one subject."""
    return of(all_findings(settings, program), about)


def all_findings(settings: dict[str, str], program: str = TAKEONE) -> list[dict[str, Any]]:
    """Everything the doctor finds; each problem must come with advice."""
    found: list[dict[str, Any]] = json.loads(takeone("doctor --json", settings, program).stdout)
    assert all(finding["advice"] for finding in found if finding["state"] != "ok")
    return found


def of(found: list[dict[str, Any]], about: str) -> list[dict[str, Any]]:
    """The findings about one subject."""
    return [finding for finding in found if finding["about"] == about]


def test_unreadable_records_are_named_and_hide_no_other(
    settings: dict[str, str], redis_server: RedisServer
) -> None:
    with redis_server.client(6) as client:
        for job_id in ("of-a-later-release", "broken"):
            client.set(keys.job(job_id), b"planted")
            client.zadd(keys.DUE, {job_id: 1.0})
        (found,) = findings(settings, "unreadable records")
        listed = takeone("dispatches list", settings)
        client.flushdb()
    assert found["state"] == "WRONG"
    assert found["found"].endswith("broken, of-a-later-release")
    assert "planted" not in str(found)
    assert listed.returncode == 0, listed.stderr


def test_problems_of_the_workflow_at_the_engine_are_reported(settings: dict[str, str]) -> None:
    with StubOrchestrator() as stub:
        engine = {
            "TAKEONE_ORCHESTRATOR_KIND": "temporal",
            "TAKEONE_ORCHESTRATOR_URL": f"http://{HOST}:{stub.port}",
            "TAKEONE_ORCHESTRATOR_WORKFLOW": "Take@take",
        }
        found = findings({**settings, **engine}, "workflow")
    assert [(finding["state"], finding["found"], finding["advice"]) for finding in found] == [
        ("WRONG", "the namespace's retention is less than a day", "raise it"),
        ("WRONG", "no worker polls the task queue", "start one"),
    ]
    assert {request.method for request in stub.requests} == {"GET"}
    away = all_findings({**settings, **engine})
    (found,) = of(away, "orchestrator")
    assert "takes no connection" in found["found"]
    assert of(away, "workflow") == []


def test_what_travels_unencrypted_or_cannot_be_checked_is_reported(
    settings: dict[str, str],
) -> None:
    unsafe = {
        **settings,
        **PRODUCTION,
        "TAKEONE_CALLBACK_SECRET": "a-callback-secret-of-the-tests",
        "TAKEONE_ORCHESTRATOR_URL": f"{SHORTENED}:{free_port()}",
        "TAKEONE_ORCHESTRATOR_USE_PROXIES": "true",
        "TAKEONE_PUBLIC_URL": f"{SHORTENED}:{free_port()}",
    }
    found = all_findings(unsafe)
    assert [(finding["state"], finding["found"]) for finding in of(found, "orchestrator")] == [
        ("warning", f"{SHORTENED} is not checked"),
        ("warning", "dispatches travel unencrypted"),
    ]
    unencrypted, unanswered = of(found, "callback URL")
    assert unencrypted["found"].endswith(": secrets travel unencrypted")
    assert unanswered["found"].startswith("no API answers")
    assert {unencrypted["state"], unanswered["state"]} == {"warning"}


def test_an_engine_with_a_known_address_needs_no_url(settings: dict[str, str]) -> None:
    engine = {
        "TAKEONE_ORCHESTRATOR_KIND": "step_functions",
        "TAKEONE_ORCHESTRATOR_URL": "",
        "TAKEONE_ORCHESTRATOR_WORKFLOW": "arn:aws:states:eu-west-1:123456789012:stateMachine:take",
        "TAKEONE_ORCHESTRATOR_CREDENTIALS": "key:secret",
        # No request of the test may leave this machine.
        "TAKEONE_ORCHESTRATOR_USE_PROXIES": "true",
        "HTTPS_PROXY": f"http://{HOST}:{free_port()}",
    }
    assert findings({**settings, **engine}, "orchestrator") == []
    (found,) = findings({**settings, **engine}, "workflow")
    assert (found["state"], found["found"]) == ("WRONG", "the orchestrator: unavailable")


def test_dispatches_of_another_engine_are_named(
    new_stack: NewStack, orchestrator: StubOrchestrator
) -> None:
    def counted(stack: Stack) -> int:
        overview = ApiClient(stack.api_url, "olga", "operator").get("/operations/overview")
        return int(overview.json()["at_another_engine"])

    with new_stack() as stack:
        alice = ApiClient(stack.api_url, "alice")
        job_id = alice.uploaded_job()["id"]
        orchestrator.behaviours[job_id] = reset_after_read()
        assert alice.run(job_id).status_code == 502
        elsewhere = {**stack.settings, "TAKEONE_ORCHESTRATOR_URL": f"http://{HOST}:{free_port()}"}
        (held,) = findings(elsewhere, "dispatches")
        (known,) = findings(stack.settings, "dispatches")
        with new_stack(redis=stack.redis, workers=0, **elsewhere) as moved:
            assert (counted(stack), counted(moved)) == (0, 1)
    assert (held["state"], known["state"]) == ("WRONG", "ok")
    assert held["found"] == f"1 of another engine than the settings name: {job_id}"
    assert "takeone dispatches settle" in held["advice"]


@pytest.mark.parametrize("algorithms", ["", "RS256", "ES256"])
def test_the_signing_keys_of_the_issuer_are_checked(
    algorithms: str, settings: dict[str, str]
) -> None:
    jwt = {**PRODUCTION, "TAKEONE_ENV": "development", "TAKEONE_JWT_KEY": ""}
    issuer = Issuer()
    jwt["TAKEONE_JWT_JWKS_URL"] = issuer.url
    jwt["TAKEONE_JWT_ALGORITHMS"] = algorithms or "RS256"
    with issuer if algorithms else nullcontext():
        (found,) = findings({**settings, **jwt}, "signing keys")
    assert found["state"] == ("ok" if algorithms == "RS256" else "WRONG")
    expected = {"": "ConnectionError", "RS256": "1 of 1", "ES256": "0 of 1"}
    assert expected[algorithms] in found["found"]


def test_settings_that_only_web_or_workers_need_are_named_and_hide_nothing(
    settings: dict[str, str],
) -> None:
    incomplete = {**settings, **PRODUCTION, "TAKEONE_CALLBACK_SECRET": ""}
    incomplete |= {"TAKEONE_ORCHESTRATOR_URL": "", "TAKEONE_PUBLIC_URL": ""}
    found = all_findings(incomplete)
    assert {(finding["state"], finding["found"]) for finding in of(found, "settings")} == {
        ("WRONG", f"TAKEONE_{name} is not set")
        for name in ("PUBLIC_URL", "CALLBACK_SECRET", "ORCHESTRATOR_URL")
    }
    others = {finding["about"] for finding in found if finding["state"] != "warning"}
    assert others >= {"store", "memory", "clocks", "dispatches", "broker", "workers", "open files"}
    assert not others & {"orchestrator", "workflow", "callback URL"}


def test_a_key_that_cannot_verify_is_named(settings: dict[str, str]) -> None:
    jwt = {**PRODUCTION, "TAKEONE_ENV": "development", "TAKEONE_JWT_ALGORITHMS": "RS256"}
    (found,) = findings({**settings, **jwt}, "settings")
    assert found["found"].startswith("TAKEONE_JWT_KEY must be a public key")


RIGHT = (
    "~takeone:*", "resetchannels", "&takeone:*", "&takeone:broker:/0.celery.pidbox",
    "+@all", "-@admin", "-@dangerous", "+info", "+config|get",
)  # fmt: skip
USERS = {
    "too little": ((*RIGHT, "-zadd", "-publish"), "may not ZADD, PUBLISH"),
    "no transactions": ((*RIGHT, "-@transaction"), "may not WATCH, MULTI, EXEC"),
    "no clock": ((*RIGHT, "-zadd", "-time"), "may not ZADD"),
    "no end of a transaction": ((*RIGHT, "-exec"), "may not WATCH, MULTI, EXEC"),
    "everything": (("allkeys", "allchannels", "+@all"), "may see and change Redis's users"),
    "every key": ((*RIGHT, "allkeys"), "may read keys that are not the service's"),
    "what it needs": (RIGHT, "may do what the service needs"),
}


@pytest.mark.parametrize("case", USERS)
def test_the_permissions_of_the_redis_user_are_checked(
    case: str, settings: dict[str, str], redis_server: RedisServer
) -> None:
    rules, expected = USERS[case]
    url = f"redis://service:planted@{HOST}:{redis_server.port}/6"
    production = {
        **settings,
        **PRODUCTION,
        "TAKEONE_REDIS_URL": url,
        "TAKEONE_CALLBACK_SECRET": "a-callback-secret-of-the-tests",
    }
    with redis_server.client(6) as client:
        client.execute_command("ACL", "SETUSER", "service", "reset", "on", ">planted", *rules)
        found = findings(production, "Redis user")
        client.execute_command("ACL", "DELUSER", "service")
        assert not set(client.scan_iter("*doctor*")), "the doctor left something behind"
    state = "ok" if case == "what it needs" else "WRONG" if "may not" in expected else "warning"
    assert (found[0]["state"], found[0]["found"].startswith(expected)) == (state, True), found


def test_each_command_of_the_scripts_is_checked(redis_server: RedisServer) -> None:
    scripts = "".join(path.read_text() for path in (ROOT / "store").glob("*.lua"))
    with redis_server.client(6) as client:
        for command in sorted(set(re.findall(r"redis\.call\('([A-Z]+)'", scripts))):
            user = ("reset", "on", ">planted", *RIGHT, f"-{command}")
            client.execute_command("ACL", "SETUSER", "service", *user)
            with client_of(f"redis://service:planted@{HOST}:{redis_server.port}/6") as service:
                assert command in missing_permissions(service)
        client.execute_command("ACL", "DELUSER", "service")


def test_the_documented_redis_user_is_sufficient_for_the_service(
    tmp_path: Path, orchestrator: StubOrchestrator
) -> None:
    page = (ROOT / "docs" / "production.md").read_text()
    (rules,) = re.findall(r"ACL SETUSER takeone on >… (.+)", page)
    assert tuple(rules.split()) == RIGHT
    with RedisServer(tmp_path / "redis", append_only=True) as redis:
        with redis.client() as client:
            client.execute_command("ACL", "SETUSER", "takeone", "reset", "on", ">planted", *RIGHT)
        settings = {
            "TAKEONE_REDIS_URL": f"redis://takeone:planted@{HOST}:{redis.port}/0",
            "TAKEONE_ORCHESTRATOR_URL": orchestrator.url,
        }
        with Stack(tmp_path, settings=settings, redis=redis) as stack:
            alice = ApiClient(stack.api_url, "alice")
            assert alice.run(alice.uploaded_job()["id"]).status_code == 202
            found = all_findings(stack.settings)
            for about in ("broker", "workers", "Redis user"):
                assert {finding["state"] for finding in of(found, about)} == {"ok"}
            for process in stack.processes:
                assert "Permission" not in process.log()


@pytest.mark.parametrize(("shift", "apart"), [(5, "behind"), (-5, "ahead")])
def test_different_clocks_are_reported(stack: Stack, shift: int, apart: str) -> None:
    redis, *workers, api = findings(stack.settings, "clocks", OTHER_CLOCK.format(shift))
    assert (redis["state"], redis["found"]) == ("WRONG", f"Redis's is 5.0 s {apart}")
    assert len(workers) == len(stack.workers)
    for found in [*workers, api]:
        assert found["state"] == "WRONG"
        said = rf"(celery@\S+|the API)'s is [456]\.\d s {apart}"
        assert re.fullmatch(said, found["found"]), found


def test_a_low_limit_of_open_files_is_reported(settings: dict[str, str]) -> None:
    (found,) = findings(settings, "open files", FEW_FILES)
    assert (found["state"], found["found"]) == ("warning", "up to 1,024")


def test_a_redis_that_is_nearly_full_is_reported(
    settings: dict[str, str], redis_server: RedisServer
) -> None:
    with redis_server.client(6) as client:
        client.config_set("maxmemory", int(client.info()["used_memory"] * 1.1))
        try:
            (found,) = findings(settings, "memory")
        finally:
            client.config_set("maxmemory", 0)
    assert found["state"] in ("warning", "WRONG")
    assert "raise maxmemory" in found["advice"]


class Api(BaseHTTPRequestHandler):
    """Answers health checks; reads the body of a POST before it answers if `buffers`."""

    buffers = False
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(200, b'{"status":"ok"}')

    def do_POST(self) -> None:
        if self.buffers:
            self.rfile.read(1)
        self._answer(401, b"{}")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Keep the test output clean."""


@pytest.fixture(params=[True, False], ids=["buffering", "bare"])
def api(request: pytest.FixtureRequest) -> Iterator[tuple[str, bool]]:
    """The address of an API, and whether a buffering proxy is in front of it."""
    handler = type("Handler", (Api,), {"buffers": request.param})
    server = ThreadingHTTPServer((HOST, 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"{SHORTENED}:{server.server_address[1]}", request.param
    server.shutdown()
    server.server_close()


def test_a_missing_buffering_proxy_is_reported(
    settings: dict[str, str], api: tuple[str, bool]
) -> None:
    url, buffers = api
    secret = {"TAKEONE_CALLBACK_SECRET": "a-callback-secret-of-the-tests"}
    (found,) = findings({**settings, **PRODUCTION, **secret, "TAKEONE_PUBLIC_URL": url}, "proxy")
    assert found["state"] == ("ok" if buffers else "warning")
