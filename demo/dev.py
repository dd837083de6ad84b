"""`make dev`: like `make up`, but prints readable logs, and restarts processes when their code changes."""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from demo.up import WATCH_SECONDS, greet, local_stack, revive, until_ctrl_c
from devstack.local_stack import LocalStack
from devstack.processes import ROOT, ProcessFailedError

PACKAGES = (
    "api", "domain", "observability", "orchestrators", "services", "settings", "spec", "store", "tasks",
)  # fmt: skip
CODE = (".py", ".lua", ".yaml", ".html")


def main() -> int:
    """Run the stack until Ctrl-C."""
    return until_ctrl_c(run)


def run(console: Console) -> None:
    """Start the stack, print its logs, and restart web and worker when the code changes."""
    with ExitStack() as running:
        stack = local_stack(TAKEONE_LOG_FORMAT="console")
        logs = LogReader(stack)
        running.enter_context(stack)
        greet(console, stack)
        known, starts = newest_code(), True
        while True:
            time.sleep(WATCH_SECONDS)
            for line in logs.new_lines():
                console.print(line, markup=False, highlight=False, soft_wrap=True)
            if newest_code() > known:
                known = newest_code()
                starts = restart(console, stack)
            elif starts:
                revive(console, stack)


def restart(console: Console, stack: LocalStack) -> bool:
    """Restart web and worker; whether they started. Code that does not start waits for its next change."""
    console.print("[bold]The code changed: starting again[/]")
    processes = [*stack.service.webs, *stack.service.workers]
    for process in processes:
        try:
            stack.service.restart(process)
        except ProcessFailedError as error:
            console.print(str(error).splitlines()[0], markup=False, highlight=False)
    return all(process.is_running for process in processes)


def newest_code() -> float:
    """Return when a source file was last changed, as a Unix timestamp."""
    files = (path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.suffix in CODE)
    return max(path.stat().st_mtime for path in files)


class LogReader:
    """Reads what the stack's processes log from now on."""

    def __init__(self, stack: LocalStack) -> None:
        processes = [*stack.service.webs, *stack.service.workers]
        self._ends = {process.log_path: size_of(process.log_path) for process in processes}

    def new_lines(self) -> Iterator[str]:
        """Yield each complete line, prefixed with its process's name."""
        for path, end in self._ends.items():
            if size_of(path) <= end:
                continue
            with path.open("rb") as log:
                log.seek(end)
                whole, line_feed, _ = log.read().rpartition(b"\n")
            self._ends[path] = end + len(whole + line_feed)
            for line in whole.decode(errors="replace").splitlines():
                yield f"{path.stem:8} {line}"


def size_of(path: Path) -> int:
    """Return the size of a file, or 0 if it does not exist."""
    return path.stat().st_size if path.exists() else 0


if __name__ == "__main__":
    sys.exit(main())
