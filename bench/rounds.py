"""Measured rounds, taken in turn (A B A B …), because the machine is never the same for long."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from bench import usage
from bench.load import Load, drive
from bench.stub import Stub
from bench.systems import System
from devstack.processes import Process

Requests = Callable[[], Iterator[bytes]]


class WrongResultError(Exception):
    """What was measured did not do what it promises, so that its speed is worth nothing."""


@dataclass
class Round:
    """One round of one system. CPU in milliseconds a call, by process; latencies in milliseconds."""

    system: str
    callers: int
    done: int
    seconds: float
    latencies: list[float] = field(repr=False)
    cpu: dict[str, float]
    helpers_cpu: dict[str, float]

    @property
    def per_second(self) -> float:
        """Calls answered a second."""
        return self.done / self.seconds

    @property
    def total_cpu(self) -> float:
        """CPU of all processes of the system, in milliseconds a call."""
        return sum(self.cpu.values())

    def quantile(self, share: float) -> float:
        """The latency that `share` of the calls did not exceed, in milliseconds."""
        return quantile(self.latencies, share)

    def numbers(self) -> dict[str, object]:
        """Everything but the single latencies, for the JSON."""
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
    """The smallest value that is not exceeded by `share` of them."""
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
) -> tuple[Round, Counter[int]]:
    """Load a server, and read what its processes took for it; return the statuses answered too."""
    watched: dict[str, list[Process]] = {**processes, **({"orchestrator": [stub]} if stub else {})}
    before = {name: usage.cpu_seconds(each) for name, each in watched.items()}
    load = drive(port, requests, callers, seconds)
    after = {name: usage.cpu_seconds(each) for name, each in watched.items()}
    cpu = {name: (after[name] - before[name]) * 1000 / max(1, load.done) for name in watched}
    helpers = {"load generator": load.cpu_seconds * 1000 / max(1, load.done)}
    if stub:
        helpers["orchestrator"] = cpu.pop("orchestrator")
    return _round(name, callers, load, cpu, helpers), load.statuses


def _round(
    name: str, callers: int, load: Load, cpu: dict[str, float], helpers: dict[str, float]
) -> Round:
    milliseconds = [seconds * 1000 for seconds in load.latencies]
    return Round(name, callers, load.done, load.seconds, milliseconds, cpu, helpers)


def first_runs(
    system: System, stub: Stub, callers: int, seconds: float, most_per_second: int = 3_000
) -> Round:
    """Run fresh jobs, each once. Raises `WrongResultError` unless each was posted exactly once."""
    missing = int(most_per_second * seconds) + callers - len(system.fresh)
    system.fresh.extend(system.seed(max(0, missing)))
    stub.reset()
    requests = (system.run(system.fresh.popleft()) for _ in range(len(system.fresh)))
    result, statuses = measure(
        system.name, system.port, system.processes, requests, callers, seconds, stub
    )
    stats = stub.stats()
    expect(set(statuses) == {202}, f"{system.name}: first runs answered {dict(statuses)}")
    counts = (stats["posts"], stats["distinct"], result.done)
    expect(len(set(counts)) == 1, f"{system.name}: posts, distinct, runs: {counts}")
    return result


def expect(holds: bool, wrong: str) -> None:
    """Raise `WrongResultError` if it does not hold."""
    if not holds:
        raise WrongResultError(wrong)


@dataclass(frozen=True)
class Ratio:
    """How two measured quantities compare, pair by pair: the median, and the least and the most."""

    middle: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.middle:.2f} ({self.least:.2f} to {self.most:.2f})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Compare what was measured in turn."""
    ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
    return Ratio(median(ratios), min(ratios), max(ratios))
