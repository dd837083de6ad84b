"""Measured rounds, taken in turn (A B A B …), because a machine's speed changes from minute to minute."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

import psutil

from bench.load import drive
from bench.stub import Stub
from bench.systems import System
from devstack.processes import Process


class WrongResultError(Exception):
    """A measured system gave a wrong result, so its speed means nothing."""


@dataclass
class Round:
    """One round of one system. Latencies are in milliseconds, CPU in milliseconds a call by process."""

    system: str
    callers: int
    done: int
    seconds: float
    latencies: list[float] = field(repr=False)
    cpu: dict[str, float]
    helpers_cpu: dict[str, float]
    statuses: Counter[int]

    @property
    def per_second(self) -> float:
        """Calls answered a second."""
        return self.done / self.seconds

    @property
    def total_cpu(self) -> float:
        """CPU of all processes of the system, in milliseconds a call."""
        return sum(self.cpu.values())

    def quantile(self, share: float) -> float:
        """The latency that a `share` of the calls did not exceed, in milliseconds."""
        return quantile(self.latencies, share)

    def numbers(self) -> dict[str, object]:
        """Everything except the individual latencies, for the JSON."""
        return {
            "system": self.system,
            "callers": self.callers,
            "done": self.done,
            "seconds": round(self.seconds, 3),
            "per_second": round(self.per_second, 1),
            "p50_ms": round(self.quantile(0.5), 3),
            "p99_ms": round(self.quantile(0.99), 3),
            "cpu_ms": {name: round(value, 4) for name, value in self.cpu.items()},
            "helpers_cpu_ms": {name: round(value, 4) for name, value in self.helpers_cpu.items()},
        }


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that a `share` of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def measure(
    name: str,
    port: int,
    processes: dict[str, list[Process]],
    requests: Iterator[bytes],
    callers: int,
    seconds: float,
    stub: Stub | None = None,
) -> Round:
    """Load a server, and read the CPU time of its processes."""
    parts: dict[str, list[Process]] = {**processes, **({"orchestrator": [stub]} if stub else {})}
    before = {part: _cpu_seconds(members) for part, members in parts.items()}
    load = drive(port, requests, callers, seconds)
    calls = max(1, load.done)
    cpu = {
        part: (_cpu_seconds(members) - before[part]) * 1000 / calls
        for part, members in parts.items()
    }
    helpers = {"load generator": load.cpu_seconds * 1000 / calls}
    if stub:
        helpers["orchestrator"] = cpu.pop("orchestrator")
    latencies = [seconds * 1000 for seconds in load.latencies]
    return Round(name, callers, load.done, load.seconds, latencies, cpu, helpers, load.statuses)


def _cpu_seconds(processes: Iterable[Process]) -> float:
    times = [process.cpu_times() for process in _with_children(processes)]
    return sum(item.user + item.system for item in times)


def memory_bytes(processes: Iterable[Process]) -> int:
    """The memory that would be free without these processes and their children (USS)."""
    return sum(process.memory_full_info().uss for process in _with_children(processes))


def _with_children(processes: Iterable[Process]) -> list[psutil.Process]:
    parents = [psutil.Process(process.pid) for process in processes]
    return [*parents, *(child for parent in parents for child in parent.children(recursive=True))]


def first_runs(
    system: System, stub: Stub, callers: int, seconds: float, most_per_second: int = 3_000
) -> Round:
    """Run fresh jobs once each. Raises `WrongResultError` unless each was posted exactly once."""
    missing = int(most_per_second * seconds) + callers - len(system.fresh)
    system.fresh.extend(system.seed(max(0, missing)))
    stub.reset()
    requests = (system.run(system.fresh.popleft()) for _ in range(len(system.fresh)))
    result = measure(system.name, system.port, system.processes, requests, callers, seconds, stub)
    stats = stub.stats()
    statuses = set(result.statuses)
    expect(statuses == {202}, f"{system.name}: first runs answered {statuses}")
    counts = (stats["posts"], stats["distinct"], result.done)
    expect(len(set(counts)) == 1, f"{system.name}: posts, distinct, runs: {counts}")
    return result


def expect(holds: bool, wrong: str) -> None:
    """Raise `WrongResultError` with the text `wrong` unless `holds`."""
    if not holds:
        raise WrongResultError(wrong)


@dataclass(frozen=True)
class Ratio:
    """The ratios of two measured quantities, pair by pair: the median, the least and the greatest."""

    middle: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.middle:.2f} ({self.least:.2f} to {self.most:.2f})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Compare values that were measured in turn."""
    ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
    return Ratio(median(ratios), min(ratios), max(ratios))
