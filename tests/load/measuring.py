"""Measurements of the load tests: durations, threads, memory and connections."""

import time
from collections.abc import Callable

import psutil
import requests

from devstack.processes import Process
from devstack.redis_server import RedisServer
from devstack.stack import Stack


def timed(call: Callable[[], requests.Response], expected: int = 200) -> float:
    """Return how many seconds a call took; assert its status."""
    began = time.perf_counter()
    answer = call()
    seconds = time.perf_counter() - began
    assert answer.status_code == expected, (answer.status_code, answer.text)
    return seconds


def quantile(values: list[float], share: float) -> float:
    """Return the value below which this share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def family(process: Process) -> list[int]:
    """Return the process ids of a program and all its descendants."""
    parent = psutil.Process(process.pid)
    return [parent.pid, *(child.pid for child in parent.children(recursive=True))]


def threads(stack: Stack) -> int:
    """Return the number of threads of a stack's processes, without Redis."""
    pids = [pid for process in stack.processes for pid in family(process)]
    return sum(psutil.Process(pid).num_threads() for pid in pids)


def resident_bytes(process: Process) -> int:
    """Return the resident memory of a program and its descendants; shared pages count for each."""
    return sum(psutil.Process(pid).memory_info().rss for pid in family(process))


def connections(redis: RedisServer) -> int:
    """Return the number of a Redis server's clients, without this call's own."""
    with redis.client() as client:
        return len(client.client_list()) - 1
