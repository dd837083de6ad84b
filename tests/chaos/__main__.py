"""Run the service under faults, let it heal, and check what happened.

Exit status: 0 if every promise held, 1 if one was broken, 2 if none was but the checker gave up on a job.
"""

import argparse
import shutil
import sys
from pathlib import Path

from rich.console import Console

from devstack.local_stack import treat_sigterm_as_ctrl_c
from devstack.processes import ROOT
from tests.chaos import faults, healing, report, sabotage, schedule
from tests.chaos.checker import Rules, check
from tests.chaos.clients import ClientPool
from tests.chaos.history import History, JobStory, load_stories, moment, save_stories
from tests.chaos.limits import HOLD_SECONDS, healing_limit
from tests.chaos.world import World

STORIES = "stories.json.gz"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=180, help="of load and faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fsync", choices=["always", "everysec"], default="always")
    parser.add_argument(
        "--idempotent",
        choices=["by-seed", "yes", "no"],
        default="by-seed",
        help="whether the orchestrator honours the Idempotency-Key for every job; by-seed: every third seed",
    )
    parser.add_argument(
        "--engine",
        choices=["by-seed", "webhook", "restate"],
        default="by-seed",
        help="the orchestrator's protocol: a webhook, or Restate's, which can be queried; by-seed: Restate on "
        "every second seed",
    )
    parser.add_argument(
        "--sabotage",
        choices=sorted(sabotage.SABOTAGES),
        help="falsify one job; the check must fail",
    )
    parser.add_argument("--directory", type=Path, help="keep data, logs and stories here")
    parser.add_argument("--recheck", type=Path, help="check the stories of an earlier run again")
    return parser.parse_args()


def main() -> int:
    treat_sigterm_as_ctrl_c()
    options = arguments()
    console = Console(width=110)
    engine = options.engine
    if engine == "by-seed":
        engine = "webhook" if options.seed % 2 else "restate"
    queryable = engine == "restate"
    declared = (
        options.seed % 3 == 0 if options.idempotent == "by-seed" else options.idempotent == "yes"
    )
    all_idempotent = declared or queryable
    rules = Rules(0 if all_idempotent else HOLD_SECONDS, all_idempotent, queryable)
    directory = options.directory or ROOT / "artifacts" / "chaos" / f"seed-{options.seed}"
    directory = directory / f"{moment():.0f}"
    if options.recheck:
        directory = options.recheck.parent
        stories = load_stories(options.recheck)
        run = None
    else:
        directory.mkdir(parents=True)
        world = World(directory, options.seed, options.fsync, all_idempotent, engine)
        run, stories = chaos(console, world, options.seconds)
        save_stories(stories, directory / STORIES)
    return judge(console, run, stories, rules, directory, options)


def chaos(console: Console, world: World, seconds: float) -> tuple[report.Run, list[JobStory]]:
    """Apply load and faults, then wait for healing; return the run and each job's story."""
    planned = schedule.schedule(world.seed, seconds)
    limit = healing_limit(world.settings)
    keys = "honours every key" if world.all_idempotent else "mixed, job by job"
    engine = "Restate's protocol" if world.queryable else f"webhook, {keys}"
    console.print(
        f"seed {world.seed}, {seconds:g} s, {len(planned)} faults, orchestrator: {engine}"
    )
    console.print(f"healing limit: {limit}", soft_wrap=True)
    history, injector = History(), faults.Injector(world, planned)
    clients = ClientPool(world, history)
    with world:
        clients.start()
        injector.start()
        injector.wait(seconds)
        clients.stop()
        injector.stop()
        run = report.Run(seconds, world.seed, limit, planned, injector.fired)
        _heal(world, clients, injector, run)
        run.emptied_messages = injector.emptied_messages
        run.crashed = injector.crashed
        run.problems = injector.problems + clients.problems
        return run, healing.gather(world, clients.jobs, history)


def _heal(world: World, clients: ClientPool, injector: faults.Injector, run: report.Run) -> None:
    """Wait for healing without outside help; then run every second job once more, and read all."""
    world.calm_orchestrator()
    run.healed_after, run.healing = healing.wait_until_healed(
        world, clients, run.limit.seconds, injector.supervise
    )
    clients.call_once_more([job for job in clients.jobs if job.number % 2 == 0], "run")
    healing.wait_until_healed(world, clients, run.limit.seconds, injector.supervise)
    clients.call_once_more(clients.jobs, "read")


def judge(
    console: Console,
    run: report.Run | None,
    stories: list[JobStory],
    rules: Rules,
    directory: Path,
    options: argparse.Namespace,
) -> int:
    """Check the stories and print the report; return the exit code."""
    if options.sabotage:
        stories = sabotage.SABOTAGES[options.sabotage](stories)
    verdicts = check(stories, rules)
    run = run or report.Run.from_stories(options.seconds, options.seed)
    run.queryable = rules.queryable
    report.show(console, run, verdicts)
    report.show_open_jobs(console, run, verdicts, directory)
    shortfalls = list(report.below_floor(run, verdicts)) if not options.recheck else []
    for shortfall in shortfalls:
        console.print(f"✗ not enough happened: {shortfall}")
    failed = bool(shortfalls) or any(verdict.violations for verdict in verdicts)
    undecided = any(verdict.undecided for verdict in verdicts)
    if not (failed or undecided or options.directory or options.recheck):
        shutil.rmtree(directory)
    result, code = ("✗ FAILED", 1) if failed else ("? UNDECIDED", 2) if undecided else ("✓ held", 0)
    console.print(f"{result}: {run.command}")
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nStopped; no process is left running.")
        sys.exit(130)
