"""Everything on one machine: the stack, and the reference orchestrator beside it."""

import secrets
import signal
import sys
from pathlib import Path
from typing import Self

from demo.ports import free_port
from demo.processes import Process, clean_environment
from demo.stack import STOP_SECONDS, Stack, answers

ORCHESTRATOR_START_SECONDS = 15.0


class LocalStack:
    """The service, its Redis and Flower, and an orchestrator whose steps take `step_seconds`.

    With `append_only` the data in `directory` is there again at the next start. The API takes
    `preferred_port` if it is free.
    """

    def __init__(
        self,
        directory: Path,
        *,
        append_only: bool = False,
        step_seconds: float = 0.5,
        preferred_port: int | None = None,
    ) -> None:
        secret = secrets.token_urlsafe(24)
        self.orchestrator = self._orchestrator(directory, secret, step_seconds)
        self.service = Stack(
            directory,
            append_only=append_only,
            flower=True,
            preferred_port=preferred_port,
            settings={
                "TAKEONE_CALLBACK_SECRET": secret,
                "TAKEONE_ORCHESTRATOR_URL": f"{self.orchestrator.url}/dispatches",
                "TAKEONE_ORCHESTRATOR_CANCEL_URL": f"{self.orchestrator.url}/cancellations",
                "TAKEONE_ORCHESTRATOR_DEDUPLICATES": "true",
            },
        )

    def _orchestrator(self, directory: Path, secret: str, step_seconds: float) -> Process:
        port = free_port()
        settings = {
            "PORT": str(port),
            "CALLBACK_SECRET": secret,
            "STEP_SECONDS": str(step_seconds),
        }
        return Process(
            "orchestrator",
            [sys.executable, "-m", "demo.orchestrator"],
            environment=clean_environment(settings),
            log_path=directory.resolve() / "logs" / "orchestrator.log",
            port=port,
        )

    @property
    def processes(self) -> list[Process]:
        """Every process of it."""
        return [self.service.redis, *self.service.processes, self.orchestrator]

    def start_orchestrator(self) -> None:
        """Start the orchestrator, and wait until it answers."""
        url = f"{self.orchestrator.url}/executions"
        self.orchestrator.start()
        self.orchestrator.wait_until(
            lambda: answers(url), ORCHESTRATOR_START_SECONDS, "the orchestrator answers"
        )

    def flower_address(self) -> str:
        """Where Flower is; nothing waits for it, so it may still be starting."""
        flower = self.service.flower
        if flower is None or not flower.is_running:
            return "not running"
        return flower.url if answers(flower.url) else f"{flower.url} (starting)"

    def stop(self) -> None:
        """Stop everything, Redis last."""
        self.orchestrator.terminate(STOP_SECONDS)
        self.service.stop()

    def __enter__(self) -> Self:
        try:
            self.start_orchestrator()
            self.service.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def treat_sigterm_as_ctrl_c() -> None:
    """Let SIGTERM leave the program by KeyboardInterrupt, past every `__exit__`, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
