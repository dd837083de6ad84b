"""What the load tests look at: how long calls take, and what a process holds on to."""

import time
from collections.abc import Callable

import psutil
import requests

from devstack.processes import Process
from devstack.redis_server import RedisServer
from devstack.stack import Stack


def timed(call: Callable[[], requests.Response], expected: int = 200) -> float:
    """Seconds that a call took; it must answer as expected."""
    began = time.perf_counter()
    answer = call()
    seconds = time.perf_counter() - began
    assert answer.status_code == expected, (answer.status_code, answer.text)
    return seconds


def quantile(values: list[float], share: float) -> float:
    """The value below which this share of all values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def family(process: Process) -> list[int]:
    """The process ids of a program and of all its children."""
    parent = psutil.Process(process.pid)
    return [parent.pid, *(child.pid for child in parent.children(recursive=True))]


def threads(stack: Stack) -> int:
    """How many threads the web and worker processes have."""
    pids = [pid for process in stack.processes for pid in family(process)]
    return sum(psutil.Process(pid).num_threads() for pid in pids)


def resident_bytes(process: Process) -> int:
    """The memory that a program and its children hold, what they share counted once for each."""
    return sum(psutil.Process(pid).memory_info().rss for pid in family(process))


def connections(redis: RedisServer) -> int:
    """How many clients a Redis has, besides the one that asks."""
    with redis.client() as client:
        return len(client.client_list()) - 1
