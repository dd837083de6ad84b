"""Flower in production mode next to the shared stack, with access to its broker only."""

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

# Flower may show none of these. Each is planted where it could leak from.
PLANTED = {
    "video": "planted-video-uri",
    "user": "planted-user",
    "request": "planted-request-id",
    "answer": "planted-answer-of-the-orchestrator",
    "record": "planted-in-a-broken-record",
}


def flower_process(directory: Path, settings: dict[str, str], command: str = "") -> Process:
    """A Flower with these settings only, started by the Procfile's command or by another one."""
    port = free_port()
    return Process(
        "flower",
        ["/bin/sh", "-c", f"exec {command or procfile_command('flower')}"],
        environment=clean_environment({**settings, "PORT": str(port)}),
        log_path=directory / "flower.log",
        port=port,
    )


@dataclass
class Flower:
    """A running Flower, and the session of a user who is logged in."""

    process: Process
    session: requests.Session

    def get(self, path: str, **options: Any) -> requests.Response:
        """GET a path below the prefix, logged in."""
        return self.session.get(self.url(path), timeout=10, **options)

    def url(self, path: str) -> str:
        """The URL of a path below the prefix."""
        return f"{self.process.url}/{PREFIX}{path}"

    def task(self, task_id: str) -> dict[str, Any]:
        """What Flower shows of a task; empty if it does not know it."""
        answer = self.get(f"/api/task/info/{task_id}")
        return dict(answer.json()) if answer.ok else {}

    def wait_for(self, task_id: str, state: str) -> dict[str, Any]:
        """Wait until Flower shows a task in this state; return what it shows."""
        what = f"{task_id} is {state} in Flower"
        wait_until(lambda: self.task(task_id).get("state") == state, 30, what)
        return self.task(task_id)

    def worker(self) -> str:
        """Wait until Flower has a worker's statistics; return its name."""

        def known_worker() -> str:
            workers = self.get("/api/workers?refresh=1").json()
            return next((name for name, info in workers.items() if "stats" in info), "")

        return wait_until(known_worker, 30, "Flower knows a worker")


@pytest.fixture(scope="package")
def limited_broker_url(stack: Stack) -> Iterator[str]:
    """The shared broker, as a Redis user with the permissions of docs/production.md only."""
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
    """Flower in production mode, with none of the service's own settings."""
    settings = {
        "TAKEONE_ENV": "production",
        "TAKEONE_BROKER_URL": limited_broker_url,
        "TAKEONE_FLOWER_BASIC_AUTH": f"{USER}:{PASSWORD}, other:another-password-of-flower",
        "TAKEONE_FLOWER_URL_PREFIX": PREFIX,
    }
    process = flower_process(tmp_path_factory.mktemp("flower"), settings)
    with requests.Session() as session:
        session.trust_env = False
        session.auth = (USER, PASSWORD)
        flower = Flower(process, session)
        process.start()
        try:
            process.wait_until(lambda: _answers(flower), START_SECONDS, "Flower answers")
            flower.worker()
            # Flower queries workers before it receives events.
            wait_until_connected(ApiClient(stack.api_url), lambda task: bool(flower.task(task)))
            yield flower
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
    """Dispatch ids by outcome, with text planted wherever a caller or the orchestrator can write."""
    client = ApiClient(stack.api_url, PLANTED["user"])
    dispatch_ids = {}
    for outcome in ("accepted", "refused", "unknown"):
        job = client.uploaded_job(f"s3://{PLANTED['video']}/{outcome}.mp4")
        handle = JobHandle(client, job["id"], callback_secret)
        if outcome != "accepted":
            status = 500 if outcome == "refused" else 504
            orchestrator.behaviours[handle.id] = refuse(status, PLANTED["answer"].encode())
        client.run(handle.id, headers={"X-Request-Id": PLANTED["request"]})
        dispatch_ids[outcome] = handle.run_id
    return dispatch_ids
