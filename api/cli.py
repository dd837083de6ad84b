"""The command line, and its commands for dispatches: `takeone dispatches list | show | settle`.

The same commands are found under `flask --app "api:create_app()"`. They settle what no process can know:
exit code 0 if it was done, 1 if there was nothing to do or the store does not answer, 2 for wrong usage.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import wraps
from itertools import count
from typing import Any, TypeVar

import click
from flask import Flask
from flask.cli import AppGroup, FlaskGroup

from api.commands import demo, jobs, token
from api.context import services
from api.doctor import doctor
from domain.change import Change, Record
from domain.claim import Claim, ClaimEvent, Phase
from domain.dispatch_steps import settle_by_operator
from domain.trail import TrailEvent
from store.errors import StoreError

Answer = TypeVar("Answer")

_PAGE = 200
_MOST_TRAIL_LINES = 1_000
_MOST_REASON_CHARACTERS = 200
_EVENTS = {"sent": ClaimEvent.SETTLED_SENT, "release": ClaimEvent.SETTLED_RELEASE}

# They work, or say what is wrong, also where the settings do not let the application start.
WITHOUT_APPLICATION = (doctor, token, demo)

dispatches = AppGroup("dispatches", help="See dispatches whose outcome is open, and settle them.")


def register_cli(app: Flask) -> None:
    """Give the application its commands."""
    for command in (dispatches, jobs, *WITHOUT_APPLICATION):
        app.cli.add_command(command)


def main() -> None:
    """The `takeone` command."""
    from api.app import create_app

    group = FlaskGroup(
        name="takeone",
        create_app=create_app,
        add_default_commands=False,
        add_version_option=False,
        load_dotenv=False,
        help="Look after Take One.",
    )
    for command in WITHOUT_APPLICATION:
        group.add_command(command)
    group.main(prog_name="takeone")


def _says_if_the_store_is_away(command: Callable[..., Answer]) -> Callable[..., Answer]:
    @wraps(command)
    def guarded(*args: Any, **options: Any) -> Answer:
        try:
            return command(*args, **options)
        except StoreError as error:
            raise click.ClickException(f"the store does not serve: {error}") from error

    return guarded


@dispatches.command("list")
@click.option("--unknown", is_flag=True, help="Only those whose outcome is unknown.")
@_says_if_the_store_is_away
def list_dispatches(unknown: bool) -> None:
    """List the dispatches whose outcome is open, one a line."""
    index = services().jobs.index
    seen: set[str] = set()
    for pages in [index.unknown] if unknown else [index.unknown, index.in_flight]:
        for job_id in _all_of(pages):
            record = None if job_id in seen else _record(job_id)
            seen.add(job_id)
            # The index can be ahead of the claim, or behind it: what counts is the claim.
            claim = record.claim if record else None
            if claim and claim.in_flight and (not unknown or claim.phase is Phase.UNKNOWN):
                click.echo(_line(job_id, claim))


def _all_of(read: Callable[[int, int], list[str]]) -> Iterator[str]:
    for start in count(0, _PAGE):
        page = read(start, _PAGE)
        yield from page
        if len(page) < _PAGE:
            return


def _line(job_id: str, claim: Claim) -> str:
    due = f"until {_time(claim.lease_until)}" if claim.lease_until else "until it is settled"
    since = claim.sent_at or claim.claimed_at
    return f"{job_id}  {claim.phase:8}  {claim.dispatch_id}  since {_time(since)}  {due}"


@dispatches.command("show")
@click.argument("job_id")
@_says_if_the_store_is_away
def show_dispatch(job_id: str) -> None:
    """Show a job's dispatch, and the job's trail."""
    record = _existing(job_id)
    claim = record.shown_claim
    click.echo(f"job          {job_id}  {record.job.status}")
    for name, value in _facts(claim) if claim else [("dispatch", "none")]:
        click.echo(f"{name:12} {value}")
    events, more = services().jobs.trail(job_id, 0, _MOST_TRAIL_LINES)
    for event in events:
        click.echo(_trail_line(event))
    if more:
        click.echo(f"… the trail has more than {_MOST_TRAIL_LINES} lines")


def _facts(claim: Claim) -> list[tuple[str, str]]:
    held = _time(claim.lease_until) if claim.lease_until else "-"
    return [
        ("dispatch", claim.dispatch_id),
        ("phase", claim.phase),
        ("epoch", str(claim.epoch)),
        ("claimed at", _time(claim.claimed_at)),
        ("sent at", _time(claim.sent_at)),
        ("held until", held),
        ("settled at", _time(claim.settled_at)),
        ("reason", claim.reason or "-"),
    ]


def _trail_line(event: TrailEvent) -> str:
    step = (
        f"{event.from_status} -> {event.to_status}"
        if event.from_status is not event.to_status
        else event.to_status
    )
    words = [_time(event.recorded_at), f"{event.event_type:24}", event.actor, step]
    words += [f"epoch {event.epoch}"] if event.epoch is not None else []
    words += [event.reason] if event.reason else []
    return "  ".join(words)


@dispatches.command("settle")
@click.argument("job_id")
@click.option("--as", "outcome", type=click.Choice([*_EVENTS]), required=True)
@click.option("--reason", required=True, help="How you know; it stands on the job's trail.")
@_says_if_the_store_is_away
def settle_dispatch(job_id: str, outcome: str, reason: str) -> None:
    """Settle a job's dispatch by hand.

    `sent`: the orchestrator has it. `release`: it has not, and the next run sends it again. What is
    settled is a dispatch whose outcome is unknown; or, by `release`, an accepted retry that never called
    back.
    """
    reason = _checked(reason)
    _existing(job_id)
    now, policy = services().now, services().settings.policy

    def rule(record: Record) -> Change | None:
        return settle_by_operator(record, _EVENTS[outcome], reason, now(), policy)

    after = services().jobs.apply(job_id, rule)
    if after is None:
        raise click.ClickException(f"nothing to settle as {outcome}: {_state(job_id)}")
    click.echo(f"settled as {outcome}: {_state(job_id)}")


def _checked(reason: str) -> str:
    if not reason.strip() or len(reason) > _MOST_REASON_CHARACTERS or not reason.isprintable():
        raise click.BadParameter(
            f"a line of 1 to {_MOST_REASON_CHARACTERS} characters", param_hint="--reason"
        )
    return reason.strip()


def _state(job_id: str) -> str:
    record = _existing(job_id)
    claim = record.shown_claim
    dispatch = (
        f"its dispatch {claim.dispatch_id} is {claim.phase}" if claim else "it has no dispatch"
    )
    return f"the job is {record.job.status}, {dispatch}"


def _existing(job_id: str) -> Record:
    record = _record(job_id)
    if record is None:
        raise click.ClickException(f"there is no job {job_id}")
    return record


def _record(job_id: str) -> Record | None:
    snapshot = services().jobs.load(job_id)
    return snapshot.record if snapshot else None


def _time(moment: datetime | None) -> str:
    return moment.isoformat(timespec="seconds") if moment else "-"
