"""What processes take: CPU and memory, each with all its children."""

from collections.abc import Iterable

import psutil

from devstack.processes import Process


def cpu_seconds(processes: Iterable[Process]) -> float:
    """CPU time of the processes and their children so far, user and system."""
    times = [each.cpu_times() for each in _family(processes)]
    return sum(each.user + each.system for each in times)


def memory_bytes(processes: Iterable[Process]) -> int:
    """Memory that would be free without these processes and their children."""
    return sum(each.memory_full_info().uss for each in _family(processes))


def _family(processes: Iterable[Process]) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in processes:
        parent = psutil.Process(process.pid)
        found += [parent, *parent.children(recursive=True)]
    return found
