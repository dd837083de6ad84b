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
# A flow process logs this when it will not notice cancels any more.
CANCELS_LOST = "flow run cancellation will fail"


class PrefectServer(EngineServer):
    """The database, the server, and the process `flow` that runs flows; each can be stopped separately."""

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
        """Start everything, and wait until the deployment is served."""
        self.database.start()
        self.database.create("prefect")
        self.start_server()
        self.start_flow()

    def start_server(self) -> None:
        """Start the server, and wait until it serves."""
        self.server.start()
        self.server.wait_until(lambda: self.call("GET", "/health"), START_SECONDS, "it is healthy")

    def start_flow(self) -> None:
        """Start the process that runs flows, and wait until its deployment is ready."""
        self.flow.start()
        self.flow.wait_until(self._is_served, START_SECONDS, "the deployment is served")

    def stop_flow(self) -> None:
        """Stop that process, which pauses its deployment."""
        self.flow.terminate(30)
        wait_until(lambda: self.deployment()["paused"], 10, "the deployment is paused")

    def renew_flow(self) -> None:
        """Restart that process if it does not notice cancels any more, after an outage of the server."""
        if CANCELS_LOST in self.flow.log():
            self.stop_flow()
            self.start_flow()

    def stop(self) -> None:
        """Stop everything, the database last."""
        stop_all([self.flow, self.server], 20)
        self.database.terminate()

    def kill_server(self) -> None:
        """Kill the server, but not the flow's process."""
        self.server.kill()

    def is_start(self, request: Request) -> bool:
        """Whether a request creates a flow run."""
        return request.path.endswith("/create_flow_run")

    def settings(self, url: str = "") -> dict[str, str]:
        """With its credentials."""
        return {**super().settings(f"{url or self.url}/api"), "credentials": CREDENTIALS}

    def kill_run(self, dispatch_id: str) -> None:
        """Mark the flow run as crashed, as Prefect does if its machine is lost."""
        [run] = self._flow_runs(dispatch_id)
        crashed = {"state": {"type": "CRASHED"}, "force": True}
        assert self.call("POST", f"/flow_runs/{run['id']}/set_state", crashed) is not None

    def runs(self, dispatch_id: str) -> int:
        """The flow runs with this idempotency key."""
        return len(self._flow_runs(dispatch_id))

    def _flow_runs(self, dispatch_id: str) -> list[dict[str, Any]]:
        query = {"flow_runs": {"idempotency_key": {"any_": [dispatch_id]}}}
        answer = self.call("POST", "/flow_runs/filter", query)
        assert answer is not None
        runs: list[dict[str, Any]] = answer.json()
        return runs

    def deployment(self) -> dict[str, Any]:
        """The example's deployment; empty if there is none."""
        answer = self.call("GET", f"/deployments/name/{WORKFLOW}")
        return answer.json() if answer is not None else {}

    def call(self, method: str, path: str, json: object = None) -> requests.Response | None:
        """The API's answer; None unless it is a success."""
        user, _, password = CREDENTIALS.partition(":")
        with suppress(requests.RequestException):
            answer = requests.request(
                method, f"{self.url}/api{path}", json=json, auth=(user, password), timeout=20
            )
            return answer if answer.ok else None
        return None

    def _is_served(self) -> bool:
        deployment = self.deployment()
        return bool(deployment) and not deployment["paused"] and deployment["status"] == "READY"
