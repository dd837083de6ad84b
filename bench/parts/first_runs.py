"""First runs: how many a second, how long callers wait, and the CPU and memory they take."""

from collections.abc import Callable, Sequence

from bench.comparison import Comparison
from bench.plan import Plan
from bench.report import Report
from bench.rounds import Round, first_runs, memory_bytes, quantile, ratio

_MOST_PER_SECOND = 4_000


def measure(comparison: Comparison, plan: Plan, levels: Sequence[int]) -> list[Round]:
    """Rounds of the service and of the bare program in turn, at each number of callers."""
    systems = (comparison.service, comparison.baseline)
    return [
        first_runs(system, comparison.stub, callers, plan.run_seconds, _MOST_PER_SECOND)
        for callers in levels
        for _ in range(plan.pairs if callers in plan.judged_callers else plan.pairs_for_the_chart)
        for system in systems
    ]


def of(rounds: Sequence[Round], system: str, callers: int) -> list[Round]:
    """The rounds of one system at one number of callers."""
    return [one for one in rounds if one.system == system and one.callers == callers]


def speeds_of(rounds: Sequence[Round], system: str, callers: int) -> list[float]:
    """Their runs a second."""
    return [one.per_second for one in of(rounds, system, callers)]


def report_speed(rounds: Sequence[Round], plan: Plan, report: Report) -> None:
    """Report throughput and waiting times."""
    rows = [_speed_row(rounds, callers) for callers in plan.callers]
    report.table(
        "First runs",
        ["callers", "service runs/s", "bare runs/s", "ratio", "service p50 ms", "bare p50 ms",
         "ratio", "service p99 ms", "bare p99 ms"],
        rows,
        "Ratios are of rounds taken in turn: median (least to most). Every round: POSTs = distinct "
        "jobs = runs answered 202.",
    )  # fmt: skip
    report.keep("first_runs", [one.numbers() for one in rounds])


def _speed_row(rounds: Sequence[Round], callers: int) -> list[object]:
    ours, theirs = of(rounds, "service", callers), of(rounds, "bare", callers)
    return [
        callers,
        *_medians(ours, theirs, lambda one: one.per_second, ".0f"),
        *_medians(ours, theirs, lambda one: one.quantile(0.5), ".1f"),
        f"{pooled(ours, 0.99):.1f}",
        f"{pooled(theirs, 0.99):.1f}",
    ]


def _medians(
    ours: Sequence[Round], theirs: Sequence[Round], quantity: Callable[[Round], float], form: str
) -> list[str]:
    our, their = list(map(quantity, ours)), list(map(quantity, theirs))
    middles = [format(quantile(values, 0.5), form) for values in (our, their)]
    return [*middles, str(ratio(our, their))]


def pooled(rounds: Sequence[Round], share: float) -> float:
    """A quantile over the calls of all rounds."""
    return quantile([latency for one in rounds for latency in one.latencies], share)


def report_cpu(rounds: Sequence[Round], comparison: Comparison, plan: Plan, report: Report) -> None:
    """Report CPU a run by process, and memory."""
    callers = plan.cpu_callers
    ours, theirs = of(rounds, "service", callers), of(rounds, "bare", callers)
    rows = [_cpu_row(name, ours, theirs, comparison) for name in ours[0].cpu]
    total = _medians(ours, theirs, lambda one: one.total_cpu, ".2f")
    helpers = [
        f"{name} {quantile([one.helpers_cpu[name] for one in ours], 0.5):.2f}"
        for name in ours[0].helpers_cpu
    ]
    report.table(
        f"CPU a run at {callers} callers (ms, user + system), and memory afterwards (MiB)",
        ["process", "service", "bare", "ratio", "service MiB", "bare MiB"],
        [*rows, ["all", *total, "", ""]],
        f"The helpers' own CPU a run of the service, in ms: {', '.join(helpers)}.",
    )
    report.keep("cpu", [one.numbers() for one in (*ours, *theirs)])


def _cpu_row(
    name: str, ours: Sequence[Round], theirs: Sequence[Round], comparison: Comparison
) -> list[object]:
    memory = [
        f"{memory_bytes(system.processes[name]) / 2**20:.0f}"
        for system in (comparison.service, comparison.baseline)
    ]
    return [name, *_medians(ours, theirs, lambda one: one.cpu[name], ".2f"), *memory]
