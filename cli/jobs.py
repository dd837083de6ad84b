"""`takeone jobs …`: any user's jobs, listed, shown and acted on; all of them listed anew.

`takeone hash`: what stands for a value in the logs.
"""

import re
from datetime import UTC, datetime, timedelta
from itertools import islice

import click
import orjson

from api.responses import job_history_shape
from cli.setup import by_option, one_line, reason_option, refused, settings_of, with_services
from domain.audit import OperatorAct
from domain.job_fsm import JobStatus
from domain.record import Record
from observability.logs import hash_of
from services.assembly import Services
from services.operations import JobFilter
from settings import load_store_settings, split_list
from store.indexes import View
from store.lists import LISTED_STATES, PageQuery

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
# Far more than any job's age, and no time before the calendar begins.
_LONGEST_AGE = timedelta(days=9_999)


def age(_context: click.Context, _parameter: click.Parameter, value: str) -> timedelta:
    """How long ago: `90`, `90s`, `15m`, `2h` or `7d`. Raises `click.BadParameter`."""
    found = re.fullmatch(r"([0-9]{1,8})([smhd]?)", value)
    if found is None:
        raise click.BadParameter("a number of seconds, or one with s, m, h or d, such as 2h")
    ago = timedelta(seconds=int(found[1]) * _SECONDS[found[2]])
    if ago > _LONGEST_AGE:
        raise click.BadParameter(f"at most {_LONGEST_AGE.days}d")
    return ago


@click.group("jobs", help="See jobs of any user, and act on them.")
def jobs() -> None:
    """The group."""


@jobs.command("list")
@click.option("--status", type=click.Choice(JobStatus), help="Only jobs in this state.")
@click.option("--user", help="Only jobs of this user.")
@click.option(
    "--older-than",
    callback=age,
    default="0",
    help="At least so long in their state: 90, 15m, 2h, 7d.",
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
    found, is_empty = services.operations.jobs(status, user, services.now() - older_than), True
    for record in islice(found, limit):
        click.echo(_line(record))
        is_empty = False
    if is_empty:
        click.echo("there is no such job", err=True)
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
    shown = job_history_shape(*services.operations.history(job_id))
    click.echo(orjson.dumps(shown, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z).decode())


@jobs.command("ask")
@click.argument("job_id")
@click.option("--reason", callback=one_line, default="looked at by hand", show_default=True)
@by_option
@with_services
def ask(services: Services, job_id: str, reason: str, by: str) -> None:
    """Have a worker ask the orchestrator about the job's dispatch, and do what follows from its word."""
    asked = services.operations.ask(job_id, OperatorAct(by, reason))
    click.echo(f"the orchestrator says: {asked.state or 'nothing, but the run reported'}")
    click.echo(_line(asked.record))


@jobs.command("cancel")
@click.argument("job_id")
@reason_option
@by_option
@with_services
def cancel(services: Services, job_id: str, reason: str, by: str) -> None:
    """Cancel the job, for good."""
    click.echo(_line(services.operations.cancel(job_id, OperatorAct(by, reason))))


@jobs.command("fail")
@click.argument("job_id")
@reason_option
@by_option
@with_services
def fail(services: Services, job_id: str, reason: str, by: str) -> None:
    """Fail the job, so that it can be retried; its run is stopped where it can be."""
    click.echo(_line(services.operations.fail(job_id, OperatorAct(by, reason))))


@jobs.command("retry")
@click.option(
    "--failed-since", callback=age, required=True, help="How long ago at most: 15m, 12h, 2d."
)
@click.option("--failure-code", help="Only jobs that failed with this code.")
@click.option("--project", help="Only jobs of this project.")
@click.option("--model-profile", default="standard", show_default=True)
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@click.option("--dry-run", is_flag=True, help="Start nothing, and say what would come of each.")
@click.option("--reason", callback=one_line, default="bulk retry", show_default=True)
@by_option
@with_services
def retry(
    services: Services,
    failed_since: timedelta,
    failure_code: str | None,
    project: str | None,
    model_profile: str,
    limit: int,
    dry_run: bool,
    reason: str,
    by: str,
) -> None:
    """Start the jobs that have failed again, the earliest failure first. Repeating it starts nothing twice."""
    if model_profile not in split_list(services.settings.model_profiles):
        raise click.BadParameter("not one that the settings allow", param_hint="--model-profile")
    wanted, act = JobFilter(project, reason=failure_code), OperatorAct(by, reason)
    since, cursor = datetime.now(UTC) - failed_since, None
    while limit > 0:
        query = PageQuery(min(limit, 100), cursor, after=since)
        page = services.operations.retry_failed(query, wanted, model_profile, act, dry_run=dry_run)
        for each in page.items:
            if each.result is not None:
                word = f"{each.result.outcome}  {each.result.claim.dispatch_id}"
            else:
                word = f"refused  {refused(each.error) if each.error else ''}"
            click.echo(f"{each.job_id}  {'would be ' * dry_run}{word}")
        limit, cursor = limit - len(page.items), page.next_cursor
        if cursor is None:
            return
    click.echo("there are more: see --limit", err=True)


@jobs.command("silent")
@with_services
def silent_jobs(services: Services) -> None:
    """List the jobs whose workflow was started and reports nothing, one a line, the longest silent first."""
    for record in services.operations.every(View.SILENT):
        job, claim = record.job, record.claim
        if claim is not None and job.silent_since is not None:
            since = job.silent_since.isoformat(timespec="seconds")
            word = claim.run_state or "not asked"
            click.echo(
                f"{job.id}  {job.status}  {claim.dispatch_id}  since {since}  engine: {word}"
            )


@click.command("hash")
@click.argument("value")
def hash_value(value: str) -> None:
    """Print what stands in the logs for VALUE: a request id (X-Request-Id), a user, an execution id."""
    settings = settings_of(load_store_settings)
    if not settings.log_secret:
        raise click.ClickException(
            "set TAKEONE_LOG_HASH_KEY or TAKEONE_CALLBACK_SECRET as web has it"
        )
    click.echo(hash_of(value, settings.log_key))
