"""`takeone doctor`: looks at everything that a deployment needs, and says what to do about what it finds.

It reads, pings and connects, and dispatches nothing. Exit code 0 if nothing is wrong, else 1.
"""

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import urlsplit

import click
import requests

from settings import Settings, SettingsError, load_settings
from settings.sources import unknown_variables
from store import health
from store.connecting import connections
from store.errors import StoreUnavailable
from store.link import Link
from tasks.diagnosis import broker_round_trip, workers_that_answer

OK, WARNING, WRONG = "ok", "warning", "WRONG"
_LEAST_REDIS = (6, 2)
_PING_SECONDS = 2.0
_CONNECT_SECONDS = 3.0
_LOOPBACK = ("localhost", "127.", "::1", "0.0.0.0")  # noqa: S104 - it is looked for


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, and what to do if it is not well."""

    about: str
    state: str
    found: str
    advice: str = ""


@click.command("doctor")
def doctor() -> None:
    """Look whether everything that the service needs is there, and say what to do."""
    findings = list(examine())
    click.echo(table(findings))
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


def _settings(settings: Settings) -> Iterator[Finding]:
    yield Finding("settings", OK, f"complete, for {settings.env}")
    for name, meant in unknown_variables(type(settings)).items():
        advice = f"rename it to {meant}" if meant else "remove it, if nothing else reads it"
        yield Finding("settings", WARNING, f"{name} is no setting", advice)


def _store(settings: Settings) -> Iterator[Finding]:
    try:
        link = Link(connections(settings), 1, settings.redis_timeout_seconds)
        with closing(link):
            version = health.version(link)
            problems = health.problems(link, production=True)
    except StoreUnavailable as error:
        advice = "start Redis, or correct TAKEONE_REDIS_URL; then try redis-cli -u with it"
        yield Finding("store", WRONG, f"Redis does not answer ({error})", advice)
        return
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    yield Finding(
        "store",
        OK if numbers >= _LEAST_REDIS else WRONG,
        f"Redis {version} answers",
        f"use Redis {'.'.join(map(str, _LEAST_REDIS))} or newer",
    )
    for problem in problems:
        found, _, advice = problem.partition(": ")
        state = WRONG if settings.production else WARNING
        yield Finding("store", state, found, advice or "correct Redis's configuration")
    if not problems:
        yield Finding("store", OK, "it keeps what it is told, and evicts nothing")


def _broker(settings: Settings) -> Iterator[Finding]:
    trouble = broker_round_trip(settings)
    if trouble is None:
        yield Finding("broker", OK, "a message went there and back")
        return
    variable = "TAKEONE_REDIS_URL" if settings.broker_is_store else "TAKEONE_BROKER_URL"
    yield Finding("broker", WRONG, f"no message goes through ({trouble})", f"check {variable}")


def _workers(_: Settings) -> Iterator[Finding]:
    names = workers_that_answer(_PING_SECONDS)
    if names:
        yield Finding("workers", OK, f"{len(names)} answered: {', '.join(names)}")
        return
    advice = "start the Procfile's `worker`, with the same settings, and read its log"
    yield Finding("workers", WRONG, f"none answered within {_PING_SECONDS:g} s", advice)


def _orchestrator(settings: Settings) -> Iterator[Finding]:
    parts = urlsplit(settings.orchestrator_url)
    where = f"{parts.scheme}://{parts.hostname}"
    if settings.orchestrator_use_proxies:
        yield Finding("orchestrator", WARNING, f"{where} is behind a proxy: not looked at")
        return
    # Not even a HEAD: there are webhooks that take any method for a call.
    trouble = _connect_trouble(parts.hostname or "", parts.port, parts.scheme == "https")
    if trouble is None:
        yield Finding("orchestrator", OK, f"{where} takes connections (nothing was posted)")
    else:
        advice = (
            "start it, or correct TAKEONE_ORCHESTRATOR_URL; from the workers it must be reached"
        )
        yield Finding("orchestrator", WRONG, f"{where} takes no connection ({trouble})", advice)
    if settings.production and parts.scheme == "http" and not _is_local(parts.hostname or ""):
        yield Finding("orchestrator", WARNING, "dispatches travel unencrypted", "use https")


def _connect_trouble(host: str, port: int | None, encrypted: bool) -> str | None:
    try:
        address = (host, port or (443 if encrypted else 80))
        with socket.create_connection(address, _CONNECT_SECONDS) as connection:
            if encrypted:
                context = ssl.create_default_context()
                context.wrap_socket(connection, server_hostname=host).close()
    except OSError as error:
        return type(error).__name__
    return None


def _callback_url(settings: Settings) -> Iterator[Finding]:
    parts = urlsplit(settings.public_url)
    where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    if settings.production and _is_local(parts.hostname or ""):
        advice = "set TAKEONE_PUBLIC_URL to the address that the orchestrator reaches the API by"
        yield Finding("callback URL", WRONG, f"{where} is only this machine's own", advice)
        return
    if settings.production and parts.scheme == "http":
        advice = "use https, unless the network between the two is yours alone"
        yield Finding("callback URL", WARNING, f"{where}: secrets travel unencrypted", advice)
    if _health_answers(settings.public_url):
        yield Finding("callback URL", OK, f"the API answers at {where}")
    else:
        advice = (
            "start `web`, or correct TAKEONE_PUBLIC_URL; no matter if only this machine is shut out"
        )
        yield Finding("callback URL", WARNING, f"no API answers at {where} from here", advice)


def _health_answers(public_url: str) -> bool:
    with requests.Session() as session:
        session.trust_env = False
        try:
            answer = session.get(
                f"{public_url}/healthz", timeout=_CONNECT_SECONDS, allow_redirects=False
            )
            return answer.ok and answer.json() == {"status": "ok"}
        except (requests.RequestException, ValueError):
            return False


def _is_local(host: str) -> bool:
    return host.lower().startswith(_LOOPBACK)


_LOOKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _settings, _store, _broker, _workers, _orchestrator, _callback_url,
)  # fmt: skip
