"""The whole stack on one machine: the service and the reference orchestrator."""

import secrets
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from devstack.ports import free_port
from devstack.processes import Process, Startable, clean_environment
from devstack.stack import STOP_SECONDS, Stack, answers

ORCHESTRATOR_START_SECONDS = 15.0


class LocalStack(Startable):
    """The service, its Redis and Flower, and an orchestrator whose steps take `step_seconds`.

    With `append_only`, the data in `directory` survives a restart. The API listens on `preferred_port` if that
    is free, and the orchestrator on the 1000th after it: under another address it is another engine, which
    knows nothing of earlier dispatches. `settings` are TAKEONE_ variables that override those of the stack.
    """

    def __init__(
        self,
        directory: Path,
        *,
        append_only: bool = False,
        step_seconds: float = 0.5,
        preferred_port: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        given = settings or {}
        self.callback_secret = given.get("TAKEONE_CALLBACK_SECRET") or secrets.token_urlsafe(24)
        one_secret = self.callback_secret.partition(",")[0].strip()
        port = free_port(min(preferred_port + 1_000, 65_535) if preferred_port else None)
        self.orchestrator = self._orchestrator(directory, one_secret, step_seconds, port)
        self.service = Stack(
            directory,
            append_only=append_only,
            flower=True,
            preferred_port=preferred_port,
            settings={
                "TAKEONE_CALLBACK_SECRET": self.callback_secret,
                "TAKEONE_ORCHESTRATOR_URL": f"{self.orchestrator.url}/dispatches",
                "TAKEONE_ORCHESTRATOR_CANCEL_URL": f"{self.orchestrator.url}/cancellations",
                "TAKEONE_ORCHESTRATOR_IDEMPOTENCY_SECONDS": "86400",
                **given,
            },
        )

    def _orchestrator(
        self, directory: Path, secret: str, step_seconds: float, port: int
    ) -> Process:
        settings = {"PORT": str(port), "CALLBACK_SECRET": secret, "STEP_SECONDS": str(step_seconds)}
        return Process(
            "orchestrator",
            [sys.executable, "-m", "demo.orchestrator"],
            environment=clean_environment(settings),
            log_path=directory.resolve() / "logs" / "orchestrator.log",
            port=port,
        )

    @property
    def processes(self) -> list[Process]:
        return [self.service.redis, *self.service.processes, self.orchestrator]

    def start_orchestrator(self) -> None:
        """Start the orchestrator and wait until it answers."""
        url = f"{self.orchestrator.url}/executions"
        self.orchestrator.start()
        self.orchestrator.wait_until(
            lambda: answers(url), ORCHESTRATOR_START_SECONDS, "the orchestrator answers"
        )

    def flower_address(self) -> str:
        """Return Flower's address for display; it may still be starting, since nothing waits for it."""
        flower = self.service.flower
        if flower is None or not flower.is_running:
            return "not running"
        return flower.url if answers(flower.url) else f"{flower.url} (starting)"

    def start(self) -> None:
        """Start the orchestrator, then the service; wait until both serve."""
        self.start_orchestrator()
        self.service.start()

    def stop(self) -> None:
        """Stop everything, Redis last."""
        self.orchestrator.terminate(STOP_SECONDS)
        self.service.stop()


def treat_sigterm_as_ctrl_c() -> None:
    """Raise KeyboardInterrupt on SIGTERM, as on Ctrl-C, so that every `__exit__` runs."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
