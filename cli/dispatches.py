"""`takeone dispatches list | show | settle`: see dispatches whose outcome is open, and settle them.

`takeone pause` and `takeone resume`: stop posting dispatches, in the whole fleet, and go on.
"""

import click

from cli.jobs import show_job
from cli.setup import by_option, one_line, reason_option, with_services
from domain.audit import OperatorAct
from domain.claim import Claim
from domain.pause import Pause
from services.assembly import Services
from services.operations import SETTLEMENTS
from store.indexes import View


@click.group("dispatches", help="See dispatches whose outcome is open, and settle them.")
def dispatches() -> None:
    """The group."""


@dispatches.command("list")
@click.option("--unknown", is_flag=True, help="Only those whose outcome is unknown.")
@with_services
def list_dispatches(services: Services, unknown: bool) -> None:
    """List the dispatches whose outcome is open, one a line."""
    pause = services.jobs.pauses.current()
    if pause is not None:
        click.echo(f"dispatching is {said(pause)}", err=True)
    operations = services.operations
    found = operations.every(View.UNKNOWN) if unknown else operations.open_dispatches()
    is_empty = True
    for record in found:
        if record.claim is not None:
            click.echo(_line(record.job.id, record.claim))
            is_empty = False
    if is_empty:
        click.echo("no dispatch is open", err=True)


def _line(job_id: str, claim: Claim) -> str:
    due = claim.lease_until.isoformat(timespec="seconds") if claim.lease_until else "it is settled"
    since = (claim.sent_at or claim.claimed_at).isoformat(timespec="seconds")
    return f"{job_id}  {claim.phase:8}  {claim.dispatch_id}  since {since}  until {due}"


dispatches.add_command(show_job)


@dispatches.command("settle")
@click.argument("job_id")
@click.option("--as", "settlement", type=click.Choice(SETTLEMENTS), required=True)
@reason_option
@by_option
@with_services
def settle_dispatch(services: Services, job_id: str, settlement: str, reason: str, by: str) -> None:
    """Settle a job's dispatch by hand.

    `sent`: the orchestrator has it. `release`: it has not, and the next run or retry sends it again. You
    settle a dispatch whose outcome is unknown; or, by `release`, an accepted retry that never called back. An
    orchestrator that can be asked is asked by a worker before a release, if the settings here name it: what
    runs there is not released (JOB_ALREADY_RUNNING).
    """
    record = services.operations.settle(job_id, settlement, OperatorAct(by, reason))
    click.echo(f"settled as {settlement}: the job is {record.job.status}")


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
