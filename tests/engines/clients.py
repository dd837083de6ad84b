"""An engine as a worker speaks to it, without the rest of the service."""

import time
from typing import Any

from orchestrators.base import Dispatch, Outcome
from orchestrators.client import OrchestratorClient
from orchestrators.engine import Engine
from orchestrators.registry import make_adapter
from settings import Settings


def engine_client(kind: str, url: str, workflow: str, **settings: Any) -> Engine:
    """The engine as a worker speaks to it; `settings` are those of the orchestrator, by their short names."""
    given = {"kind": kind, "url": url, "workflow": workflow, "timeout_seconds": 3} | settings
    named = {f"orchestrator_{name}": value for name, value in given.items()}
    made = Settings(env="development", **named)
    return Engine(OrchestratorClient(made), make_adapter(made))


def started(engine: Engine, dispatch: Dispatch) -> Outcome:
    """Start a dispatch that is wanted."""
    return engine.start(dispatch, lambda: True, time.monotonic())
