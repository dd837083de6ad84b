"""`takeone jobs show | silent | relist`: any user's job with its trail; all of them listed anew.

`takeone hash`: what stands for a value in the logs.
"""

import click
import orjson

from api.responses import event_shape, job_shape
from cli.setup import settings_of, with_services
from observability.logs import hash_of
from services.assembly import Services
from settings import load_store_settings
from store.relist import relist

_MOST_EVENTS = 1_000


@click.group("jobs", help="See jobs of any user.")
def jobs() -> None:
    """The group."""


@jobs.command("show")
@click.argument("job_id")
@with_services
def show_job(services: Services, job_id: str) -> None:
    """Show a job with its owner and its trail, as JSON."""
    record = services.operations.job(job_id)
    events, _ = services.jobs.trail(job_id, 0, _MOST_EVENTS)
    shown = {"owner": record.job.owner, **job_shape(record)}
    shown["events"] = [event_shape(record.job, each) for each in events]
    click.echo(orjson.dumps(shown, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z).decode())


@jobs.command("silent")
@with_services
def silent_jobs(services: Services) -> None:
    """List the jobs whose workflow was started and reports nothing, one a line, the longest silent first."""
    for record in services.operations.silent_jobs():
        job, claim = record.job, record.claim
        if claim is not None and job.silent_since is not None:
            since = job.silent_since.isoformat(timespec="seconds")
            word = claim.run_state or "not asked"
            click.echo(
                f"{job.id}  {job.status}  {claim.dispatch_id}  since {since}  engine: {word}"
            )


@jobs.command("relist")
@with_services
def relist_jobs(services: Services) -> None:
    """List every project and job where it belongs.

    Once after an upgrade from a release whose lists were others, when none of its processes is left and none
    will come back: its lists are taken away. Jobs are found by their id meanwhile, and what is new is listed
    anyway. Repeating it changes nothing.
    """
    done = relist(services.redis, services.projects, services.jobs)
    click.echo(f"listed: {done['project']} projects, {done['job']} jobs")
    if done["unreadable"]:
        raise click.ClickException(f"{done['unreadable']} records cannot be read by this release")


@click.command("hash")
@click.argument("value")
def hash_value(value: str) -> None:
    """Print what stands in the logs for VALUE: a request id (X-Request-Id), a user, an execution id."""
    settings = settings_of(load_store_settings)
    if not settings.has_log_key:
        raise click.ClickException(
            "set TAKEONE_LOG_HASH_KEY or TAKEONE_CALLBACK_SECRET as web has it"
        )
    click.echo(hash_of(value, settings.log_key))
