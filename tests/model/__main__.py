"""Explores every scenario and prints a table: `python -m tests.model`. Exit 1 if an invariant broke."""

import sys

from tests.model.explorer import explore
from tests.model.scenarios import SCENARIOS, WIDER


def main() -> int:
    """Print the table (seconds are of CPU); return the exit code."""
    print(f"{'scenario':44} {'states':>8} {'steps':>9} {'depth':>5} {'seconds':>7}  broken")
    broken = 0
    for scenario in SCENARIOS + WIDER:
        found = explore(scenario)
        broken += len(found.broken)
        print(
            f"{found.scenario:44} {found.states:8} {found.steps:9} {found.depth:5} "
            f"{found.seconds:7.1f}  {len(found.broken)}",
            flush=True,
        )
        if found.broken:
            print(found.story())
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
