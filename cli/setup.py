"""What a command needs first: complete settings, the use cases, and errors said in one line."""

import os
import sys
from collections.abc import Callable
from functools import wraps
from getpass import getuser
from typing import Any, TypeVar

import click
import structlog

from domain.errors import ResourceNotFound, TakeOneError
from services.assembly import Services
from settings import Settings, SettingsError, load_store_settings
from store.errors import StoreError
from tasks.outbox import make_outbox

Returned = TypeVar("Returned")

_MOST_CHARACTERS = 500


def settings_of(load: Callable[[], Settings]) -> Settings:
    """The settings that `load` reads. Raises `click.ClickException` naming what is missing."""
    try:
        return load()
    except SettingsError as error:
        raise click.ClickException(f"the settings are not complete:\n{error}") from None


def refused(error: TakeOneError) -> str:
    """A refusal in a line."""
    details = ", ".join(f"{name} {value}" for name, value in error.details.items() if value)
    return f"{error.code}: {error.message}" + (f" ({details})" if details else "")


def one_line(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """The value of an option that is shown to operators. Raises `click.BadParameter`."""
    if not value.strip() or len(value) > _MOST_CHARACTERS or not value.isprintable():
        raise click.BadParameter(f"a line of 1 to {_MOST_CHARACTERS} characters")
    return value.strip()


def system_user() -> str:
    """Who runs the command."""
    try:
        return getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return str(os.getuid())


by_option = click.option(
    "--by", default=system_user, callback=one_line, help="Who does it; else the system's user."
)
reason_option = click.option(
    "--reason", required=True, callback=one_line, help="Why; it is kept on the job's trail."
)


def with_services(command: Callable[..., Returned]) -> Callable[..., Returned]:
    """Call `command` with the use cases first; turn what they raise into one line and exit code 1."""

    @wraps(command)
    def prepared(*arguments: Any, **options: Any) -> Returned:
        if not structlog.is_configured():  # standard output is for what the command was asked for
            structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
        settings = settings_of(load_store_settings)
        services = Services(settings, make_outbox(settings))
        try:
            return command(services, *arguments, **options)
        except UnicodeEncodeError:
            raise click.UsageError("what was given is not UTF-8") from None
        except StoreError as error:
            raise click.ClickException(f"the store does not serve: {error}") from error
        except ResourceNotFound:
            raise click.ClickException(f"there is no job {options.get('job_id')}") from None
        except TakeOneError as error:
            raise click.ClickException(refused(error)) from None

    return prepared
