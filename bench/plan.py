"""How much is measured: everything in less than five minutes, or a smoke test of it."""

from dataclasses import dataclass

PARTS = ("first-runs", "replays", "reads", "cpu", "flat", "slow")


@dataclass(frozen=True)
class Plan:
    """Callers, pairs of rounds, seconds a round, jobs in the store, delays of the orchestrator and their
    seconds.

    `judged_callers` are those that the goals name; the others are for the chart.
    """

    callers: tuple[int, ...] = (1, 8, 32, 64, 128)
    judged_callers: tuple[int, ...] = (1, 32, 128)
    cpu_callers: int = 32
    pairs: int = 5
    pairs_for_the_chart: int = 2
    run_seconds: float = 2.0
    read_pairs: int = 12
    read_seconds: float = 0.8
    flat_jobs: tuple[int, int] = (100, 1_000_000)
    flat_pairs: int = 4
    delays: tuple[tuple[float, float], ...] = ((0.05, 3.0), (0.5, 5.0), (5.0, 15.5))
    slow_concurrency: int = 8
    slow_callers: int = 48
    workers_pairs: int = 3
    workers_seconds: float = 3.0


FULL = Plan()
SMOKE = Plan(
    callers=(1, 8),
    judged_callers=(1, 8),
    cpu_callers=8,
    pairs=1,
    pairs_for_the_chart=1,
    run_seconds=0.5,
    read_pairs=1,
    read_seconds=0.3,
    flat_jobs=(100, 2_000),
    flat_pairs=1,
    delays=((0.05, 1.0),),
    workers_pairs=1,
    workers_seconds=1.0,
)
