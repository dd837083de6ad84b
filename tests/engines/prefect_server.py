"""A real Prefect server on PostgreSQL, and a process that serves the flow of the example."""

import os
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import requests

from devstack.ports import HOST, free_port
from devstack.processes import ROOT, Process, clean_environment, stop_all
from devstack.waiting import wait_until
from domain.claim import Refusal
from tests.engines.contract import EngineServer
from tests.engines.installing import example_environment
from tests.engines.postgres import PostgresServer
from tests.support.behaviours import Request

EXAMPLE = ROOT / "examples" / "prefect"
WORKFLOW = "take/production"
CREDENTIALS = "takeone:a password"
START_SECONDS = 90.0
# What a process that runs flows says when it will hear of no cancel any more.
HEARS_NO_CANCEL = "flow run cancellation will fail"


class PrefectServer(EngineServer):
    """The database, the server, and `flow`, which runs what is started; each may be stopped alone."""

    kind, workflow = "prefect", WORKFLOW
    refusals = MappingProxyType(
        {
            Refusal.UNKNOWN_WORKFLOW: {"workflow": "take/nothing of that name"},
            Refusal.UNAUTHORIZED: {"credentials": "takeone:another password"},
        }
    )
    first_start = 201

    def __init__(self, directory: Path, callback_secret: str) -> None:
        programs = example_environment("prefect", EXAMPLE, "asyncpg==0.32.0")
        self.database = PostgresServer(directory / "postgres.log")
        port = free_port()
        self.url = f"http://{HOST}:{port}"
        database = self.database.address("prefect", "postgresql+asyncpg")
        settings = {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PREFECT_HOME": str(directory / "home"),
            "PREFECT_API_DATABASE_CONNECTION_URL": database,
            "PREFECT_API_URL": f"{self.url}/api",
            "PREFECT_API_AUTH_STRING": CREDENTIALS,
            "PREFECT_SERVER_API_AUTH_STRING": CREDENTIALS,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_ENABLED": "false",
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
            "DO_NOT_TRACK": "1",
            "CALLBACK_SECRET": callback_secret,
            "STEP_SECONDS": "0.1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        environment = clean_environment(settings)
        self.server = Process(
            "prefect",
            [str(programs / "prefect"), "server", "start", "--host", HOST, "--port", str(port)],
            environment=environment,
            log_path=directory / "server.log",
            port=port,
        )
        self.flow = Process(
            "prefect-flow",
            [str(programs / "python"), str(EXAMPLE / "take.py")],
            environment=environment,
            log_path=directory / "flow.log",
        )

    def start(self) -> None:
        """Start all, and wait until the deployment is there."""
        self.database.start()
        self.database.create("prefect")
        self.start_server()
        self.start_flow()

    def start_server(self) -> None:
        """Start the server, and wait until it serves."""
        self.server.start()
        self.server.wait_until(lambda: self.call("GET", "/health"), START_SECONDS, "it is healthy")

    def start_flow(self) -> None:
        """Start the process that runs the flows, and wait until its deployment takes runs."""
        self.flow.start()
        self.flow.wait_until(self._is_served, START_SECONDS, "the deployment is served")

    def stop_flow(self) -> None:
        """Stop that process. It pauses its deployment on its way."""
        self.flow.terminate(30)
        wait_until(lambda: self.deployment()["paused"], 10, "the deployment is paused")

    def renew_flow(self) -> None:
        """Start that process again if an outage of the server has ended its watch for cancels."""
        if HEARS_NO_CANCEL in self.flow.log():
            self.stop_flow()
            self.start_flow()

    def stop(self) -> None:
        """Stop all that is running, the database last."""
        stop_all([self.flow, self.server], 20)
        self.database.terminate()

    def kill_server(self) -> None:
        """Kill the server; the flow's process stays."""
        self.server.kill()

    def is_start(self, request: Request) -> bool:
        """Whether a request makes a flow run."""
        return request.path.endswith("/create_flow_run")

    def settings(self, url: str = "") -> dict[str, str]:
        """As its user."""
        return {**super().settings(f"{url or self.url}/api"), "credentials": CREDENTIALS}

    def kill_run(self, dispatch_id: str) -> None:
        """Note that the flow run crashed, as Prefect does where its machine is gone."""
        [run] = self._flow_runs(dispatch_id)
        crashed = {"state": {"type": "CRASHED"}, "force": True}
        assert self.call("POST", f"/flow_runs/{run['id']}/set_state", crashed) is not None

    def runs(self, dispatch_id: str) -> int:
        """How many flow runs there ever were under a key."""
        return len(self._flow_runs(dispatch_id))

    def _flow_runs(self, dispatch_id: str) -> list[dict[str, Any]]:
        wanted = {"flow_runs": {"idempotency_key": {"any_": [dispatch_id]}}}
        found = self.call("POST", "/flow_runs/filter", wanted)
        assert found is not None
        found_runs: list[dict[str, Any]] = found.json()
        return found_runs

    def deployment(self) -> dict[str, Any]:
        """The record of the example's deployment; empty if there is none."""
        answer = self.call("GET", f"/deployments/name/{WORKFLOW}")
        return answer.json() if answer is not None else {}

    def call(self, method: str, path: str, json: object = None) -> requests.Response | None:
        """Ask the API; None where it does not answer well."""
        user, _, password = CREDENTIALS.partition(":")
        with suppress(requests.RequestException):
            answer = requests.request(
                method, f"{self.url}/api{path}", json=json, auth=(user, password), timeout=20
            )
            return answer if answer.ok else None
        return None

    def _is_served(self) -> bool:
        found = self.deployment()
        return bool(found) and not found["paused"] and found["status"] == "READY"
