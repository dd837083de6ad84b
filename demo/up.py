"""`make up`: the same stack as the demo's, in the foreground, with data that survives a restart."""

import sys
import time
from contextlib import ExitStack
from typing import Any

from rich.console import Console

from demo.client import ApiClient
from demo.local_stack import LocalStack, treat_sigterm_as_ctrl_c
from demo.processes import ROOT, ProcessFailedError

DIRECTORY = ROOT / ".takeone"
PREFERRED_PORT = 8000
STEP_SECONDS = 3.0
WATCH_SECONDS = 0.5


def main() -> int:
    """Run the stack until Ctrl-C; return 0, or 1 if it cannot be started."""
    treat_sigterm_as_ctrl_c()
    console = Console()
    try:
        run(console)
    except KeyboardInterrupt:
        console.print("\nStopped. The data is kept in .takeone/ for the next `make up`.")
        return 0
    except (ProcessFailedError, FileNotFoundError) as error:
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 1
    return 0


def run(console: Console) -> None:
    """Start the stack, say how to call it, and keep its processes alive."""
    with ExitStack() as running:
        with console.status("Starting Redis, web, worker, Flower and a reference orchestrator …"):
            stack = running.enter_context(local_stack())
        greet(console, stack)
        while True:
            time.sleep(WATCH_SECONDS)
            revive(console, stack)


def local_stack() -> LocalStack:
    """Return the stack with its data in the checkout."""
    return LocalStack(
        DIRECTORY, append_only=True, step_seconds=STEP_SECONDS, preferred_port=PREFERRED_PORT
    )


def revive(console: Console, stack: LocalStack) -> None:
    """Start what has ended, as a production supervisor would."""
    for process in stack.processes:
        if not process.is_running:
            console.print(f"{process.name} ended; starting it again", highlight=False)
            process.start()


def greet(console: Console, stack: LocalStack) -> None:
    """Print the addresses and curl lines that work as they are."""
    api, job = stack.service.api_url, ready_job(stack)
    lines = [
        f"[bold]Take One is up.[/]  Ctrl-C stops it; logs and data are in {DIRECTORY}",
        "",
        f"API docs      {api}/docs",
        f"Flower        {stack.flower_address()}",
        f"Orchestrator  {stack.orchestrator.url}/executions",
        "",
        "Start the workflow of a job that was made for you, as often as you like:",
        curl(f"-X POST {api}/api/v1/jobs/{job['id']}/run"),
        "",
        "Watch it:",
        curl(f"{api}/api/v1/jobs/{job['id']}"),
        curl(f"{api}/api/v1/jobs/{job['id']}/events"),
    ]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)


def curl(rest: str) -> str:
    """Return a curl line with a development token."""
    return f"  curl -s -H 'Authorization: Bearer test:alice:editor' {rest}"


def ready_job(stack: LocalStack) -> dict[str, Any]:
    """Make a job that is ready to run, in the first project of the development user."""
    alice = ApiClient(stack.service.api_url, "alice")
    projects = alice.get("/projects").json()["items"]
    return alice.uploaded_job(project=projects[0] if projects else None)


if __name__ == "__main__":
    sys.exit(main())
