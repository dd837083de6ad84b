"""A worker's client of an engine, without the rest of the service."""

import time
from collections.abc import Callable
from typing import Any

from orchestrators.base import Dispatch, Outcome
from orchestrators.client import OrchestratorClient
from orchestrators.engine import Engine
from orchestrators.registry import make_adapter
from settings import Settings

NewDispatch = Callable[..., Dispatch]


def engine_client(kind: str, url: str, workflow: str, **settings: Any) -> Engine:
    """A worker's client; `settings` are the orchestrator's, without `orchestrator_` in their names."""
    short = {"kind": kind, "url": url, "workflow": workflow} | settings
    named = {f"orchestrator_{name}": value for name, value in short.items()}
    loaded = Settings(env="development", **named)
    return Engine(OrchestratorClient(loaded), make_adapter(loaded))


def started(engine: Engine, dispatch: Dispatch) -> Outcome:
    """Start a dispatch."""
    return engine.start(dispatch, lambda: True, time.monotonic())
