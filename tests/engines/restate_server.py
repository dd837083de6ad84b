"""A real Restate server, and a process with the example's service."""

from pathlib import Path
from types import MappingProxyType
from typing import Any

import requests

from devstack.ports import HOST, free_port
from devstack.processes import ROOT, Process, clean_environment
from devstack.stack import answers
from domain.claim import Refusal
from tests.engines.contract import EngineServer
from tests.engines.installing import example_environment, node_environment
from tests.support.behaviours import Request

EXAMPLE = ROOT / "examples" / "restate"
START_SECONDS = 60.0


class RestateServer(EngineServer):
    """The server, and a process with the service. The ingress is at `url`, the admin API at `admin_url`."""

    kind, workflow = "restate", "Take/run"
    refusals = MappingProxyType({Refusal.UNKNOWN_WORKFLOW: {"workflow": "Nope/run"}})
    first_start = 202

    def __init__(self, directory: Path, callback_secret: str) -> None:
        programs = example_environment("restate", EXAMPLE)
        npm = node_environment("restate-server", "@restatedev/restate-server@1.7.12")
        # The program itself: npm's wrapper ends before the server does.
        (server,) = npm.parent.glob("@restatedev/restate-server-*/bin/restate-server")
        ingress, admin, node, service = (free_port() for _ in range(4))
        self.url, self.admin_url = f"http://{HOST}:{ingress}", f"http://{HOST}:{admin}"
        settings = {
            "DO_NOT_TRACK": "1",
            "RESTATE_DISABLE_TELEMETRY": "true",
            "RESTATE_INGRESS__BIND_ADDRESS": f"{HOST}:{ingress}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"{HOST}:{admin}",
            "RESTATE_BIND_ADDRESS": f"{HOST}:{node}",
            "RESTATE_ADVERTISED_ADDRESS": f"http://{HOST}:{node}",
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_BASE_DIR": str(directory / "data"),
            "RESTATE_DEFAULT_NUM_PARTITIONS": "4",
            "RESTATE_ROCKSDB_TOTAL_MEMORY_SIZE": "256 MiB",
        }
        self.server = Process(
            "restate",
            [str(server), "--no-logo", "--log-disable-ansi-codes=true"],
            environment=clean_environment(settings),
            log_path=directory / "server.log",
            port=ingress,
        )
        self.service = Process(
            "restate-service",
            [str(programs / "hypercorn"), "--bind", f"{HOST}:{service}", "take:app"],
            environment=clean_environment(
                {
                    "CALLBACK_SECRET": callback_secret,
                    "STEP_SECONDS": "0.1",
                    "PYTHONPATH": str(EXAMPLE),
                    "PYTHONDONTWRITEBYTECODE": "1",
                }
            ),
            log_path=directory / "service.log",
            port=service,
        )

    def start(self) -> None:
        """Start both, and register the service."""
        self.service.start()
        self.start_server()
        self.service.wait_until(self._is_registered, START_SECONDS, "the service is registered")

    def start_server(self) -> None:
        """Start the server, and wait until it serves."""
        self.server.start()
        self.server.wait_until(
            lambda: answers(f"{self.admin_url}/health") and answers(f"{self.url}/restate/health"),
            START_SECONDS,
            "it answers",
        )

    def kill_server(self) -> None:
        """Kill the server, but not the service."""
        self.server.kill()

    def stop(self) -> None:
        """Stop both."""
        self.server.terminate()
        self.service.terminate()

    def _is_registered(self) -> bool:
        deployment = {"uri": self.service.url}
        return requests.post(f"{self.admin_url}/deployments", json=deployment, timeout=10).ok

    def configure(self, **service: Any) -> None:
        """Change the service's attributes at the server, such as `public` or `idempotency_retention`."""
        url = f"{self.admin_url}/services/Take"
        requests.patch(url, json=service, timeout=10).raise_for_status()

    def is_start(self, request: Request) -> bool:
        """Whether a request calls a handler."""
        return request.path.endswith("/send")

    def settings(self, url: str = "") -> dict[str, str]:
        """With the admin API, which has no gateway in front."""
        return {**super().settings(url), "cancel_url": self.admin_url}

    def runs(self, dispatch_id: str) -> int:
        """The invocations with this idempotency key."""
        return len(self._invocations(dispatch_id))

    def kill_run(self, dispatch_id: str) -> None:
        """Kill the invocation."""
        [invocation_id] = self._invocations(dispatch_id)
        url = f"{self.admin_url}/invocations/{invocation_id}/kill"
        requests.patch(url, timeout=10).raise_for_status()

    def _invocations(self, dispatch_id: str) -> list[str]:
        query = f"select id from sys_invocation where idempotency_key = '{dispatch_id}'"
        answer = requests.post(
            f"{self.admin_url}/query",
            json={"query": query},
            headers={"Accept": "application/json"},
            timeout=10,
        )
        answer.raise_for_status()
        return [row["id"] for row in answer.json()["rows"]]
