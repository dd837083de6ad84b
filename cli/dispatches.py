"""`takeone dispatches list | show | settle`: show dispatches whose outcome is open, and settle them.

`takeone pause` and `takeone resume`: stop all workers from posting dispatches, and let them post again.
"""

import click

from cli.jobs import show_job
from cli.setup import act_options, by_option, echo_lines, printable, with_services
from domain.audit import OperatorAct
from domain.claim import Claim
from domain.pause import Pause
from services.assembly import Services
from services.operations import SETTLEMENTS
from store.indexes import View

dispatches = click.Group("dispatches", help="Show dispatches whose outcome is open; settle them.")


@dispatches.command("list")
@click.option("--unknown", is_flag=True, help="Only those whose outcome is unknown.")
@with_services
def list_dispatches(services: Services, unknown: bool) -> None:
    """List the dispatches whose outcome is open, one a line."""
    pause = services.jobs.pauses.current()
    if pause is not None:
        click.echo(f"dispatching is {pause_line(pause)}", err=True)
    operations = services.operations
    found = operations.every(View.UNKNOWN) if unknown else operations.open_dispatches()
    lines = (_line(record.job.id, record.claim) for record in found if record.claim is not None)
    echo_lines(lines, if_none=f"no dispatch is {'unknown' if unknown else 'open'}")


def _line(job_id: str, claim: Claim) -> str:
    due = claim.lease_until.isoformat(timespec="seconds") if claim.lease_until else "it is settled"
    since = (claim.sent_at or claim.claimed_at).isoformat(timespec="seconds")
    return f"{job_id}  {claim.phase:8}  {claim.dispatch_id}  since {since}  until {due}"


dispatches.add_command(show_job)


@dispatches.command("settle")
@click.argument("job_id")
@click.option("--as", "settlement", type=click.Choice(SETTLEMENTS), required=True)
@act_options()
@with_services
def settle_dispatch(services: Services, job_id: str, settlement: str, act: OperatorAct) -> None:
    """Settle a job's dispatch by hand.

    `sent`: the orchestrator has it. `release`: it does not have it, and the next run or retry sends it again.
    You can settle a dispatch whose outcome is unknown; `release` also an accepted retry that never called back.
    Before a release, a worker asks the orchestrator, if it can be asked and the settings here name it: what
    runs there is not released (JOB_ALREADY_RUNNING).
    """
    record = services.operations.settle(job_id, settlement, act)
    click.echo(f"settled as {settlement}: the job is {record.job.status}")


@click.command("pause")
@act_options(reason_help="Why; operators are shown it.")
@with_services
def pause(services: Services, act: OperatorAct) -> None:
    """Stop all workers from posting dispatches until `takeone resume`.

    Runs are accepted and wait. Questions to the orchestrator, cancels and callbacks continue, and so do posts
    that have begun: `takeone dispatches list` shows them as SENDING. Repeating it changes nothing.
    """
    click.echo(pause_line(services.operations.pause(act)))


@click.command("resume")
@by_option
@with_services
def resume(services: Services, by: str) -> None:
    """Let workers post dispatches again. Repeating it changes nothing."""
    ended = services.operations.resume(OperatorAct(by, None))
    click.echo(f"resumed; it was {pause_line(ended)}" if ended else "dispatching is not paused")


def pause_line(pause: Pause) -> str:
    """A pause in one printable line."""
    return printable(
        f"paused since {pause.paused_at:%Y-%m-%dT%H:%M:%SZ} by {pause.by}: {pause.reason}"
    )
