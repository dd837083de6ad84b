"""`takeone pause` and `takeone resume`: stop posting dispatches, in the whole fleet, and go on."""

import os
from getpass import getuser

import click

from cli.setup import one_line, with_services
from domain.pause import Pause
from services.assembly import Services


def _system_user() -> str:
    try:
        return getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return str(os.getuid())


_by = click.option(
    "--by", default=_system_user, callback=one_line, help="Who does it; else the system's user."
)


@click.command("pause")
@click.option("--reason", required=True, callback=one_line, help="Why; operators are shown it.")
@_by
@with_services
def pause(services: Services, reason: str, by: str) -> None:
    """Post no dispatch until `takeone resume`, from any worker.

    Runs are taken and wait; asks, cancels and callbacks go on, and so do posts that are under way:
    `takeone dispatches list` shows them as SENDING. Repeating it changes nothing.
    """
    click.echo(said(services.jobs.pauses.begin(by, reason, services.now())))


@click.command("resume")
@_by
@with_services
def resume(services: Services, by: str) -> None:
    """Post dispatches again. Repeating it changes nothing."""
    ended = services.jobs.pauses.end(by, services.now())
    click.echo(f"resumed; it was {said(ended)}" if ended else "dispatching is not paused")


def said(pause: Pause) -> str:
    """A pause in a line."""
    return f"paused since {pause.paused_at:%Y-%m-%dT%H:%M:%SZ} by {pause.by}: {pause.reason}"
