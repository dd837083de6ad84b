"""`takeone doctor`: checks everything that a deployment needs, and advises what to do about each problem.

It dispatches nothing. Exit code 0 if nothing is wrong, else 1.
"""

import resource
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import SplitResult, urlsplit
from uuid import uuid4

import click
import orjson
from redis import Redis

from api.signing_keys import SigningKeys
from cli.dispatches import pause_line
from orchestrators.client import OrchestratorClient
from orchestrators.engine import Engine
from orchestrators.registry import make_adapter
from services.assembly import Services
from settings import Settings, SettingsError, StoreSettings, WorkerSettings
from settings.sources import unknown_variables
from settings.types import can_verify, is_loopback
from store import redis_checks
from store.client import make_client
from store.errors import StoreUnavailable
from tasks.outbox import make_outbox
from tasks.queues import broker_connection

OK, WARNING, WRONG = "ok", "warning", "WRONG"
_PING_SECONDS = 2.0
_CONNECT_SECONDS = 3.0
_MIN_FILES = 4_096


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `advice` says what to do unless `state` is `OK`."""

    about: str
    state: str
    found: str
    advice: str = ""


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="For machines: a list of findings.")
def doctor(as_json: bool) -> None:
    """Check everything that the service needs, and advise what to do."""
    findings = list(_findings())
    if as_json:
        click.echo(orjson.dumps(findings))
    else:
        width = max(len(finding.about) for finding in findings)
        for finding in findings:
            click.echo(f"{finding.about:{width}}  {finding.state:7}  {finding.found}")
            if finding.advice and finding.state != OK:
                click.echo(f"{'':{width}}  {'':7}  -> {finding.advice}")
    if any(finding.state == WRONG for finding in findings):
        raise SystemExit(1)


def _findings() -> Iterator[Finding]:
    problems: dict[str, None] = {}
    loaded: list[Settings] = []
    for kind in Settings, WorkerSettings, StoreSettings:
        try:
            loaded.append(kind())
        except SettingsError as error:
            problems |= dict.fromkeys(str(error).splitlines())
    for problem in problems:
        yield Finding("settings", WRONG, problem, "see docs/configuration.md")
    for settings in loaded[-1:]:  # the store's are enough for most checks
        if not problems:
            yield Finding("settings", OK, f"complete, for {settings.env}")
        for check in _CHECKS:
            yield from check(settings)


def _finding(about: str, problem: str, fine: str, advice: str, state: str = WRONG) -> Finding:
    """`problem` with its advice, or `fine` if there is no problem."""
    return Finding(about, state, problem, advice) if problem else Finding(about, OK, fine)


def _settings(settings: Settings) -> Iterator[Finding]:
    for name, similar in unknown_variables(type(settings)).items():
        advice = f"rename it to {similar}" if similar else "remove it, if nothing else reads it"
        yield Finding("settings", WARNING, f"{name} is no setting", advice)


def _store(settings: Settings) -> Iterator[Finding]:
    try:
        with make_client(settings, connections=1) as client:
            info = redis_checks.info(client)
            version = str(info.get("redis_version", "0"))
            numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
            state = OK if numbers >= (6, 2) else WRONG
            yield Finding("store", state, f"Redis {version} answers", "use Redis 6.2 or newer")
            yield from _configuration(settings, client)
            yield _memory(info)
            yield from _permissions(settings, client)
            yield _clock("Redis", redis_checks.seconds_apart(client))
        yield from _records(Services(settings, make_outbox(settings)))
    except StoreUnavailable as error:
        advice = "start it, make room in it, or correct TAKEONE_REDIS_URL or its user; try redis-cli -u with it"
        yield Finding("store", WRONG, f"Redis does not serve ({error})", advice)


def _configuration(settings: Settings, client: Redis) -> Iterator[Finding]:
    problems = redis_checks.problems(client, production=True)
    for problem in problems:
        found, _, advice = problem.partition(": ")
        state = WRONG if settings.production else WARNING
        yield Finding("store", state, found, advice or "correct Redis's configuration")
    if not problems:
        yield Finding("store", OK, "it persists its data, and evicts nothing")


def _records(services: Services) -> Iterator[Finding]:
    # No worker with these settings settles them.
    elsewhere = [
        record.job.id
        for record in services.operations.open_dispatches()
        if record.claim and record.claim.is_elsewhere(services.policy)
    ]
    yield _finding(
        "dispatches",
        _count(elsewhere, "of another engine than the settings name"),
        "none with an open outcome was sent to another engine than the settings name",
        "set TAKEONE_ORCHESTRATOR_… back until they are settled, or takeone dispatches settle each",
    )
    pause = services.jobs.pauses.current()
    if pause is not None:
        yield Finding("dispatching", WARNING, pause_line(pause), "end it by `takeone resume`")
    yield _finding(
        "unreadable records",
        _count(sorted(services.operations.unreadable()), "of jobs with an open dispatch"),
        "none among the jobs with an open dispatch",
        "a later release wrote them, or they are broken: upgrade again, or restore their keys",
    )


def _count(job_ids: list[str], what: str) -> str:
    return f"{len(job_ids)} {what}: {', '.join(job_ids[:5])}" if job_ids else ""


def _clock(whose: str, seconds: float) -> Finding:
    found = f"{whose}'s is {abs(seconds):.1f} s {'ahead' if seconds > 0 else 'behind'}"
    state = OK if abs(seconds) <= 2 else WRONG
    return Finding("clocks", state, found, "let NTP set the clock of each machine")


def _memory(info: dict[str, Any]) -> Finding:
    used = info["used_memory"]
    total = info.get("maxmemory") or info.get("total_system_memory") or 0
    share = used / total if total else 0.0
    found = f"{used / 1e6:,.0f} MB used of {total / 1e6:,.0f} MB ({share:.0%})"
    state = OK if share < 0.8 else WARNING if share < 0.95 else WRONG
    advice = "raise maxmemory or add memory: a full Redis accepts no write"
    return Finding("memory", state, found, advice)


def _permissions(settings: Settings, client: Redis) -> Iterator[Finding]:
    missing = redis_checks.missing_permissions(client)
    if missing:
        advice = "add them to the user's ACL, for ~takeone:* and its channels (docs/production.md)"
        yield Finding("Redis user", WRONG, f"may not {', '.join(missing)}", advice)
    unneeded = {
        "see and change Redis's users": ("ACL", "GETUSER", "default"),
        "read keys that are not the service's": ("GET", "doctor:no-such-key"),
    }
    allowed = [
        what
        for what, command in unneeded.items()
        if settings.production and redis_checks.may(client, *command)
    ]
    for what in allowed:
        advice = "give it a user of its own: ~takeone:* &takeone:* -@admin (docs/production.md)"
        yield Finding("Redis user", WARNING, f"may {what}, which the service never does", advice)
    if not missing and not allowed:
        yield Finding("Redis user", OK, "may do what the service needs")


def _signing_keys(settings: Settings) -> Iterator[Finding]:
    if not settings.jwt_jwks_url:
        return
    try:
        published = SigningKeys(settings.jwt_jwks_url, settings.ca_file).fetch()
    except Exception as error:  # the issuer may answer anything
        found = f"the issuer publishes none that can be read ({type(error).__name__})"
        advice = "correct TAKEONE_JWT_JWKS_URL, or let this machine reach the issuer"
        yield Finding("signing keys", WRONG, found, advice)
        return
    algorithms = settings.jwt_algorithms
    usable = sum(any(can_verify(key, name) for name in algorithms) for key in published.values())
    found = f"{usable} of {len(published)} published can verify by {', '.join(algorithms)}"
    advice = "set TAKEONE_JWT_ALGORITHMS to what the issuer signs with"
    yield Finding("signing keys", OK if usable else WRONG, found, advice)


def _files(_: Settings) -> Iterator[Finding]:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = "without limit" if hard == resource.RLIM_INFINITY else f"up to {hard:,}"
    state = WARNING if 0 <= hard < _MIN_FILES else OK  # -1: infinity
    advice = f"raise the hard limit (LimitNOFILE, ulimit -Hn) to {_MIN_FILES:,} or more"
    yield Finding("open files", state, found, advice)


def _broker(settings: Settings) -> Iterator[Finding]:
    """Send a message through a temporary queue."""
    problem = ""
    try:
        with broker_connection(settings) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)
            queue = connection.SimpleQueue(f"takeone.doctor.{uuid4().hex}")
            try:
                queue.put("ping", retry=False)
                queue.get(timeout=3).ack()
            finally:
                queue.close()  # first: RabbitMQ would cancel the consumer of a deleted queue
                queue.queue.delete()
    except Exception as error:  # every transport raises its own
        problem = f"no message goes through ({type(error).__name__})"
    variable = "TAKEONE_REDIS_URL" if settings.broker_is_store else "TAKEONE_BROKER_URL"
    yield _finding("broker", problem, "a message went through and back", f"check {variable}")


def _workers(_: Settings) -> Iterator[Finding]:
    from tasks.app import app

    workers: dict[str, Any] = {}
    asked_at = time.time()
    with suppress(Exception):  # the broker does not answer, which `_broker` reports
        workers = app.control.inspect(timeout=_PING_SECONDS).stats() or {}
    yield _finding(
        "workers",
        "" if workers else f"none answered within {_PING_SECONDS:g} s",
        f"{len(workers)} answered: {', '.join(sorted(workers))}",
        "start the Procfile's `worker`, with the same settings, and read its log",
    )
    for name, found in sorted(workers.items()):
        if "time" in found:  # not from an earlier release
            yield _clock(name, found["time"] - asked_at)


def _orchestrator(settings: Settings) -> Iterator[Finding]:
    if not settings.orchestrator_url:  # for Step Functions, the adapter knows AWS's endpoint
        yield from _workflow(settings) if settings.orchestrator_kind == "step_functions" else ()
        return
    parts = urlsplit(settings.orchestrator_url)
    where = f"{parts.scheme}://{parts.hostname}"
    problem = ""
    if settings.orchestrator_use_proxies:
        yield Finding("orchestrator", WARNING, f"{where} is not checked", "test it via the proxy")
    else:
        # Without a request, even HEAD: some webhooks start a run on any method.
        try:
            with closing(_connection(settings, parts)) as connection:
                connection.connect()
        except OSError as error:
            problem = f"{where} takes no connection ({type(error).__name__})"
        yield _finding(
            "orchestrator",
            problem,
            f"{where} takes connections",
            "start it, or correct TAKEONE_ORCHESTRATOR_URL; the workers must reach it",
        )
    if settings.production and parts.scheme == "http" and not _is_local(parts):
        yield Finding("orchestrator", WARNING, "dispatches travel unencrypted", "use https")
    if settings.orchestrator_kind != "webhook" and not problem:
        yield from _workflow(settings)


def _workflow(settings: Settings) -> Iterator[Finding]:
    """Ask the engine whether the workflow can be started; this starts nothing."""
    problems = list(Engine(OrchestratorClient(settings), make_adapter(settings)).problems())
    page = f"docs/orchestrators/{settings.orchestrator_kind}.md"
    for problem in problems:
        found, _, advice = problem.partition("; ")
        general = f"correct TAKEONE_ORCHESTRATOR_… or the engine, as {page} says"
        yield Finding("workflow", WRONG, found, advice or general)
    if not problems:
        yield Finding("workflow", OK, f"{settings.orchestrator_workflow} can be started")


def _callback_url(settings: Settings) -> Iterator[Finding]:
    if not settings.public_url:
        return
    parts = urlsplit(settings.public_url)
    where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    if settings.production and _is_local(parts):
        advice = "set TAKEONE_PUBLIC_URL to the URL by which the orchestrator reaches the API"
        yield Finding("callback URL", WRONG, f"{where} is only this machine's own", advice)
        return
    if settings.production and parts.scheme == "http":
        advice = "use https, unless the network between the two is private"
        yield Finding("callback URL", WARNING, f"{where}: secrets travel unencrypted", advice)
    date = _date_of_health(settings, parts)
    yield _finding(
        "callback URL",
        f"no API answers at {where} from here" if date is None else "",
        f"the API answers at {where}",
        "start `web`, or correct TAKEONE_PUBLIC_URL; ignore this if only this machine is shut out",
        WARNING,
    )
    if date:
        # The header has whole seconds: half of one is the mean error.
        yield _clock("the API", parsedate_to_datetime(date).timestamp() + 0.5 - time.time())
    if date is not None and settings.production:
        yield _finding(
            "proxy",
            "" if _waits_for_bodies(settings, parts) else "none that waits for whole bodies",
            "it waits for whole bodies",
            "put a proxy in front that buffers requests, such as nginx with its defaults",
            WARNING,
        )


def _date_of_health(settings: Settings, parts: SplitResult) -> str | None:
    """The Date header of the API's answer, empty if it has none; None if no API answers."""
    try:
        with closing(_connection(settings, parts)) as connection:
            connection.request("GET", f"{parts.path}/healthz")
            response = connection.getresponse()
            is_api = response.status == 200 and orjson.loads(response.read()) == {"status": "ok"}
            return response.headers.get("Date", "") if is_api else None
    except (OSError, HTTPException, ValueError):
        return None


def _waits_for_bodies(settings: Settings, parts: SplitResult) -> bool:
    """Whether a request whose body is missing gets no answer: the API itself would refuse it at once."""
    with closing(_connection(settings, parts)) as connection, suppress(OSError):
        connection.putrequest("POST", f"{parts.path}/api/v1/projects")
        connection.putheader("Content-Length", "1")
        connection.endheaders()
        connection.sock.settimeout(1)
        return not connection.sock.recv(1)
    return True


def _connection(settings: Settings, parts: SplitResult) -> HTTPConnection:
    host, timeout = parts.hostname or "", _CONNECT_SECONDS
    if parts.scheme != "https":
        return HTTPConnection(host, parts.port, timeout=timeout)
    context = ssl.create_default_context(cafile=settings.ca_file or None)
    return HTTPSConnection(host, parts.port, timeout=timeout, context=context)


def _is_local(parts: SplitResult) -> bool:
    host = parts.hostname or ""
    return is_loopback(host) or host == "0.0.0.0"  # noqa: S104 - a comparison


_CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _settings, _store, _broker, _workers, _orchestrator, _callback_url, _signing_keys, _files,
)  # fmt: skip
