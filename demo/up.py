"""`make up`: the same stack as the demo's, in the foreground, with data that survives a restart.

It uses PORT and every TAKEONE_ variable of its environment. It listens on the loopback interface only, and
allows pages from the usual development ports of localhost to call it (TAKEONE_CORS_ORIGINS).
"""

import os
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from devstack.client import ApiClient
from devstack.local_stack import LocalStack, treat_sigterm_as_ctrl_c
from devstack.processes import ROOT, ProcessFailedError

DIRECTORY = ROOT / ".takeone"
PREFERRED_PORT = 8000
STEP_SECONDS = 3.0
WATCH_SECONDS = 0.5
PAGES = [
    f"http://{host}:{port}" for host in ("localhost", "127.0.0.1") for port in (3000, 5173, 8080)
]


def main() -> int:
    """Run the stack until Ctrl-C."""
    farewell = "\nStopped. The data is kept in .takeone/ for the next `make up`."
    return until_ctrl_c(run, farewell)


def until_ctrl_c(run: Callable[[Console], None], farewell: str = "") -> int:
    """Run until Ctrl-C or SIGTERM; return 0, or 1 if the stack cannot be started."""
    treat_sigterm_as_ctrl_c()
    console = Console()
    try:
        run(console)
    except KeyboardInterrupt:
        console.print(farewell)
        return 0
    except (ProcessFailedError, FileNotFoundError) as error:
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 1
    return 0


def run(console: Console) -> None:
    """Start the stack, print how to call it, and restart processes that end."""
    with ExitStack() as running:
        with console.status("Starting Redis, web, worker, Flower and a reference orchestrator …"):
            stack = running.enter_context(local_stack())
        greet(console, stack)
        while True:
            time.sleep(WATCH_SECONDS)
            revive(console, stack)


def local_stack(**settings: str) -> LocalStack:
    """Return the stack, with its data in the checkout and with this environment's settings."""
    given = {name: value for name, value in os.environ.items() if name.startswith("TAKEONE_")}
    return LocalStack(
        DIRECTORY,
        append_only=True,
        step_seconds=STEP_SECONDS,
        preferred_port=int(os.environ.get("PORT", PREFERRED_PORT)),
        settings={"TAKEONE_CORS_ORIGINS": ",".join(PAGES), **settings, **given},
    )


def revive(console: Console, stack: LocalStack) -> None:
    """Restart each process that has ended, as a supervisor does in production."""
    for process in stack.processes:
        if not process.is_running:
            console.print(f"{process.name} ended; starting it again", highlight=False)
            process.start()


def greet(console: Console, stack: LocalStack) -> None:
    """Print the addresses, and curl commands that work as printed."""
    api = stack.service.api_url
    lines = [
        f"[bold]Take One is up.[/]  Ctrl-C stops it; logs and data are in {DIRECTORY}",
        "",
        f"Console       {api}/console",
        f"API docs      {api}/docs",
        f"Flower        {stack.flower_address()}",
        f"Orchestrator  {stack.orchestrator.url}/executions",
        f"Callbacks     X-Callback-Secret: {stack.callback_secret}",
        "",
    ]
    if stack.service.settings["TAKEONE_AUTH_MODE"] == "dev":
        job = ready_job(stack)
        lines += [
            "Start the workflow of a job that was made for you, as often as you like:",
            curl(f"-X POST {api}/api/v1/jobs/{job['id']}/run"),
            "",
            "Watch it:",
            curl(f"{api}/api/v1/jobs/{job['id']}"),
            curl(f"{api}/api/v1/jobs/{job['id']}/events"),
            "",
        ]
    program = Path(sys.executable).with_name("takeone")
    lines += [
        "Act as an operator, in another terminal:",
        f"  (. {settings_file(stack)}; {shlex.quote(str(program))} doctor)",
        "",
        "Let a step fail, the first time: confirm an upload whose video_uri ends in",
        "  ?fail=audio, ?fail=transcription or ?fail=generation; a retry of the job goes well.",
    ]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=line.startswith("[bold]"))


def settings_file(stack: LocalStack) -> str:
    """Write the stack's settings, which differ each time, to a file for the shell; return its name."""
    path = DIRECTORY / "settings.sh"
    path.touch(mode=0o600)
    settings = stack.service.settings.items()
    path.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in settings))
    return shlex.quote(str(path))


def curl(rest: str) -> str:
    """Return a curl command with a development token."""
    return f"  curl -s -H 'Authorization: Bearer test:alice:editor' {rest}"


def ready_job(stack: LocalStack) -> dict[str, Any]:
    """Create a job in UPLOADED, in the first project of the development user."""
    alice = ApiClient(stack.service.api_url, "alice")
    projects = alice.get("/projects").json()["items"]
    return alice.uploaded_job(project=projects[0] if projects else None)


if __name__ == "__main__":
    sys.exit(main())
