"""The benchmark's command line: `python -m bench --help`; see README.md in this directory."""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.chart import draw
from bench.comparison import Comparison, comparison
from bench.load import LoadFailedError
from bench.parts import first_runs, flat, replays, slow
from bench.plan import FULL, PARTS, SMOKE, Plan
from bench.report import Report, machine
from bench.rounds import WrongResultError
from devstack.local_stack import treat_sigterm_as_ctrl_c
from devstack.processes import ROOT, ProcessFailedError

_TABLES = "## The last run"


def main() -> int:
    """Measure the parts; return 0, or 1 if a measured system gave a wrong result."""
    options = _options()
    treat_sigterm_as_ctrl_c()
    plan = SMOKE if options.smoke else FULL
    report, began = Report(), time.monotonic()
    report.keep("machine", machine())
    try:
        with tempfile.TemporaryDirectory(prefix="takeone-bench-") as directory:
            _measure(Path(directory), plan, options, report)
    except (WrongResultError, LoadFailedError, ProcessFailedError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    report.keep("seconds", round(time.monotonic() - began))
    _write(options.out, report)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures Take One.")
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--only", type=_parts, default=PARTS, help=f"some of {','.join(PARTS)}")
    parser.add_argument("--out", type=Path, help="directory of the chart and the raw numbers")
    options = parser.parse_args()
    if options.out is None:
        whole = not options.smoke and set(options.only) == set(PARTS)
        options.out = ROOT / ("docs" if whole else "artifacts/bench")
    return options


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in text.split(","))
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise argparse.ArgumentTypeError(f"no such part: {', '.join(sorted(unknown))}")
    return parts


def _measure(directory: Path, plan: Plan, options: argparse.Namespace, report: Report) -> None:
    parts = options.only
    if {"first-runs", "cpu", "replays", "reads"} & set(parts):
        with comparison(directory / "comparison") as running:
            _measure_runs_and_reads(running, plan, parts, options.out, report)
    if "flat" in parts:
        flat.run(directory / "flat", plan, report)
    if "slow" in parts:
        slow.run(directory / "slow", plan, report)


def _measure_runs_and_reads(
    running: Comparison, plan: Plan, parts: Sequence[str], out: Path, report: Report
) -> None:
    rounds = []
    if "first-runs" in parts:
        rounds = first_runs.measure(running, plan, plan.callers)
        first_runs.report_speed(rounds, plan, report)
        draw(rounds, plan.callers, out / "performance.png")
    if "cpu" in parts:
        rounds = rounds or first_runs.measure(running, plan, [plan.cpu_callers])
        first_runs.report_cpu(rounds, running, plan, report)
    if {"replays", "reads"} & set(parts):
        replays.run(running, plan, parts, report)


def _write(out: Path, report: Report) -> None:
    """Write the raw numbers, and replace the page's tables; the prose above them is written by hand."""
    out.mkdir(parents=True, exist_ok=True)
    numbers = json.dumps(report.raw, indent=1, default=str)
    (out / "performance.json").write_text(numbers + "\n")
    page = out / "performance.md"
    prose = page.read_text().partition(_TABLES)[0] if page.exists() else ""
    page.write_text("\n".join([f"{prose}{_TABLES}\n", *report.texts]))
    print(f"Took {report.raw['seconds']} s; the numbers are in {out}")


if __name__ == "__main__":
    sys.exit(main())
