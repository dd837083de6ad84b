"""Ends the process groups of a program that died before it could end them itself.

Runs as a child of that program. Its standard input is a pipe from it, with one line `+<group>` or `-<group>`
for each group started or ended. However the program ends, kill -9 included, the pipe closes: then the groups
still listed are terminated, and killed if they do not end.
"""

import os
import signal
import sys
import time
from collections.abc import Iterable

TERMINATE_SECONDS = 3.0


def groups_left(lines: Iterable[str]) -> set[int]:
    """Read lines until the pipe closes; return the groups that were started and have not ended."""
    groups: set[int] = set()
    for line in lines:
        change = groups.add if line[0] == "+" else groups.discard
        change(int(line[1:]))
    return groups


def exists(group: int) -> bool:
    """Return whether the process group still has a member."""
    return send(group, 0)


def send(group: int, signal_number: int) -> bool:
    """Send a signal to the process group; return False if the group is gone."""
    try:
        os.killpg(group, signal_number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def end(groups: set[int]) -> None:
    """Terminate the groups, and kill what is left after a few seconds."""
    for group in groups:
        send(group, signal.SIGTERM)
        send(group, signal.SIGCONT)  # a paused process would not handle SIGTERM
    deadline = time.monotonic() + TERMINATE_SECONDS
    while any(exists(group) for group in groups) and time.monotonic() < deadline:
        time.sleep(0.05)
    for group in groups:
        send(group, signal.SIGKILL)


if __name__ == "__main__":
    end(groups_left(sys.stdin))
