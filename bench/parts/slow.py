"""A slow orchestrator: dispatches in flight reach the configured concurrency, and never exceed it."""

import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.load import Load, drive
from bench.plan import Plan
from bench.report import Report
from bench.rounds import expect, quantile, ratio
from bench.stub import Stub
from bench.systems import Service
from devstack.waiting import wait_until

_WORKERS_DELAY = 0.05
_DRAIN_SECONDS = 60.0


def run(directory: Path, plan: Plan, report: Report) -> None:
    """Measure two workers and one in turn, then one worker under each delay."""
    settings = {"TAKEONE_WORKER_CONCURRENCY": str(plan.slow_concurrency)}
    with ExitStack() as running:
        services = []
        for number in (1, 2):
            stub = Stub(directory, f"orchestrator-of-{number}")
            running.callback(stub.terminate)
            stub.start()
            service = Service(
                f"{number} workers", directory / f"workers-{number}", stub,
                workers=number, settings=settings,
            )  # fmt: skip
            services.append((running.enter_context(service), stub))
        _two_workers(services, plan, report)
        _delays(*services[0], plan, report)


def _two_workers(services: list[tuple[Service, Stub]], plan: Plan, report: Report) -> None:
    speeds: dict[str, list[float]] = {service.name: [] for service, _ in services}
    for _ in range(plan.workers_pairs):
        for service, stub in services:
            stats = _load(service, stub, _WORKERS_DELAY, plan.workers_seconds, plan)[1]
            speeds[service.name].append(stats["answered_per_second"])
    one, two = speeds.values()
    report.table(
        f"Two workers against one; the orchestrator takes {_WORKERS_DELAY * 1000:.0f} ms, "
        f"each worker {plan.slow_concurrency} at a time",
        ["1 worker runs/s", "2 workers runs/s", "ratio"],
        [[f"{quantile(one, 0.5):.0f}", f"{quantile(two, 0.5):.0f}", ratio(two, one)]],
    )
    report.keep("two_workers", speeds)


def _delays(service: Service, stub: Stub, plan: Plan, report: Report) -> None:
    rows, raw = [], []
    for delay, seconds in plan.delays:
        load, stats = _load(service, stub, delay, seconds, plan)
        most, limit = stats["most_in_flight"], plan.slow_concurrency
        expect(most <= limit, f"{most} dispatches in flight, {limit} allowed")
        rows.append(_delay_row(delay, limit, load, stats))
        raw.append({"delay": delay, "callers": plan.slow_callers, **stats})
        raw[-1]["statuses"] = dict(load.statuses)
    report.table(
        f"Slow orchestrator, {plan.slow_callers} callers, concurrency {plan.slow_concurrency}",
        ["delay", "runs/s λ", "time inside W", "λ·W", "mean in flight", "most in flight",
         "allowed", "p99 wait s"],
        rows,
        "Little's law: λ·W is the mean in flight. A caller whose wait of 10 s ends is also answered "
        "202, while the dispatch continues.",
    )  # fmt: skip
    report.keep("slow", raw)


def _delay_row(delay: float, limit: int, load: Load, stats: dict[str, Any]) -> list[object]:
    rate, inside = stats["answered_per_second"], stats["mean_seconds"]
    return [
        f"{delay * 1000:.0f} ms",
        f"{rate:.1f}",
        f"{inside * 1000:.0f} ms",
        f"{rate * inside:.1f}",
        f"{stats['mean_in_flight']:.1f}",
        stats["most_in_flight"],
        limit,
        f"{quantile(load.latencies, 0.99):.2f}",
    ]


def _load(
    service: Service, stub: Stub, delay: float, seconds: float, plan: Plan
) -> tuple[Load, dict[str, Any]]:
    """Load the service, read the stub when the load ends, and let the rest finish without a delay."""
    ids = service.seed(int(seconds * 2 * plan.slow_concurrency / delay) + 200)
    stub.reset(delay)
    stats: dict[str, Any] = {}
    reader = threading.Timer(seconds, lambda: stats.update(_end_delay(stub)))
    reader.start()
    requests = (service.run(job_id) for job_id in ids)
    load = drive(service.port, requests, plan.slow_callers, seconds)
    reader.join()
    wait_until(lambda: stub.stats()["posts"] >= load.done, _DRAIN_SECONDS, "the rest is posted")
    after = stub.stats()
    expect(after["posts"] == after["distinct"] == load.done, f"{load.done} runs, posted: {after}")
    return load, stats


def _end_delay(stub: Stub) -> dict[str, Any]:
    stats = stub.stats()
    stub.set_delay(0.0)
    return stats
