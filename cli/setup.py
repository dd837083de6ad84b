"""What the commands share: settings, services, errors in one line, and the options of an operator's act."""

import json
import os
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from getpass import getuser
from typing import Any

import click
import structlog

from domain.audit import OperatorAct
from domain.errors import ResourceNotFound, TakeOneError
from services.assembly import Services
from settings import Settings, SettingsError, load_store_settings
from store.errors import StoreError
from tasks.outbox import make_outbox

Command = Callable[..., None]

_MAX_CHARACTERS = 500


def settings_of(load: Callable[[], Settings]) -> Settings:
    """The settings that `load` reads. Raises `click.ClickException` naming what is missing."""
    try:
        return load()
    except SettingsError as error:
        raise click.ClickException(f"settings are missing or wrong:\n{error}") from None


def error_line(error: TakeOneError) -> str:
    """The error's code, message and details in one line."""
    details = ", ".join(
        f"{name} {' or '.join(value) if isinstance(value, list) else value}"
        for name, value in error.details.items()
        if value
    )
    return f"{error.code}: {error.message}" + (f" ({details})" if details else "")


def echo_lines(lines: Iterable[str], if_none: str) -> None:
    """Print the lines as they come; if there is none, `if_none` to standard error."""
    is_empty = True
    for line in lines:
        click.echo(line)
        is_empty = False
    if is_empty:
        click.echo(if_none, err=True)


def printable(line: str) -> str:
    """`line` with JSON's escapes in place of what terminals obey: a name or an id may be any text."""
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in line)


def _one_line(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not value.strip() or len(value) > _MAX_CHARACTERS or not value.isprintable():
        raise click.BadParameter(f"a line of 1 to {_MAX_CHARACTERS} characters")
    return value.strip()


def _system_user() -> str:
    try:
        return getuser()
    except (KeyError, OSError):  # in a container, the user id may have no name
        return str(os.getuid())


by_option = click.option(
    "--by", default=_system_user, callback=_one_line, help="Who does it; else the system's user."
)


def act_options(
    default_reason: str | None = None, reason_help: str = "Why; it is kept on the job's trail."
) -> Callable[[Command], Command]:
    """Give a command --reason, required unless it has a default, and --by: both as one argument `act`."""
    default: dict[str, Any] = (
        {"default": default_reason, "show_default": True} if default_reason else {}
    )

    def decorate(command: Command) -> Command:
        @click.option(
            "--reason", required=not default, callback=_one_line, help=reason_help, **default
        )
        @by_option
        @wraps(command)
        def with_act(*arguments: Any, reason: str, by: str, **options: Any) -> None:
            command(*arguments, act=OperatorAct(by, reason), **options)

        return with_act

    return decorate


def with_services(command: Command) -> Command:
    """Call `command` with the services first; report what they raise in one line, with exit code 1."""

    @wraps(command)
    def prepared(*arguments: Any, **options: Any) -> None:
        if not structlog.is_configured():  # standard output is for the command's own output
            structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
        settings = settings_of(load_store_settings)
        services = Services(settings, make_outbox(settings))
        try:
            command(services, *arguments, **options)
        except UnicodeEncodeError as error:
            if error.encoding != "utf-8":  # of the output
                raise
            raise click.UsageError("what was given is not UTF-8") from None
        except StoreError as error:
            raise click.ClickException(f"the store does not serve: {error}") from error
        except ResourceNotFound:
            raise click.ClickException(f"there is no job {options.get('job_id')}") from None
        except TakeOneError as error:
            raise click.ClickException(error_line(error)) from None

    return prepared
