"""What a process has said, for tests that wait until it has."""

from devstack.processes import Process
from devstack.waiting import wait_until


def lines_with(process: Process, *parts: str) -> list[str]:
    """The lines of the process's log that hold all of `parts`."""
    return [line for line in process.log().splitlines() if all(part in line for part in parts)]


def wait_for_line(process: Process, *parts: str, limit_seconds: float = 30.0) -> None:
    """Wait until one line of the process's log holds all of `parts`."""
    what = f"a line of {process.name} with {', '.join(parts)}"
    wait_until(lambda: lines_with(process, *parts), limit_seconds, what)
