"""Settings from files, as containers mount secrets, and variables whose names are wrong."""

import os
from difflib import get_close_matches
from pathlib import Path

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

PREFIX = "TAKEONE_"
_FILE = "_FILE"
_WITHOUT_PREFIX = ("host", "port")
# If an old name were ignored, a limit would silently be off. With both names set, one environment serves this
# release and the one before.
_RENAMED = {
    f"{PREFIX}RUN_LIMIT": f"{PREFIX}WRITE_LIMIT",
    f"{PREFIX}DISPATCH_LANES": f"{PREFIX}DISPATCH_QUEUES",
    f"{PREFIX}WEB_WAITERS": f"{PREFIX}WEB_WAIT_SLOTS",
    f"{PREFIX}ORCHESTRATOR_DEDUPLICATES": f"{PREFIX}ORCHESTRATOR_IDEMPOTENCY_SECONDS",
}


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return name.upper() if name in _WITHOUT_PREFIX else PREFIX + name.upper()


def may_be_secret(field: FieldInfo) -> bool:
    """Whether a setting is a secret, or may hold one as a URL may hold a password."""
    return field.annotation is SecretStr or not field.repr


def renamed_variables() -> list[str]:
    """A problem for each variable that is set under its old name only."""
    given = {name for name, value in _environment().items() if value}
    return [
        f"{old} is now called {new}" for old, new in _RENAMED.items() if given & {old, new} == {old}
    ]


def unknown_variables(settings: type[BaseSettings]) -> dict[str, str | None]:
    """The TAKEONE_ variables that are no setting, each with the name that was probably meant."""
    fields = settings.model_fields.items()
    known = {variable_of(name) for name, _ in fields}
    known |= {variable_of(name) + _FILE for name, field in fields if may_be_secret(field)}
    unknown = {name for name in _environment() if name.startswith(PREFIX)} - known
    return {
        name: next(iter(get_close_matches(name, known, 1, 0.8)), None) for name in sorted(unknown)
    }


def values_from_files(settings: type[BaseSettings]) -> tuple[dict[str, str], dict[str, str]]:
    """The values of `TAKEONE_X_FILE`, for each setting X that may be a secret, and the problems by setting."""
    environment, values, problems = _environment(), {}, {}
    for name, field in settings.model_fields.items():
        variable = variable_of(name)
        path = environment.get(variable + _FILE)
        if not path or not may_be_secret(field):
            continue
        try:
            values[name] = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            problems[name] = f"{variable}{_FILE} cannot be read: {error.strerror}"
        except UnicodeDecodeError:
            problems[name] = f"{variable}{_FILE} cannot be used: it is not text"
        if environment.get(variable):
            problems[name] = f"{variable} and {variable}{_FILE} are both set: unset one"
    return values, problems


def _environment() -> dict[str, str]:
    # pydantic-settings ignores the case of names too.
    return {name.upper(): value for name, value in os.environ.items()}
