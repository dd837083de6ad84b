"""The table at the end, the floor that a run must not stay below, and the stories of what went wrong."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.chaos.checker import JobVerdict
from tests.chaos.ends import LOST, STUCK, UNKNOWN, superseded_executions
from tests.chaos.history import JobStory
from tests.chaos.limits import HealingLimit
from tests.chaos.misbehaviour import NAMES_EXECUTIONS
from tests.chaos.schedule import Fault, all_names
from tests.chaos.weather import COMPILER

# From this many seconds on, every kind of fault and of misbehaviour must have come up.
WHOLE_DECK_SECONDS = 60
STORIES_SHOWN = 3


@dataclass
class Run:
    """What a run did, for the report."""

    seconds: float
    seed: int
    limit: HealingLimit
    scheduled: list[Fault]
    fired: Counter[str]
    asks: bool = False
    emptied_messages: int = 0
    died_by_themselves: Counter[str] = field(default_factory=Counter)
    healed_after: float = 0.0
    healing: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of_the_past(cls, seconds: float, seed: int) -> "Run":
        """A run of which only the stories are left."""
        return cls(seconds, seed, HealingLimit({}), [], Counter())

    @property
    def command(self) -> str:
        """What repeats this run."""
        engine = "restate" if self.asks else "webhook"
        return f"make chaos SECONDS={self.seconds:g} SEED={self.seed} ENGINE={engine}"


def operations(verdicts: list[JobVerdict]) -> Counter[str]:
    """How many operations there were of each kind and answer."""
    counted: Counter[str] = Counter()
    for verdict in verdicts:
        for operation in verdict.story.operations:
            if operation.status is None or operation.status == 503:
                counted[f"{operation.kind}: either"] += 1
            else:
                counted[f"{operation.kind}: {operation.status}"] += 1
    return counted


def misbehaviours(verdicts: list[JobVerdict]) -> Counter[str]:
    """How the orchestrator treated the posts."""
    return Counter(entry["how"] for verdict in verdicts for entry in verdict.story.entries("post"))


def asks(verdicts: list[JobVerdict]) -> Counter[str]:
    """How the engine answered when it was asked: what it said, or how it did not."""
    told: Counter[str] = Counter()
    for verdict in verdicts:
        for entry in verdict.story.entries("ask"):
            told[entry["state"] or entry["how"]] += 1
            told["slowly"] += entry["how"] == "slowly"
    return told


def deaths(verdicts: list[JobVerdict]) -> int:
    """How many executions died after they were accepted."""
    return sum(e["why"] == "died" for v in verdicts for e in v.story.entries("finished"))


def below_floor(run: Run, verdicts: list[JobVerdict]) -> Iterator[str]:
    """What there was too little of for the run to prove anything."""
    done, minutes = operations(verdicts), run.seconds / 60
    floors = {
        "run: 202": 15,
        "run: 200": 15,
        "run: 409": 10,
        "run: 502": 10,
        "run: either": 5,
        "retry: 202": 4,
        "retry: 409": 20,
        "cancel: 200": 3,
        "read: 200": 60,
        "callback: 204": 60,
        "callback: 200": 5,
        "callback: either": 5,
    }
    for name, a_minute in floors.items():
        if done[name] < int(a_minute * minutes):
            yield f"only {done[name]} of {name}, the floor is {int(a_minute * minutes)}"
    if run.died_by_themselves:
        yield f"processes died by themselves: {dict(run.died_by_themselves)}"
    unfired = Counter(fault.name for fault in run.scheduled)
    unfired.subtract(run.fired)
    if sum(count for count in unfired.values() if count > 0) > len(run.problems):
        yield f"scheduled faults did not fire: {+unfired}"
    if run.seconds >= WHOLE_DECK_SECONDS:
        yield from _missing_kinds(run, verdicts)


def _missing_kinds(run: Run, verdicts: list[JobVerdict]) -> Iterator[str]:
    """Every kind of fault and of misbehaviour that never came up."""
    treated = misbehaviours(verdicts)
    if not run.emptied_messages:
        yield "no message was lost with the emptied queues"
    yield from (f"no fault of kind {name}" for name in sorted(all_names() - set(+run.fired)))
    least = {"refuse", "call_back_first", "accept_slowly", "reset_but_execute"}
    if any(verdict.story.mode == NAMES_EXECUTIONS for verdict in verdicts):
        least.add("fork")
    least |= {"interim", "held"}
    yield from (f"the orchestrator never did: {how}" for how in least - set(treated))
    if not deaths(verdicts):
        yield "no execution died"
    if run.asks:
        said = {"running", "failed", "not_found", "reset", "gateway", "foreign_404", "slowly"}
        yield from (f"the engine never said: {word}" for word in said - set(+asks(verdicts)))


def show(console: Console, run: Run, verdicts: list[JobVerdict]) -> None:
    """Print what happened, and the table."""
    console.print(_counts("Faults fired", run.fired))
    console.print(_counts("The orchestrator's answers", misbehaviours(verdicts)))
    if run.asks:
        console.print(_counts("The engine's answers when asked", asks(verdicts)))
    console.print(_counts("Operations and answers", operations(verdicts)))
    console.print(_summary(run, verdicts))
    if COMPILER is None:
        console.print("No clock was ahead or behind: that needs a C compiler.")
    for problem in run.problems[:5]:
        console.print(f"  harness: {problem}", highlight=False)


def _is_listed_for_nothing(story: JobStory) -> bool:
    return story.listed_unknown and (story.claim or {}).get("phase") != "UNKNOWN"


def _counts(title: str, counted: Counter[str]) -> Table:
    table = Table(
        title=f"{title}: {sum(counted.values())}", show_header=False, title_justify="left"
    )
    pairs = [f"{name} {count}" for name, count in sorted(counted.items()) if count]
    for start in range(0, len(pairs), 3):
        table.add_row(*pairs[start : start + 3])
    return table


def _summary(run: Run, verdicts: list[JobVerdict]) -> Table:
    ends = Counter(verdict.end for verdict in verdicts)
    done = operations(verdicts)
    by_kind: Counter[str] = Counter()
    for name, count in run.fired.items():
        by_kind[name.split()[0]] += count
    table = Table(title=f"{run.command}", show_header=False, title_justify="left")
    rows: dict[str, object] = {
        "jobs": len(verdicts),
        **{f"  {end}": count for end, count in sorted(ends.items())},
        "runs": sum(count for name, count in done.items() if name.startswith("run:")),
        "faults": sum(by_kind.values()),
        **{f"  {kind}": count for kind, count in sorted(by_kind.items())},
        "messages lost with emptied queues": run.emptied_messages,
        "processes that died by themselves": sum(run.died_by_themselves.values()),
        "executions": sum(len(v.story.entries("execution")) for v in verdicts),
        "executions that died": deaths(verdicts),
        "superseded executions": sum(superseded_executions(v.story) for v in verdicts),
        "duplicates": sum(verdict.duplicates for verdict in verdicts),
        "lost": ends[LOST],
        "stuck": ends[STUCK],
        "unknown": ends[UNKNOWN],
        "listed as unknown, but known": sum(_is_listed_for_nothing(v.story) for v in verdicts),
        "slowest healing": f"{run.healed_after:.1f} s (limit {run.limit.seconds:g} s)",
        "explained in the order of their trails": sum(verdict.as_recorded for verdict in verdicts),
        "undecided": sum(bool(verdict.undecided) for verdict in verdicts),
        "jobs with violations": sum(bool(verdict.violations) for verdict in verdicts),
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def tell_open_jobs(console: Console, run: Run, verdicts: list[JobVerdict], directory: Path) -> None:
    """Print every violation and every undecided job, the first jobs' whole stories, and where the
    others are.
    """
    told = [(verdict, _open_points(verdict)) for verdict in verdicts if _open_points(verdict)]
    stories = directory / "violations.txt"
    with stories.open("w") as file:
        for verdict, points in told:
            file.write(f"{verdict.story.told()}\n  VIOLATIONS:\n")
            file.writelines(f"    {point}\n" for point in points)
    for nth, (verdict, points) in enumerate(told):
        if nth < STORIES_SHOWN:
            console.print(verdict.story.told(), highlight=False, markup=False, soft_wrap=True)
        for point in points:
            line = f"{point[0]} job {verdict.story.number} {verdict.story.job_id}: {point[2:]}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    if told:
        console.print(f"{len(told)} jobs, seed {run.seed}: stories in {stories}", soft_wrap=True)


def _open_points(verdict: JobVerdict) -> list[str]:
    points = [f"✗ {violation}" for violation in verdict.violations]
    return [*points, f"? undecided: {verdict.undecided}"] if verdict.undecided else points
