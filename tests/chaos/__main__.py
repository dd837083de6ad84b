"""Runs the world, breaks it, lets it heal, and judges: exit 0 if the promise held, 1 if not.

Exit 2 if it was not broken as far as can be told, and a job is undecided.
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
from tests.chaos.clients import Crowd
from tests.chaos.history import History, JobStory, load_stories, moment, save_stories
from tests.chaos.limits import HOLD_SECONDS, healing_limit
from tests.chaos.world import World

STORIES = "stories.json.gz"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=180, help="of load and faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fsync", choices=["always", "everysec"], default="always")
    parser.add_argument(
        "--deduplicates",
        choices=["by-seed", "yes", "no"],
        default="by-seed",
        help="declare that the orchestrator deduplicates; by-seed: every third seed",
    )
    parser.add_argument(
        "--engine",
        choices=["by-seed", "webhook", "restate"],
        default="by-seed",
        help="what the orchestrator speaks: a webhook, or Restate's protocol, which can be asked; by-seed: "
        "every second seed",
    )
    parser.add_argument("--sabotage", choices=sorted(sabotage.SABOTAGES), help="must be noticed")
    parser.add_argument("--directory", type=Path, help="keep data, logs and stories here")
    parser.add_argument("--recheck", type=Path, help="check the stories of an earlier run again")
    return parser.parse_args()


def main() -> int:
    """Run, or check again."""
    treat_sigterm_as_ctrl_c()
    options = arguments()
    console = Console(width=110)
    declared = options.seed % 3 == 0 if options.deduplicates == "by-seed" else None
    all_deduplicate = options.deduplicates == "yes" if declared is None else declared
    engine = options.engine
    if engine == "by-seed":
        engine = "webhook" if options.seed % 2 else "restate"
    asks = engine == "restate"
    all_deduplicate = all_deduplicate or asks
    rules = Rules(0 if all_deduplicate else HOLD_SECONDS, all_deduplicate, asks)
    directory = options.directory or ROOT / "artifacts" / "chaos" / f"seed-{options.seed}"
    directory = directory / f"{moment():.0f}"
    if options.recheck:
        directory = options.recheck.parent
        stories = load_stories(options.recheck)
        run = None
    else:
        directory.mkdir(parents=True)
        world = World(directory, options.seed, options.fsync, all_deduplicate, engine)
        run, stories = chaos(console, world, options.seconds)
        save_stories(stories, directory / STORIES)
    return judge(console, run, stories, rules, directory, options)


def chaos(console: Console, world: World, seconds: float) -> tuple[report.Run, list[JobStory]]:
    """Load and faults, then healing; return what happened."""
    planned = schedule.schedule(world.seed, seconds)
    limit = healing_limit(world.settings)
    dedup = "declared to deduplicate" if world.all_deduplicate else "mixed, job by job"
    engine = "Restate's protocol" if world.asks else f"webhook, {dedup}"
    console.print(
        f"seed {world.seed}, {seconds:g} s, {len(planned)} faults, orchestrator: {engine}"
    )
    console.print(f"healing limit: {limit}", soft_wrap=True)
    history, injector = History(), faults.Injector(world, planned)
    crowd = Crowd(world, history)
    with world:
        crowd.start()
        injector.start()
        injector.wait(seconds)
        crowd.stop()
        injector.stop()
        run = report.Run(seconds, world.seed, limit, planned, injector.fired)
        _heal(world, crowd, injector, run)
        run.emptied_messages = injector.emptied_messages
        run.died_by_themselves = injector.died_by_themselves
        run.problems = injector.problems + crowd.problems
        return run, healing.gather(world, crowd.jobs, history)


def _heal(world: World, crowd: Crowd, injector: faults.Injector, run: report.Run) -> None:
    """Let everything heal by itself; then one more run of every second job, and a read of all."""
    world.calm_orchestrator()
    run.healed_after, run.healing = healing.wait_until_healed(
        world, crowd, run.limit.seconds, injector.supervise
    )
    crowd.call_once_more([job for job in crowd.jobs if job.number % 2 == 0], "run")
    healing.wait_until_healed(world, crowd, run.limit.seconds, injector.supervise)
    crowd.call_once_more(crowd.jobs, "read")


def judge(
    console: Console,
    run: report.Run | None,
    stories: list[JobStory],
    rules: Rules,
    directory: Path,
    options: argparse.Namespace,
) -> int:
    """Check the stories, print the report; return the exit code."""
    if options.sabotage:
        stories = sabotage.SABOTAGES[options.sabotage](stories)
    verdicts = check(stories, rules)
    run = run or report.Run.of_the_past(options.seconds, options.seed)
    run.asks = rules.asks
    report.show(console, run, verdicts)
    report.tell_open_jobs(console, run, verdicts, directory)
    shortfalls = list(report.below_floor(run, verdicts)) if not options.recheck else []
    for shortfall in shortfalls:
        console.print(f"✗ proves too little: {shortfall}")
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
        print("\nStopped, and no process is left.")
        sys.exit(130)
