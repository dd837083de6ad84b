"""`takeone jobs export | erase`: export or erase everything that is stored of a user, a project or a job."""

from collections.abc import Iterator
from functools import partial, wraps
from typing import Any

import click

from api.responses import encode, event_shape, job_shape, project_shape
from cli.setup import Command, echo_lines, printable, with_services
from domain.record import Record
from services.assembly import Services
from services.erasure import Erasure, Found, Selection


def _selected(command: Command) -> Command:
    """Give `command` a `Selection`, made from exactly one of JOB_ID, --user and --project."""

    @click.argument("job_id", required=False)
    @click.option("--user", help="All of a user's jobs and projects: the subject of their tokens.")
    @click.option("--project", "project_id", help="A project and all jobs in it.")
    @with_services
    @wraps(command)
    def selecting(services: Services, **options: Any) -> None:
        named = {name: options.pop(name) for name in ("job_id", "user", "project_id")}
        if len(list(filter(None, named.values()))) != 1:
            raise click.UsageError("give one of JOB_ID, --user and --project")
        command(services, Selection(**named), **options)

    return selecting


@click.command("export")
@_selected
def export(services: Services, selection: Selection) -> None:
    """Write projects and jobs as JSON, one a line.

    This is everything that the store has of them, with each job's owner, dispatches and trail: protect it as
    you protect the store.
    """
    lines = _stored(services.erasure, selection)
    echo_lines(map(printable, lines), if_none="there is no such job or project")


def _stored(erasure: Erasure, selection: Selection) -> Iterator[str]:
    found = Found()
    for project in erasure.projects(selection, found):
        yield encode({"project": project_shape(project), "owner": project.owner}).decode()
    for record in erasure.records(selection, found):
        job = record.job
        line = {
            "job": job_shape(record),
            "owner": job.owner,
            "claims": [claim.model_dump(exclude_defaults=True) for claim in record.claims],
            "trail": [event_shape(job, event) for event in erasure.trail(job.id)],
        }
        yield encode(line).decode()
    _refuse_unreadable(found)


def _refuse_unreadable(found: Found) -> None:
    if found.unreadable:
        raise click.ClickException(f"{found.unreadable} records cannot be read by this release")


@click.command("erase")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--wait",
    type=click.IntRange(0, 86_400),
    default=30,
    show_default=True,
    help="Seconds to wait for jobs to come to rest.",
)
@click.option("--force", is_flag=True, help="Also erase what does not come to rest in time.")
@_selected
def erase(
    services: Services, selection: Selection, dry_run: bool, yes: bool, wait: int, force: bool
) -> None:
    """Erase jobs and projects with everything that the store has of them, for good.

    A job that is not at rest is cancelled first, also at the orchestrator. What does not come to rest in time
    is listed and kept, with exit code 1: repeat the command. With --force it is erased too, and listed with its
    engine and dispatch id, as its run may continue there. While the command runs, nothing can be created for
    the user or in the project. Close a user's account first: afterwards, a caller with a valid token can create
    again. What remains elsewhere: docs/privacy.md.
    """
    found = services.erasure.look(selection)
    click.echo(
        f"{found.jobs} jobs, {len(found.left)} of them not at rest; {found.projects} projects"
    )
    if dry_run:
        _refuse_unreadable(found)
        return
    if found.left and not services.policy.engine:
        raise click.ClickException(
            "the settings here do not name the orchestrator, which must be told about cancelled jobs: "
            "use those of the workers"
        )
    if not yes:
        click.confirm("Erase them? Running workflows are cancelled", abort=True)

    def name(what: str, record: Record) -> None:
        click.echo(printable(f"{what}: {_line(record)}  {_run(record, services)}"), err=True)

    done = services.erasure.erase(selection, wait, partial(name, "orphan") if force else None)
    click.echo(
        f"erased: {done.jobs} jobs, {done.projects} projects; forgotten: {done.keys} idempotency keys"
    )
    for record in done.left:
        name("left", record)
    _refuse_unreadable(done)
    if not done.is_complete:
        raise click.ClickException(
            "some jobs did not come to rest: repeat it, settle them, or give --force"
        )
    click.echo("the last look found nothing")


def _line(record: Record) -> str:
    claim = record.claim
    dispatch = f"{claim.dispatch_id}  {claim.phase}" if claim else "no dispatch"
    return f"{record.job.id}  {record.job.status}  {dispatch}"


def _run(record: Record, services: Services) -> str:
    claim, settings = record.claim, services.settings
    if claim is None:
        return "no run"
    is_elsewhere = claim.is_elsewhere(services.policy)
    engine = settings.orchestrator_kind, settings.orchestrator_workflow
    at = "at another engine" if is_elsewhere else f"at {' '.join(filter(None, engine))}"
    return f"{at}  execution {claim.execution_id}" if claim.execution_id else at
