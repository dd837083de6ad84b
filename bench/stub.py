"""The stub orchestrator's process, and its counts."""

import sys
from pathlib import Path
from typing import Any

import requests

from devstack.ports import HOST, free_port
from devstack.processes import Process, clean_environment
from devstack.stack import answers


class Stub(Process):
    """`bench.orchestrator` on a free port."""

    def __init__(self, directory: Path, name: str = "orchestrator") -> None:
        port = free_port()
        super().__init__(
            name,
            [sys.executable, "-m", "bench.orchestrator"],
            environment=clean_environment({"PORT": str(port)}),
            log_path=directory / "logs" / f"{name}.log",
            port=port,
        )
        self._session = requests.Session()
        self._session.trust_env = False

    @property
    def dispatch_url(self) -> str:
        """The URL for dispatches."""
        return f"http://{HOST}:{self.port}/dispatches"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        super().start()
        self.wait_until(lambda: answers(f"{self.url}/stats"), 15, "the orchestrator answers")

    def reset(self, delay_seconds: float = 0.0) -> None:
        """Reset the counts; answer each dispatch after the delay from now on."""
        self._session.post(f"{self.url}/reset?{delay_seconds}", timeout=5).raise_for_status()

    def set_delay(self, seconds: float) -> None:
        """Answer each dispatch after the delay from now on."""
        self._session.post(f"{self.url}/delay?{seconds}", timeout=5).raise_for_status()

    def stats(self) -> dict[str, Any]:
        """The counts since the last reset; see `bench.orchestrator`."""
        answer: dict[str, Any] = self._session.get(f"{self.url}/stats", timeout=5).json()
        return answer
