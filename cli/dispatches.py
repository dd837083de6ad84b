"""`takeone dispatches list | show | settle`: see dispatches whose outcome is open, and settle them."""

from datetime import datetime

import click

from cli.pause import said
from cli.setup import by_option, reason_option, with_services
from domain.audit import AuditEvent, OperatorAct
from domain.claim import Claim
from domain.errors import JobAlreadyRunning, NothingToSettle
from domain.record import Record
from services.assembly import Services
from services.operations import SETTLEMENTS

_MOST_EVENTS = 1_000


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
    found = False
    for record in services.operations.open_dispatches(unknown_only=unknown):
        found = True
        if record.claim is not None:
            click.echo(_line(record.job.id, record.claim))
    if not found:
        click.echo("no dispatch is open", err=True)


def _line(job_id: str, claim: Claim) -> str:
    due = f"until {_time(claim.lease_until)}" if claim.lease_until else "until it is settled"
    since = claim.sent_at or claim.claimed_at
    return f"{job_id}  {claim.phase:8}  {claim.dispatch_id}  since {_time(since)}  {due}"


@dispatches.command("show")
@click.argument("job_id")
@with_services
def show_dispatch(services: Services, job_id: str) -> None:
    """Show a job's dispatch, and the job's trail."""
    record = services.operations.job(job_id)
    claim = record.shown_claim
    click.echo(f"job          {job_id}  {record.job.status}")
    for name, value in _facts(claim) if claim else [("dispatch", "none")]:
        click.echo(f"{name:12} {value}")
    events, more = services.jobs.trail(job_id, 0, _MOST_EVENTS)
    for event in events:
        click.echo(_event_line(event))
    if more:
        click.echo(f"… the trail has more than {_MOST_EVENTS} events")


def _facts(claim: Claim) -> list[tuple[str, str]]:
    return [
        ("dispatch", claim.dispatch_id),
        ("phase", claim.phase),
        ("epoch", str(claim.epoch)),
        ("claimed at", _time(claim.claimed_at)),
        ("sent at", _time(claim.sent_at)),
        ("held until", _time(claim.lease_until)),
        ("settled at", _time(claim.settled_at)),
        ("reason", claim.reason or "-"),
    ]


def _event_line(event: AuditEvent) -> str:
    step = (
        f"{event.from_status} -> {event.to_status}"
        if event.from_status is not event.to_status
        else event.to_status
    )
    words = [_time(event.recorded_at), f"{event.event_type:24}", event.actor, step]
    words += [f"epoch {event.epoch}"] if event.epoch is not None else []
    words += [f"by {event.operator}"] if event.operator else []
    words += [event.reason] if event.reason else []
    return "  ".join(words)


@dispatches.command("settle")
@click.argument("job_id")
@click.option("--as", "settlement", type=click.Choice(SETTLEMENTS), required=True)
@reason_option
@by_option
@with_services
def settle_dispatch(services: Services, job_id: str, settlement: str, reason: str, by: str) -> None:
    """Settle a job's dispatch by hand.

    `sent`: the orchestrator has it. `release`: it has not, and the next run sends it again. You settle a
    dispatch whose outcome is unknown; or, by `release`, an accepted retry that never called back. An
    orchestrator that can be asked is asked by a worker before a release, if the settings here name it.
    """
    operations = services.operations
    try:
        record = operations.settle(job_id, settlement, OperatorAct(by, reason))
    except JobAlreadyRunning:
        message = "not released: the orchestrator says that this dispatch is running"
        raise click.ClickException(message) from None
    except NothingToSettle:
        state = _state(operations.job(job_id))
        raise click.ClickException(f"nothing to settle as {settlement}: {state}") from None
    click.echo(f"settled as {settlement}: {_state(record)}")


def _state(record: Record) -> str:
    claim = record.shown_claim
    dispatch = (
        f"its dispatch {claim.dispatch_id} is {claim.phase}" if claim else "it has no dispatch"
    )
    return f"the job is {record.job.status}, {dispatch}"


def _time(moment: datetime | None) -> str:
    return moment.isoformat(timespec="seconds") if moment else "-"
