"""`takeone doctor`: looks at everything that a deployment needs, and says what to do about what it finds.

It reads, pings and connects, and dispatches nothing. Exit code 0 if nothing is wrong, else 1.
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
from cli.dispatches import said
from orchestrators.client import OrchestratorClient
from orchestrators.engine import Engine
from orchestrators.registry import make_adapter
from services.assembly import Services
from settings import Settings, SettingsError, load_settings, split_list
from settings.sources import unknown_variables
from settings.types import can_verify, is_loopback
from store import redis_checks
from store.client import make_client
from store.errors import StoreUnavailable
from tasks.outbox import make_outbox
from tasks.queues import broker_connection

OK, WARNING, WRONG = "ok", "warning", "WRONG"
_LEAST_REDIS = (6, 2)
_PING_SECONDS = 2.0
_ROUND_TRIP_SECONDS = 3.0
_CONNECT_SECONDS = 3.0
_ANSWER_SECONDS = 1.0
_MOST_SECONDS_APART = 2.0
_MUCH_MEMORY, _NO_MEMORY = 0.8, 0.95
_LEAST_FILES = 4_096
_MORE_THAN_NEEDED = {
    "see and change Redis's users": ("ACL", "GETUSER", "default"),
    "read keys that are not the service's": ("GET", "doctor:no-such-key"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, and what to do if it is not well."""

    about: str
    state: str
    found: str
    advice: str = ""


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="For machines: a list of findings.")
def doctor(as_json: bool) -> None:
    """Look whether everything that the service needs is there, and say what to do."""
    findings = list(examine())
    click.echo(orjson.dumps(findings).decode() if as_json else table(findings))
    if any(each.state == WRONG for each in findings):
        raise SystemExit(1)


def examine() -> Iterator[Finding]:
    """Look at one thing after the other; every look has a limit of seconds."""
    try:
        settings = load_settings()
    except SettingsError as error:
        for problem in str(error).splitlines():
            yield Finding("settings", WRONG, problem, "see docs/configuration.md")
        return
    for look in _LOOKS:
        yield from look(settings)


def table(findings: list[Finding]) -> str:
    """The findings in columns, each piece of advice below its finding."""
    wide = max(len(each.about) for each in findings)
    lines = []
    for each in findings:
        lines.append(f"{each.about:{wide}}  {each.state:7}  {each.found}")
        if each.advice and each.state != OK:
            lines.append(f"{'':{wide}}  {'':7}  -> {each.advice}")
    return "\n".join(lines)


def _verdict(about: str, trouble: str, fine: str, advice: str, state: str = WRONG) -> Finding:
    """That all is `fine`; or the trouble that there is, and what to do."""
    return Finding(about, state, trouble, advice) if trouble else Finding(about, OK, fine)


def _settings(settings: Settings) -> Iterator[Finding]:
    yield Finding("settings", OK, f"complete, for {settings.env}")
    for name, meant in unknown_variables(type(settings)).items():
        advice = f"rename it to {meant}" if meant else "remove it, if nothing else reads it"
        yield Finding("settings", WARNING, f"{name} is no setting", advice)


def _store(settings: Settings) -> Iterator[Finding]:
    try:
        with make_client(settings, connections=1) as client:
            version = redis_checks.version(client)
            numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
            yield Finding(
                "store",
                OK if numbers >= _LEAST_REDIS else WRONG,
                f"Redis {version} answers",
                f"use Redis {'.'.join(map(str, _LEAST_REDIS))} or newer",
            )
            yield from _configuration(settings, client)
            yield _clock("Redis", redis_checks.seconds_apart(client))
            yield _memory(*redis_checks.memory(client))
            yield from _permissions(settings, client)
        yield from _records(Services(settings, make_outbox(settings)))
    except StoreUnavailable as error:
        advice = "start Redis, or correct TAKEONE_REDIS_URL; then try redis-cli -u with it"
        yield Finding("store", WRONG, f"Redis does not answer ({error})", advice)


def _configuration(settings: Settings, client: Redis) -> Iterator[Finding]:
    problems = redis_checks.problems(client, production=True)
    for problem in problems:
        found, _, advice = problem.partition(": ")
        state = WRONG if settings.production else WARNING
        yield Finding("store", state, found, advice or "correct Redis's configuration")
    if not problems:
        yield Finding("store", OK, "it keeps what it is told, and evicts nothing")


def _records(services: Services) -> Iterator[Finding]:
    # Another engine's are settled by no worker here.
    held = [
        record.job.id
        for record in services.operations.open_dispatches()
        if record.claim and record.claim.is_elsewhere(services.policy)
    ]
    yield _verdict(
        "dispatches",
        _first(held, "of another engine than the settings name"),
        "none with an open outcome was sent to another engine than the settings name",
        "set TAKEONE_ORCHESTRATOR_… back until they are settled, or takeone dispatches settle each",
    )
    pause = services.jobs.pauses.current()
    if pause is not None:
        yield Finding("dispatching", WARNING, said(pause), "end it by `takeone resume`")
    yield _verdict(
        "unreadable records",
        _first(sorted(services.operations.unreadable()), "of jobs with an open dispatch"),
        "none among the jobs with an open dispatch",
        "a later release wrote them, or they are broken: upgrade again, or restore their keys",
    )


