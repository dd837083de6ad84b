"""Flat: the same work with a hundred and with a million jobs in the store."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import repeat
from pathlib import Path

from bench import seeding
from bench.load import drive
from bench.plan import Plan
from bench.report import Report
from bench.rounds import Round, expect, first_runs, quantile, ratio
from bench.stub import Stub
from bench.systems import Service
from devstack.processes import ROOT, clean_environment
from store import keys

_CALLERS = 32
_PAGE = 50
_LIST_SECONDS = 0.5


def run(directory: Path, plan: Plan, report: Report) -> None:
    """Fill two stores, and measure runs, pages of the list and the sweep on both in turn."""
    with ExitStack() as running:
        stub = Stub(directory)
        running.callback(stub.terminate)
        stub.start()
        services = []
        for jobs in plan.flat_jobs:
            name = f"{jobs:,} jobs"
            # Without an append-only file: what is written to it does not depend on the stored jobs.
            service = Service(name, directory / str(jobs), stub, append_only=False)
            services.append(running.enter_context(service))
        memory = [
            _fill(service, jobs) for service, jobs in zip(services, plan.flat_jobs, strict=True)
        ]
        _report_memory(services[1], memory[1], plan, report)
        _report_runs(services, stub, plan, report)
        _report_lists(services, plan, report)
        _report_sweeps(services, report)


def _fill(service: Service, jobs: int) -> float:
    """Store copies of a job that has run; return the bytes of memory a job."""
    client, port = service.redis.client(), service.redis.port or 0
    (job_id,) = service.seed(1)
    load = drive(service.port, iter([service.run(job_id)]), 1, 30)
    expect(load.statuses[202] == 1, f"{service.name}: the first run answered {load.statuses}")
    template = seeding.copy_of_job(port, job_id)
    before = int(client.info("memory")["used_memory"])
    seeding.store_copies(port, template, seeding.ids(jobs))
    return (int(client.info("memory")["used_memory"]) - before) / jobs


def _report_memory(service: Service, total: float, plan: Plan, report: Report) -> None:
    client = service.redis.client()
    (entry,) = client.zrange(keys.project_jobs(service.project_id), 1, 1)
    job_id = str(entry)[-len(seeding.PLACEHOLDER) :]
    parts = {
        "job": keys.job(job_id), "claim": keys.claim(job_id), "trail": keys.trail(job_id),
    }  # fmt: skip
    sizes = {name: client.memory_usage(key) or 0 for name, key in parts.items()}
    lines = client.llen(keys.trail(job_id))
    report.table(
        "Redis memory a job that has run (bytes)",
        [*sizes, "all, with its places in the lists"],
        [[*sizes.values(), f"{total:.0f}"]],
        f"The trail has {lines} lines. Measured over {plan.flat_jobs[1]:,} jobs.",
    )
    report.keep("memory", {**sizes, "all": total})


def _report_runs(services: Sequence[Service], stub: Stub, plan: Plan, report: Report) -> None:
    rounds: list[list[Round]] = [[], []]
    for service in services:
        first_runs(service, stub, _CALLERS, 1.0)
    for _ in range(plan.flat_pairs):
        for place, service in enumerate(services):
            rounds[place].append(first_runs(service, stub, _CALLERS, plan.run_seconds))
    few, many = ([one.per_second for one in side] for side in rounds)
    few_cpu, many_cpu = ([one.total_cpu for one in side] for side in rounds)
    report.table(
        f"First runs at {_CALLERS} callers, by jobs in the store",
        ["", *(service.name for service in services), "ratio"],
        [
            ["runs/s", _middle(few, ".0f"), _middle(many, ".0f"), ratio(many, few)],
            ["CPU ms a run", _middle(few_cpu, ".2f"), _middle(many_cpu, ".2f"),
             ratio(many_cpu, few_cpu)],
        ],
    )  # fmt: skip
    report.keep("flat_runs", [one.numbers() for side in rounds for one in side])


def _middle(values: Sequence[float], form: str) -> str:
    return format(quantile(values, 0.5), form)


def _report_lists(services: Sequence[Service], plan: Plan, report: Report) -> None:
    rows = []
    for place, share in (("first", 0.0), ("middle", 0.5), ("last", 1.0)):
        waits = [
            _list(service, int(share * (jobs - _PAGE)))
            for service, jobs in zip(services, plan.flat_jobs, strict=True)
        ]
        rows.append([f"{place} page", *(f"{wait:.2f}" for wait in waits)])
    unmatched = [_list(service, 0, "&status=FAILED") for service in services]
    rows.append(["first page of a state that none is in", *(f"{wait:.2f}" for wait in unmatched)])
    own = [_page(service, f"/api/v1/jobs?limit={_PAGE}") for service in services]
    rows.append(["first page of all jobs of a user", *(f"{wait:.2f}" for wait in own)])
    names = [f"{service.name} in the project" for service in services]
    report.table(f"A page of {_PAGE} jobs, one caller, p50 in ms", ["", *names], rows)
    report.keep("flat_lists", rows)


def _list(service: Service, start: int, filtered: str = "") -> float:
    path = f"/api/v1/projects/{service.project_id}/jobs?limit={_PAGE}{filtered}"
    if start:
        name = keys.project_jobs(service.project_id)
        path += f"&cursor={service.redis.client().zrange(name, start - 1, start - 1)[0]}"
    return _page(service, path)


def _page(service: Service, path: str) -> float:
    requests: Iterator[bytes] = repeat(service.get(path))
    load = drive(service.port, requests, 1, _LIST_SECONDS)
    expect(set(load.statuses) == {200}, f"{path} answered {dict(load.statuses)}")
    return quantile(load.latencies, 0.5) * 1000


def _report_sweeps(services: Sequence[Service], report: Report) -> None:
    costs = [_sweep(service) for service in services]
    report.table(
        "A sweep, p50 in ms",
        ["", *(service.name for service in services)],
        [[what, *(f"{cost[what]:.2f}" for cost in costs)] for what in costs[0]],
    )
    report.keep("flat_sweeps", costs)


def _sweep(service: Service) -> dict[str, float]:
    service.stack.stop()  # its worker would sweep too; Redis keeps running
    environment = clean_environment(service.stack.settings)
    command = [sys.executable, "-m", "bench.sweep_cost", service.project_id]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, timeout=60, check=True
    )
    costs: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return costs
