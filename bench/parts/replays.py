"""Replays and reads, against the replays of the bare program."""

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle

from bench.arena import Arena
from bench.load import drive
from bench.plan import Plan
from bench.report import Report
from bench.rounds import Round, expect, measure, quantile, ratio

_CALLERS = 32
_JOBS = 200
_BARE = "bare: replay of run"

Target = Callable[[], Round]


def run(arena: Arena, plan: Plan, parts: Sequence[str], report: Report) -> None:
    """Measure replays and reads, whichever are among `parts`, in turn with the bare program's replays."""
    targets = _targets(arena, plan, parts)
    rounds: dict[str, list[Round]] = {name: [] for name in targets}
    for warm_up in targets.values():
        warm_up()
    for _ in range(plan.read_pairs):
        for name, target in targets.items():
            rounds[name].append(target())
    report.table(
        f"Replays and reads at {_CALLERS} callers",
        ["what", "calls/s", "against bare replays", "p50 ms", "p99 ms", "CPU ms a call"],
        [_row(name, taken, rounds[_BARE]) for name, taken in rounds.items()],
        "No replay was posted.",
    )
    report.keep(
        "replays", {name: [one.numbers() for one in taken] for name, taken in rounds.items()}
    )


def _targets(arena: Arena, plan: Plan, parts: Sequence[str]) -> dict[str, Target]:
    service, baseline = arena.service, arena.baseline
    ids = service.seed(_JOBS)
    drive(service.port, (service.run(job_id) for job_id in ids), 16, 60)
    replays = [service.run(job_id) for job_id in ids]
    reads = [service.get(f"/api/v1/jobs/{job_id}") for job_id in ids]
    bare_ids = baseline.seed(_JOBS)
    drive(baseline.port, (baseline.run(job_id) for job_id in bare_ids), 16, 60)
    bare = [baseline.run(job_id) for job_id in bare_ids]
    targets: dict[str, Target] = {_BARE: lambda: _round(arena, plan, "bare", bare)}
    if "replays" in parts:
        targets["service: replay of run"] = lambda: _round(arena, plan, "service", replays)
    if "reads" in parts:
        targets["service: GET /jobs/{id}"] = lambda: _round(arena, plan, "service", reads)
    return targets


def _round(arena: Arena, plan: Plan, name: str, requests: Sequence[bytes]) -> Round:
    arena.stub.reset()
    endless: Iterator[bytes] = cycle(requests)
    system = {"service": arena.service, "bare": arena.baseline}[name]
    port, processes = system.port, system.processes
    result = measure(name, port, processes, endless, _CALLERS, plan.read_seconds)
    statuses = set(result.statuses)
    expect(statuses == {200}, f"{name}: replays and reads answered {statuses}")
    posts = arena.stub.stats()["posts"]
    expect(posts == 0, f"{name}: replays and reads were posted {posts} times")
    return result


def _row(name: str, rounds: Sequence[Round], bare: Sequence[Round]) -> list[object]:
    speeds = [one.per_second for one in rounds]
    latencies = [latency for one in rounds for latency in one.latencies]
    return [
        name,
        f"{quantile(speeds, 0.5):.0f}",
        ratio(speeds, [one.per_second for one in bare]) if rounds is not bare else "1",
        f"{quantile(latencies, 0.5):.1f}",
        f"{quantile(latencies, 0.99):.1f}",
        f"{quantile([one.total_cpu for one in rounds], 0.5):.2f}",
    ]
