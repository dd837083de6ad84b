"""A Flower as production would run it: beside the shared stack, with access to its broker alone."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from devstack.ports import free_port
from devstack.processes import ROOT, Process, clean_environment
from devstack.stack import Stack, procfile_command
from devstack.waiting import wait_until
from tests.support.behaviours import refuse
from tests.support.client import ApiClient
from tests.support.flower import wait_until_connected
from tests.support.job_handle import JobHandle
from tests.support.orchestrator import StubOrchestrator

START_SECONDS = 20.0
USER, PASSWORD = "ops", "planted-flower-password"
BROKER_PASSWORD = "planted-broker-password"
PREFIX = "flower"

# Whatever Flower shows, none of these may be in it. Each is put where it could get out.
PLANTED = {
    "video": "planted-video-uri",
    "user": "planted-user",
    "request": "planted-request-id",
    "answer": "planted-answer-of-the-orchestrator",
    "record": "planted-in-a-broken-record",
}


def flower_process(name: str, directory: Path, settings: dict[str, str]) -> Process:
    """The Procfile's flower, with these settings and no other."""
    port = free_port()
    return Process(
        name,
        ["/bin/sh", "-c", f"exec {procfile_command('flower')}"],
        environment=clean_environment({**settings, "PORT": str(port)}),
        log_path=directory / f"{name}.log",
        port=port,
    )


@dataclass
class Flower:
    """A running Flower and a user who may look at it."""

    process: Process
    session: requests.Session

    def get(self, path: str, **options: Any) -> requests.Response:
        """GET a path below the prefix, as one who may."""
        return self.session.get(self.address(path), timeout=10, **options)

    def address(self, path: str) -> str:
        """The address of a path below the prefix."""
        return f"{self.process.url}/{PREFIX}{path}"

    def task(self, task_id: str) -> dict[str, Any]:
        """What Flower knows of a task; empty while it knows nothing."""
        answer = self.get(f"/api/task/info/{task_id}")
        return dict(answer.json()) if answer.ok else {}

    def wait_for(self, task_id: str, state: str) -> dict[str, Any]:
        """Wait until Flower shows a task in this state."""
        what = f"{task_id} is {state} in Flower"
        wait_until(lambda: self.task(task_id).get("state") == state, 30, what)
        return self.task(task_id)

    def worker(self) -> str:
        """Wait until Flower knows a worker well; return its name."""

        def known() -> str:
            workers = self.get("/api/workers?refresh=1").json()
            return next((name for name, info in workers.items() if "stats" in info), "")

        return wait_until(known, 30, "Flower knows a worker")


@pytest.fixture(scope="package")
def limited_broker_url(stack: Stack) -> Iterator[str]:
    """The shared broker, by a user that Redis lets near nothing else (docs/production.md)."""
    page = (ROOT / "docs" / "production.md").read_text()
    (rules,) = re.findall(r"ACL SETUSER flower on >… (.+)", page)
    with stack.redis.client() as client:
        user = ("ACL", "SETUSER", "flower", "reset", "on", f">{BROKER_PASSWORD}")
        client.execute_command(*user, *rules.split())
        yield f"redis://flower:{BROKER_PASSWORD}@127.0.0.1:{stack.redis.port}/0"
        client.execute_command("ACL", "DELUSER", "flower")


@pytest.fixture(scope="package")
def flower(
    stack: Stack, limited_broker_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Flower]:
    """A Flower in production mode, with none of the service's own settings."""
    settings = {
        "TAKEONE_ENV": "production",
        "TAKEONE_BROKER_URL": limited_broker_url,
        "TAKEONE_FLOWER_BASIC_AUTH": f"{USER}:{PASSWORD}, other:another-password-of-flower",
        "TAKEONE_FLOWER_URL_PREFIX": PREFIX,
    }
    process = flower_process("flower", tmp_path_factory.mktemp("flower"), settings)
    with requests.Session() as session:
        session.trust_env = False
        session.auth = (USER, PASSWORD)
        shown = Flower(process, session)
        process.start()
        try:
            process.wait_until(lambda: _answers(shown), START_SECONDS, "Flower answers")
            shown.worker()
            # That it asks does not mean that it listens already.
            wait_until_connected(ApiClient(stack.api_url), lambda task: bool(shown.task(task)))
            yield shown
        finally:
            process.terminate()


def _answers(flower: Flower) -> bool:
    try:
        return flower.get("/healthcheck").ok
    except requests.RequestException:
        return False


@pytest.fixture(scope="package")
def dispatches(
    flower: Flower, stack: Stack, orchestrator: StubOrchestrator, callback_secret: str
) -> dict[str, str]:
    """Dispatch ids by what became of them, with secrets planted wherever a caller can put one."""
    client = ApiClient(stack.api_url, PLANTED["user"])
    made = {}
    for outcome in ("accepted", "refused", "unknown"):
        job = client.uploaded_job(f"s3://{PLANTED['video']}/{outcome}.mp4")
        handle = JobHandle(client, job["id"], callback_secret)
        if outcome != "accepted":
            status = 500 if outcome == "refused" else 504
            orchestrator.behaviours[handle.id] = refuse(status, PLANTED["answer"].encode())
        client.run(handle.id, headers={"X-Request-Id": PLANTED["request"]})
        made[outcome] = handle.run_id
    return made
