"""The report of a run: tables, the minimum that has to happen, and the stories of violations."""

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
from tests.chaos.logs_and_clocks import COMPILER
from tests.chaos.misbehaviour import SENDS_EXECUTION_ID
from tests.chaos.schedule import Fault, all_names

# From this length on, a run must have had every kind of fault and misbehaviour.
ALL_KINDS_SECONDS = 60
STORIES_SHOWN = 3


@dataclass
class Run:
    """What happened in a run, for the report."""

    seconds: float
    seed: int
    limit: HealingLimit
    scheduled: list[Fault]
    fired: Counter[str]
    queryable: bool = False
    emptied_messages: int = 0
    crashed: Counter[str] = field(default_factory=Counter)
    healed_after: float = 0.0
    healing: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @classmethod
    def from_stories(cls, seconds: float, seed: int) -> "Run":
        """An earlier run, of which only the stories were saved."""
        return cls(seconds, seed, HealingLimit({}), [], Counter())

    @property
    def command(self) -> str:
        """The command that repeats this run."""
        engine = "restate" if self.queryable else "webhook"
        return f"make chaos SECONDS={self.seconds:g} SEED={self.seed} ENGINE={engine}"


def operations(verdicts: list[JobVerdict]) -> Counter[str]:
    """Count the operations by kind and status."""
    counted: Counter[str] = Counter()
    for verdict in verdicts:
        for operation in verdict.story.operations:
            if operation.status is None or operation.status == 503:
                counted[f"{operation.kind}: ambiguous"] += 1
            else:
                counted[f"{operation.kind}: {operation.status}"] += 1
    return counted


def misbehaviours(verdicts: list[JobVerdict]) -> Counter[str]:
    """Count the posts by how the orchestrator treated them."""
    return Counter(entry["how"] for verdict in verdicts for entry in verdict.story.entries("post"))


def query_answers(verdicts: list[JobVerdict]) -> Counter[str]:
    """Count the queries by the state that the engine reported, or by how it failed to answer."""
    counted: Counter[str] = Counter()
    for verdict in verdicts:
        for entry in verdict.story.entries("ask"):
            counted[entry["state"] or entry["how"]] += 1
            counted["slowly"] += entry["how"] == "slowly"
    return counted


def deaths(verdicts: list[JobVerdict]) -> int:
    """Count the executions that died after they were accepted."""
    return sum(e["why"] == "died" for v in verdicts for e in v.story.entries("finished"))


def below_floor(run: Run, verdicts: list[JobVerdict]) -> Iterator[str]:
    """Yield what happened too rarely for the run to prove anything."""
    done, minutes = operations(verdicts), run.seconds / 60
    floors = {
        "run: 202": 15,
        "run: 200": 15,
        "run: 409": 10,
        "run: 502": 10,
        "run: ambiguous": 5,
        "retry: 202": 4,
        "retry: 409": 20,
        "cancel: 200": 3,
        "read: 200": 60,
        "callback: 204": 60,
        "callback: 200": 5,
        "callback: ambiguous": 5,
    }
    for name, a_minute in floors.items():
        if done[name] < int(a_minute * minutes):
            yield f"only {done[name]} of {name}, the floor is {int(a_minute * minutes)}"
    if run.crashed:
        yield f"processes crashed: {dict(run.crashed)}"
    unfired = Counter(fault.name for fault in run.scheduled)
    unfired.subtract(run.fired)
    if sum(count for count in unfired.values() if count > 0) > len(run.problems):
        yield f"scheduled faults did not fire: {+unfired}"
    if run.seconds >= ALL_KINDS_SECONDS:
        yield from _missing_kinds(run, verdicts)


def _missing_kinds(run: Run, verdicts: list[JobVerdict]) -> Iterator[str]:
    """Yield every kind of fault and misbehaviour that never occurred."""
    treated = misbehaviours(verdicts)
    if not run.emptied_messages:
        yield "no message was lost with the emptied queues"
    yield from (f"no fault of kind {name}" for name in sorted(all_names() - set(+run.fired)))
    least = {"refuse", "call_back_first", "accept_slowly", "reset_but_execute"}
    if any(verdict.story.mode == SENDS_EXECUTION_ID for verdict in verdicts):
        least.add("fork")
    least |= {"interim", "held"}
    yield from (f"the orchestrator never did: {how}" for how in least - set(treated))
    if not deaths(verdicts):
        yield "no execution died"
    if run.queryable:
        expected = {"running", "failed", "not_found", "reset", "gateway", "foreign_404", "slowly"}
        missing = expected - set(+query_answers(verdicts))
        yield from (f"the engine never answered: {answer}" for answer in missing)


def show(console: Console, run: Run, verdicts: list[JobVerdict]) -> None:
    """Print what happened, and the summary."""
    console.print(_counts("Faults fired", run.fired))
    console.print(_counts("The orchestrator's answers", misbehaviours(verdicts)))
    if run.queryable:
        console.print(_counts("The engine's answers to queries", query_answers(verdicts)))
    console.print(_counts("Operations and answers", operations(verdicts)))
    console.print(_summary(run, verdicts))
    if COMPILER is None:
        console.print("No clock was shifted: that needs a C compiler.")
    for problem in run.problems[:5]:
        console.print(f"  harness: {problem}", highlight=False)


def _is_listed_wrongly(story: JobStory) -> bool:
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
        "processes that crashed": sum(run.crashed.values()),
        "executions": sum(len(v.story.entries("execution")) for v in verdicts),
        "executions that died": deaths(verdicts),
        "superseded executions": sum(superseded_executions(v.story) for v in verdicts),
        "duplicates": sum(verdict.duplicates for verdict in verdicts),
        "lost": ends[LOST],
        "stuck": ends[STUCK],
        "unknown": ends[UNKNOWN],
        "listed as unknown, but known": sum(_is_listed_wrongly(v.story) for v in verdicts),
        "slowest healing": f"{run.healed_after:.1f} s (limit {run.limit.seconds:g} s)",
        "explained in the order of their trails": sum(verdict.as_recorded for verdict in verdicts),
        "undecided": sum(bool(verdict.undecided) for verdict in verdicts),
        "jobs with violations": sum(bool(verdict.violations) for verdict in verdicts),
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def show_open_jobs(console: Console, run: Run, verdicts: list[JobVerdict], directory: Path) -> None:
    """Print every violation and undecided job, and the first few stories; write all stories to a file."""
    open_jobs = [(verdict, _open_points(verdict)) for verdict in verdicts if _open_points(verdict)]
    stories = directory / "violations.txt"
    with stories.open("w") as file:
        for verdict, points in open_jobs:
            file.write(f"{verdict.story.text()}\n  VIOLATIONS:\n")
            file.writelines(f"    {point}\n" for point in points)
    for nth, (verdict, points) in enumerate(open_jobs):
        if nth < STORIES_SHOWN:
            console.print(verdict.story.text(), highlight=False, markup=False, soft_wrap=True)
        for point in points:
            line = f"{point[0]} job {verdict.story.number} {verdict.story.job_id}: {point[2:]}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    if open_jobs:
        summary = f"{len(open_jobs)} jobs, seed {run.seed}: stories in {stories}"
        console.print(summary, soft_wrap=True)


def _open_points(verdict: JobVerdict) -> list[str]:
    points = [f"✗ {violation}" for violation in verdict.violations]
    return [*points, f"? undecided: {verdict.undecided}"] if verdict.undecided else points
