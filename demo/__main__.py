"""`make demo`: start the stack, take one video from upload to draft, check each promise, stop the stack."""

import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import requests
from rich.console import Console, Group
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from demo.reporter import WrongAnswerError
from demo.story import Story
from devstack.local_stack import LocalStack, treat_sigterm_as_ctrl_c
from devstack.processes import ProcessFailedError

STEP_SECONDS = 0.4

# The exceptions by which a wrong, missing, late or malformed answer shows itself.
FAILURES = (
    WrongAnswerError,
    ProcessFailedError,
    FileNotFoundError,
    TimeoutError,
    requests.RequestException,
    LookupError,
    TypeError,
    ValueError,
)


def main() -> int:
    """Run the demo; return 0 if every answer was right, 1 if one was wrong."""
    treat_sigterm_as_ctrl_c()
    console = Console()
    directory = Path(tempfile.mkdtemp(prefix="takeone-demo-"))
    try:
        show(console, directory)
    except KeyboardInterrupt:
        console.print("\nStopped, and no process is left.")
        shutil.rmtree(directory, ignore_errors=True)
        return 130
    except FAILURES as error:
        console.print(f"\n[bold red]✗ {type(error).__name__}[/] {escape(str(error))}")
        console.print(f"The logs are in {directory}/logs", soft_wrap=True)
        return 1
    shutil.rmtree(directory, ignore_errors=True)
    return 0


def show(console: Console, directory: Path) -> None:
    """Start the stack, run the story, print the summary, and stop the stack."""
    with ExitStack() as running:
        with console.status("Starting Redis, web, worker, Flower and a reference orchestrator …"):
            stack = running.enter_context(LocalStack(directory, step_seconds=STEP_SECONDS))
        console.print(addresses(stack))
        story = Story(console, stack)
        story.run()
        console.print(summary(story, stack))


def addresses(stack: LocalStack) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row("API", stack.service.api_url)
    table.add_row("API docs", f"{stack.service.api_url}/docs")
    table.add_row("Orchestrator", f"{stack.orchestrator.url}/executions")
    table.add_row("Flower", stack.flower_address())
    return table


def summary(story: Story, stack: LocalStack) -> Panel:
    """Return a panel with what the story has proved, and with the next step."""
    proved = [f"[green]✓[/] {fact}" for fact in story.proved]
    hint = "These addresses end with the demo; `make up` starts the same stack to play with."
    return Panel(
        Group(*proved, "", addresses(stack), "", f"[dim]{hint}[/]"),
        title="Proved: one video, one take",
        border_style="green",
        expand=False,
    )


if __name__ == "__main__":
    sys.exit(main())
