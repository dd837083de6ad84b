"""Celery: the app, the dispatch task, the orchestrator's client and the sweep.

`celery -A tasks` finds the app here. It is made when it is asked for, so that the API can import the
outbox without paying for Celery.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name in ("app", "celery"):
        from tasks.app import app

        return app
    raise AttributeError(name)
