"""Prints what a sweep of the store costs, in milliseconds, as JSON. Needs the service's settings.

python -m bench.sweep_cost <project id>
"""

import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from statistics import median

from settings import load_settings
from store import keys
from store.connecting import connection_factory
from store.jobs import JobStore
from store.link import Link
from tasks.outbox import make_outbox
from tasks.sweep import sweep_once

_TIMES = 50
_STALE = 100


def main(project_id: str) -> None:
    """Time sweeps with nothing due, and with entries due whose claims are settled."""
    settings = load_settings()
    connect = connection_factory(settings.redis_url, settings.redis_timeout_seconds)
    link = Link(connect, 1, settings.redis_timeout_seconds)
    store = JobStore(link, make_outbox(settings))

    def sweep() -> None:
        sweep_once(store, settings.policy, datetime.now(UTC))

    sweep()
    idle = _milliseconds(sweep, lambda: None, _TIMES)
    stale = _milliseconds(sweep, lambda: _make_stale(link, project_id), _TIMES // 5)
    print(json.dumps({"nothing due": idle, f"{_STALE} stale entries due": stale}))


def _milliseconds(action: Callable[[], None], before: Callable[[], None], times: int) -> float:
    taken = []
    for _ in range(times):
        before()
        started = time.perf_counter()
        action()
        taken.append((time.perf_counter() - started) * 1000)
    return median(taken)


def _make_stale(link: Link, project_id: str) -> None:
    (ids,) = link.call(("LRANGE", keys.project_jobs(project_id), 1, _STALE))
    link.call(("ZADD", keys.IN_FLIGHT, *(word for each in ids for word in (1, each))))


if __name__ == "__main__":
    main(sys.argv[1])