def _first(job_ids: list[str], what: str) -> str:
    return f"{len(job_ids)} {what}: {', '.join(job_ids[:5])}" if job_ids else ""


def _clock(whose: str, seconds: float) -> Finding:
    found = f"{whose}'s is {abs(seconds):.1f} s {'ahead' if seconds > 0 else 'behind'}"
    state = OK if abs(seconds) <= _MOST_SECONDS_APART else WRONG
    return Finding("clocks", state, found, "let NTP set the clock of each machine")


def _memory(used: int, there_is: int) -> Finding:
    share = used / there_is if there_is else 0.0
    found = f"{used / 1e6:,.0f} MB used of {there_is / 1e6:,.0f} MB ({share:.0%})"
    state = OK if share < _MUCH_MEMORY else WARNING if share < _NO_MEMORY else WRONG
    return Finding(
        "memory", state, found, "raise maxmemory or add memory: a full Redis takes no write"
    )


def _permissions(settings: Settings, client: Redis) -> Iterator[Finding]:
    missing = redis_checks.missing_permissions(client)
    if missing:
        advice = "add them to the user's ACL, for ~takeone:* and its channels (docs/production.md)"
        yield Finding("Redis user", WRONG, f"may not {', '.join(missing)}", advice)
    too_much = [
        what
        for what, command in _MORE_THAN_NEEDED.items()
        if settings.production and redis_checks.may(client, *command)
    ]
    for each in too_much:
        advice = "give it a user of its own: ~takeone:* &takeone:* -@admin (docs/production.md)"
        yield Finding("Redis user", WARNING, f"may {each}, which the service never does", advice)
    if not missing and not too_much:
        yield Finding("Redis user", OK, "may do what the service needs")


def _signing_keys(settings: Settings) -> Iterator[Finding]:
    if not settings.jwt_jwks_url:
        return
    try:
        published = SigningKeys(settings.jwt_jwks_url, settings.ca_file).fetch()
    except Exception as error:  # whatever the issuer answered, it was no set of keys
        found = f"the issuer publishes none that can be read ({type(error).__name__})"
        advice = "correct TAKEONE_JWT_JWKS_URL, or let this machine reach the issuer"
        yield Finding("signing keys", WRONG, found, advice)
        return
    algorithms = split_list(settings.jwt_algorithms)
    fit = [key for key in published.values() if any(can_verify(key, each) for each in algorithms)]
    yield Finding(
        "signing keys",
        OK if fit else WRONG,
        f"{len(fit)} of {len(published)} published can verify by {', '.join(algorithms)}",
        "set TAKEONE_JWT_ALGORITHMS to what the issuer signs with",
    )


def _files(_: Settings) -> Iterator[Finding]:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    has_limit = hard != resource.RLIM_INFINITY
    found = f"up to {hard:,}" if has_limit else "without limit"
    state = WARNING if has_limit and hard < _LEAST_FILES else OK
    advice = f"raise the hard limit (LimitNOFILE, ulimit -Hn) to {_LEAST_FILES:,} or more"
    yield Finding("open files", state, found, advice)


def _broker(settings: Settings) -> Iterator[Finding]:
    """Whether a message to a queue of its own comes back."""
    trouble = ""
    try:
        with broker_connection(settings) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)
            queue = connection.SimpleQueue(f"takeone.doctor.{uuid4().hex}")
            try:
                queue.put("there and back", retry=False)
                queue.get(timeout=_ROUND_TRIP_SECONDS).ack()
            finally:
                queue.close()  # first: RabbitMQ would tell the reader that its queue has gone
                queue.queue.delete()
    except Exception as error:  # every transport has its own ways to fail
        trouble = f"no message goes through ({type(error).__name__})"
    variable = "TAKEONE_REDIS_URL" if settings.broker_is_store else "TAKEONE_BROKER_URL"
    yield _verdict("broker", trouble, "a message went there and back", f"check {variable}")


def _workers(_: Settings) -> Iterator[Finding]:
    from tasks.app import app

    replies: list[dict[str, Any]] = []
    with suppress(Exception):  # the broker is away, which is said already
        replies = app.control.ping(timeout=_PING_SECONDS)
    names = sorted(name for reply in replies for name in reply)
    yield _verdict(
        "workers",
        "" if names else f"none answered within {_PING_SECONDS:g} s",
        f"{len(names)} answered: {', '.join(names)}",
        "start the Procfile's `worker`, with the same settings, and read its log",
    )


