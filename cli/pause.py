"""`takeone pause` and `takeone resume`: stop posting dispatches, in the whole fleet, and go on."""

import click

from cli.setup import by_option, one_line, with_services
from domain.audit import OperatorAct
from domain.pause import Pause
from services.assembly import Services


@click.command("pause")
@click.option("--reason", required=True, callback=one_line, help="Why; operators are shown it.")
@by_option
@with_services
def pause(services: Services, reason: str, by: str) -> None:
    """Post no dispatch until `takeone resume`, from any worker.

    Runs are taken and wait; asks, cancels and callbacks go on, and so do posts that are under way:
    `takeone dispatches list` shows them as SENDING. Repeating it changes nothing.
    """
    click.echo(said(services.operations.pause(OperatorAct(by, reason))))


@click.command("resume")
@by_option
@with_services
def resume(services: Services, by: str) -> None:
    """Post dispatches again. Repeating it changes nothing."""
    ended = services.operations.resume(OperatorAct(by, None))
    click.echo(f"resumed; it was {said(ended)}" if ended else "dispatching is not paused")


def said(pause: Pause) -> str:
    """A pause in a line."""
    line = f"paused since {pause.paused_at:%Y-%m-%dT%H:%M:%SZ} by {pause.by}: {pause.reason}"
    # A token's subject may be any text, and terminals obey some of it.
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in line)
