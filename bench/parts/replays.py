"""Replays and reads, against the replays of the bare program."""

from collections.abc import Callable, Sequence
from itertools import cycle

from bench.comparison import Comparison
from bench.load import drive
from bench.plan import Plan
from bench.report import Report
from bench.rounds import Round, expect, measure, quantile, ratio
from bench.systems import Service, System

_CALLERS = 32
_JOBS = 200
_BARE = "bare: replay of run"

Target = Callable[[], Round]


def run(comparison: Comparison, plan: Plan, parts: Sequence[str], report: Report) -> None:
    """Measure replays and reads, whichever are among `parts`, in turn with the bare program's replays."""
    settings = {"TAKEONE_WEB_PROCESSES": "2"}
    with Service(
        "service", comparison.directory / "two", comparison.stub, settings=settings
    ) as doubled:
        rounds = _rounds(_targets(comparison, doubled, plan, parts), plan)
    report.table(
        f"Replays and reads at {_CALLERS} callers",
        ["what", "calls/s", "against bare replays", "p50 ms", "p99 ms", "CPU ms a call"],
        [_row(name, taken, rounds[_BARE]) for name, taken in rounds.items()],
        "No replay was posted.",
    )
    report.keep(
        "replays", {name: [one.numbers() for one in taken] for name, taken in rounds.items()}
    )


def _rounds(targets: dict[str, Target], plan: Plan) -> dict[str, list[Round]]:
    rounds: dict[str, list[Round]] = {name: [] for name in targets}
    for warm_up in targets.values():
        warm_up()
    for _ in range(plan.read_pairs):
        for name, target in targets.items():
            rounds[name].append(target())
    return rounds


def _targets(
    comparison: Comparison, doubled: Service, plan: Plan, parts: Sequence[str]
) -> dict[str, Target]:
    service, bare = comparison.service, comparison.baseline
    ids = _run_jobs(service)

    def target(system: System, requests: Sequence[bytes]) -> Target:
        return lambda: _round(comparison, plan, system, requests)

    targets = {_BARE: target(bare, [bare.run(job_id) for job_id in _run_jobs(bare)])}
    if "replays" in parts:
        replays = [doubled.run(job_id) for job_id in _run_jobs(doubled)]
        targets["service: replay of run"] = target(service, [service.run(one) for one in ids])
        targets["the same, two web processes"] = target(doubled, replays)
    if "reads" in parts:
        reads = [service.get(f"/api/v1/jobs/{job_id}") for job_id in ids]
        targets["service: GET /jobs/{id}"] = target(service, reads)
    return targets


def _run_jobs(system: System) -> list[str]:
    """Store jobs, run each, and return their ids."""
    ids = system.seed(_JOBS)
    drive(system.port, (system.run(job_id) for job_id in ids), 16, 60)
    return ids


def _round(comparison: Comparison, plan: Plan, system: System, requests: Sequence[bytes]) -> Round:
    comparison.stub.reset()
    result = measure(
        system.name, system.port, system.processes, cycle(requests), _CALLERS, plan.read_seconds
    )
    statuses = set(result.statuses)
    expect(statuses == {200}, f"{system.name}: replays and reads answered {statuses}")
    posts = comparison.stub.stats()["posts"]
    expect(posts == 0, f"{system.name}: replays and reads were posted {posts} times")
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
