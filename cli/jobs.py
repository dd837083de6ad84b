"""`takeone jobs …`: list, show and act on any user's jobs.

`takeone hash`: the hash that stands for a value in the logs.
"""

import re
from datetime import timedelta
from itertools import islice

import click
import orjson

from api.responses import job_history_shape
from cli.setup import act_options, echo_lines, error_line, printable, settings_of, with_services
from domain.audit import OperatorAct
from domain.job_fsm import JobStatus
from domain.record import Record
from observability.logs import hash_of
from services.assembly import Services
from services.operations import Retried
from settings import load_store_settings
from store.indexes import View
from store.lists import LISTED_STATES, JobFilter, PageQuery

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
# Longer than any job's age; much longer, and the moment would be before the year 1.
_MAX_AGE = timedelta(days=9_999)

jobs = click.Group("jobs", help="Show jobs of any user, and act on them.")


def _age(_context: click.Context, _parameter: click.Parameter, value: str) -> timedelta:
    match = re.fullmatch(r"([0-9]{1,8})([smhd]?)", value)
    if match is None:
        raise click.BadParameter("a number of seconds, or one with s, m, h or d, such as 2h")
    age = timedelta(seconds=int(match[1]) * _SECONDS[match[2]])
    if age > _MAX_AGE:
        raise click.BadParameter(f"at most {_MAX_AGE.days}d")
    return age


@jobs.command("list")
@click.option("--status", type=click.Choice(JobStatus), help="Only jobs in this state.")
@click.option("--user", help="Only jobs of this user.")
@click.option(
    "--older-than",
    callback=_age,
    default="0",
    help="In their state for at least this long: 90, 15m, 2h, 7d.",
)
@click.option("--limit", type=click.IntRange(1), default=1_000, show_default=True)
@with_services
def list_jobs(
    services: Services,
    status: JobStatus | None,
    user: str | None,
    older_than: timedelta,
    limit: int,
) -> None:
    """List jobs, one a line: state, since when, owner. Of all users, those that are not done or cancelled."""
    if user is None and status is not None and status not in LISTED_STATES:
        raise click.UsageError(f"jobs in {status} are listed for one --user")
    found = services.operations.jobs(status, user, services.now() - older_than)
    echo_lines(map(_line, islice(found, limit)), if_none="there is no such job")
    if next(found, None) is not None:
        click.echo(f"there are more than {limit}: see --limit", err=True)


def _line(record: Record) -> str:
    job = record.job
    since = job.in_state_since.isoformat(timespec="seconds")
    return f"{job.id}  {job.status:16}  since {since}  {job.owner!r}"


@jobs.command("show")
@click.argument("job_id")
@with_services
def show_job(services: Services, job_id: str) -> None:
    """Show a job with its owner, its claims and its trail, as JSON."""
    history = job_history_shape(*services.operations.history(job_id))
    shown = orjson.dumps(history, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z).decode()
    click.echo("\n".join(map(printable, shown.split("\n"))))


@jobs.command("ask")
@click.argument("job_id")
@act_options("looked at by hand")
@with_services
def ask(services: Services, job_id: str, act: OperatorAct) -> None:
    """Have a worker ask the orchestrator about the job's dispatch, and act on its answer."""
    asked = services.operations.ask(job_id, act)
    click.echo(f"the orchestrator says: {asked.state or 'nothing, but the run reported'}")
    click.echo(_line(asked.record))


@jobs.command("cancel")
@click.argument("job_id")
@act_options()
@with_services
def cancel(services: Services, job_id: str, act: OperatorAct) -> None:
    """Cancel the job, for good."""
    click.echo(_line(services.operations.cancel(job_id, act)))


@jobs.command("fail")
@click.argument("job_id")
@act_options()
@with_services
def fail(services: Services, job_id: str, act: OperatorAct) -> None:
    """Fail the job, so that it can be retried; its run is stopped if the orchestrator can do that."""
    click.echo(_line(services.operations.fail(job_id, act)))


@jobs.command("retry")
@click.option(
    "--failed-since", callback=_age, required=True, help="How long ago at most: 15m, 12h, 2d."
)
@click.option("--failure-code", help="Only jobs that failed with this code.")
@click.option("--project", help="Only jobs of this project.")
@click.option("--model-profile", default="standard", show_default=True)
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@click.option("--dry-run", is_flag=True, help="Start nothing; show what would happen to each job.")
@act_options("bulk retry")
@with_services
def retry(
    services: Services,
    failed_since: timedelta,
    failure_code: str | None,
    project: str | None,
    model_profile: str,
    limit: int,
    dry_run: bool,
    act: OperatorAct,
) -> None:
    """Retry failed jobs, the earliest failure first. Repeating it starts nothing twice.

    The exit code is 1 if a job is refused.
    """
    if model_profile not in services.settings.model_profiles:
        raise click.BadParameter("not one that the settings allow", param_hint="--model-profile")
    wanted = JobFilter(project, reason=failure_code)
    since, cursor, found = services.now() - failed_since, None, list[Retried]()
    while len(found) < limit:
        query = PageQuery(min(limit - len(found), 100), cursor, after=since)
        page = services.operations.retry_failed(query, wanted, model_profile, act, dry_run=dry_run)
        for retried in page.items:
            if retried.result is not None:
                outcome = f"{retried.result.outcome}  {retried.result.claim.dispatch_id}"
            else:
                outcome = f"refused  {error_line(retried.error) if retried.error else ''}"
            click.echo(f"{retried.job_id}  {'would be ' * dry_run}{outcome}")
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
    else:
        click.echo("there are more: repeat it with a larger --limit", err=True)
    if not found:
        click.echo("there is no such job", err=True)
    if any(retried.error for retried in found):
        raise SystemExit(1)


@jobs.command("silent")
@with_services
def silent_jobs(services: Services) -> None:
    """List jobs whose workflow was started but does not report, one a line, the longest silent first."""
    echo_lines(
        map(_silent_line, services.operations.every(View.SILENT)), if_none="no job is silent"
    )


def _silent_line(record: Record) -> str:
    job, claim = record.job, record.claim
    since = job.silent_since and job.silent_since.isoformat(timespec="seconds")
    dispatch, state = (claim.dispatch_id, claim.run_state) if claim else (None, None)
    return f"{job.id}  {job.status}  {dispatch}  since {since}  engine: {state or 'not asked'}"


@click.command("hash")
@click.argument("value")
def hash_value(value: str) -> None:
    """Print the hash of VALUE in the logs: a request id (X-Request-Id), a user, an execution id."""
    settings = settings_of(load_store_settings)
    if not settings.log_secret:
        raise click.ClickException(
            "set TAKEONE_LOG_HASH_KEY or TAKEONE_CALLBACK_SECRET as web has it"
        )
    click.echo(hash_of(value, settings.log_key))
