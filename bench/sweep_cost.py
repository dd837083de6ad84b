"""Prints the duration of a sweep in milliseconds, as JSON. Needs the service's settings.

python -m bench.sweep_cost <project id>
"""

import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from statistics import median

from redis import Redis

from orchestrators.registry import dispatch_policy
from settings import load_settings
from store import keys
from store.client import make_client
from store.jobs import JobStore
from store.lists import PageQuery
from store.projects import ProjectStore
from tasks.outbox import make_outbox
from tasks.sweep import sweep_once

_TIMES = 50
_STALE = 100


def main(project_id: str) -> None:
    """Time sweeps with nothing due, and with due entries whose claims are settled."""
    settings = load_settings()
    client, policy = make_client(settings, connections=1), dispatch_policy(settings)
    store = JobStore(client, make_outbox(settings))

    def sweep() -> None:
        sweep_once(store, policy, datetime.now(UTC))

    sweep()
    idle = _milliseconds(sweep, lambda: None, _TIMES)
    stale = _milliseconds(sweep, lambda: _make_stale(client, project_id), _TIMES // 5)
    print(json.dumps({"nothing due": idle, f"{_STALE} stale entries due": stale}))


def _milliseconds(action: Callable[[], None], before: Callable[[], None], times: int) -> float:
    taken = []
    for _ in range(times):
        before()
        started = time.perf_counter()
        action()
        taken.append((time.perf_counter() - started) * 1000)
    return median(taken)


def _make_stale(client: Redis, project_id: str) -> None:
    page = ProjectStore(client).jobs(project_id, PageQuery(_STALE))
    client.zadd(keys.DUE, dict.fromkeys([record.job.id for record in page.items], 1))


if __name__ == "__main__":
    main(sys.argv[1])