def _orchestrator(settings: Settings) -> Iterator[Finding]:
    if not settings.orchestrator_url:  # AWS's own endpoint, which is the adapter's to know
        yield from _workflow(settings)
        return
    parts = urlsplit(settings.orchestrator_url)
    where = f"{parts.scheme}://{parts.hostname}"
    trouble = ""
    if settings.orchestrator_use_proxies:
        yield Finding("orchestrator", WARNING, f"{where} is behind a proxy: not looked at")
    else:
        # Not even a HEAD: there are webhooks that take any method for a call.
        try:
            with closing(_connection(settings, parts)) as connection:
                connection.connect()
        except OSError as error:
            trouble = f"{where} takes no connection ({type(error).__name__})"
        yield _verdict(
            "orchestrator",
            trouble,
            f"{where} takes connections",
            "start it, or correct TAKEONE_ORCHESTRATOR_URL; from the workers it must be reached",
        )
    if settings.production and parts.scheme == "http" and not _is_local(parts):
        yield Finding("orchestrator", WARNING, "dispatches travel unencrypted", "use https")
    if settings.orchestrator_kind != "webhook" and not trouble:
        yield from _workflow(settings)


def _workflow(settings: Settings) -> Iterator[Finding]:
    """What the engine says of the workflow; it is asked, and starts nothing."""
    problems = list(Engine(OrchestratorClient(settings), make_adapter(settings)).problems())
    where = f"docs/orchestrators/{settings.orchestrator_kind}.md"
    for problem in problems:
        found, _, advice = problem.partition("; ")
        general = f"correct TAKEONE_ORCHESTRATOR_… or the engine, as {where} says"
        yield Finding("workflow", WRONG, found, advice or general)
    if not problems:
        yield Finding("workflow", OK, f"{settings.orchestrator_workflow} can be started")


def _callback_url(settings: Settings) -> Iterator[Finding]:
    parts = urlsplit(settings.public_url)
    where = f"{parts.scheme}://{_host_and_port(parts)}"
    if settings.production and _is_local(parts):
        advice = "set TAKEONE_PUBLIC_URL to the address that the orchestrator reaches the API by"
        yield Finding("callback URL", WRONG, f"{where} is only this machine's own", advice)
        return
    if settings.production and parts.scheme == "http":
        advice = "use https, unless the network between the two is yours alone"
        yield Finding("callback URL", WARNING, f"{where}: secrets travel unencrypted", advice)
    date = _date_of_health(settings, parts)
    yield _verdict(
        "callback URL",
        f"no API answers at {where} from here" if date is None else "",
        f"the API answers at {where}",
        "start `web`, or correct TAKEONE_PUBLIC_URL; no matter if only this machine is shut out",
        WARNING,
    )
    if date:
        # It has whole seconds.
        yield _clock("the API", parsedate_to_datetime(date).timestamp() + 0.5 - time.time())
    if date is not None and settings.production:
        yield _verdict(
            "proxy",
            "" if _waits_for_bodies(settings, parts) else "none that waits for whole bodies",
            "it waits for whole bodies",
            "put a proxy in front that buffers requests, such as nginx with its defaults",
            WARNING,
        )


def _date_of_health(settings: Settings, parts: SplitResult) -> str | None:
    """The Date of the API's answer, which may be without one; None if no API answers."""
    try:
        with closing(_connection(settings, parts)) as connection:
            connection.request("GET", f"{parts.path}/healthz")
            answer = connection.getresponse()
            is_api = answer.status == 200 and orjson.loads(answer.read()) == {"status": "ok"}
            return answer.headers.get("Date", "") if is_api else None
    except (OSError, HTTPException, ValueError):
        return None


def _waits_for_bodies(settings: Settings, parts: SplitResult) -> bool:
    """Whether a request without its body is left without an answer: the API itself refuses it at once."""
    with closing(_connection(settings, parts)) as connection, suppress(OSError):
        connection.putrequest("POST", f"{parts.path}/api/v1/projects")
        connection.putheader("Content-Length", "1")
        connection.endheaders()
        connection.sock.settimeout(_ANSWER_SECONDS)
        return not connection.sock.recv(1)
    return True


def _connection(settings: Settings, parts: SplitResult) -> HTTPConnection:
    if parts.scheme != "https":
        return HTTPConnection(_host_and_port(parts), timeout=_CONNECT_SECONDS)
    context = ssl.create_default_context(cafile=settings.ca_file or None)
    return HTTPSConnection(_host_and_port(parts), timeout=_CONNECT_SECONDS, context=context)


def _host_and_port(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


def _is_local(parts: SplitResult) -> bool:
    host = parts.hostname or ""
    return is_loopback(host) or host == "0.0.0.0"  # noqa: S104 - it is looked for


_LOOKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _settings, _store, _broker, _workers, _orchestrator, _callback_url, _signing_keys, _files,
)  # fmt: skip
