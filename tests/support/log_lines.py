"""Find log lines of a process, and wait for them."""

from devstack.processes import Process
from devstack.waiting import wait_until


def lines_with(process: Process, *parts: str) -> list[str]:
    """Return the lines of the process's log that contain all of `parts`."""
    return [line for line in process.log().splitlines() if all(part in line for part in parts)]


def wait_for_line(process: Process, *parts: str, limit_seconds: float = 30.0) -> None:
    """Wait until a line of the process's log contains all of `parts`."""
    what = f"a line of {process.name} with {', '.join(parts)}"
    wait_until(lambda: lines_with(process, *parts), limit_seconds, what)
