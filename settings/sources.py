"""Settings from files, as containers mount secrets, and variables that no setting answers to."""

import os
from difflib import get_close_matches
from pathlib import Path

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

PREFIX = "TAKEONE_"
_FILE = "_FILE"
_WITHOUT_PREFIX = ("host", "port")
_MOST_BYTES = 65_536
# What a deployment may still set from before: ignored, a limit would be off and nothing would say so.
# With both names set, one environment serves this release and the one before.
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
    """Whether a setting is a secret or, like a URL with a password in it, may hold one."""
    return field.annotation is SecretStr or not field.repr


def renamed_variables() -> list[str]:
    """A problem for each variable that is set under a name which it no longer has."""
    return [
        f"{old} is now called {new}"
        for old, new in _RENAMED.items()
        if _variable(old) and not _variable(new)
    ]


def unknown_variables(settings: type[BaseSettings]) -> dict[str, str | None]:
    """The TAKEONE_ variables that name no setting, each with the name that was probably meant."""
    fields = settings.model_fields.items()
    known = {variable_of(name) for name, _ in fields}
    known |= {variable_of(name) + _FILE for name, field in fields if may_be_secret(field)}
    given = {name.upper() for name in os.environ if name.upper().startswith(PREFIX)}
    unknown = sorted(given - known)
    return {name: next(iter(get_close_matches(name, known, 1, 0.8)), None) for name in unknown}


def values_from_files(settings: type[BaseSettings]) -> tuple[dict[str, str], dict[str, str]]:
    """What the files of `TAKEONE_X_FILE` hold, for every setting X that may be a secret; and the problem
    of each setting whose file cannot be used."""
    values, problems = {}, {}
    for name, field in settings.model_fields.items():
        variable = variable_of(name)
        path = may_be_secret(field) and _variable(variable + _FILE)
        if not path:
            continue
        try:
            values[name] = _read(Path(path))
        except OSError as error:
            problems[name] = f"{variable}{_FILE} cannot be read: {error.strerror}"
        except ValueError as error:
            problems[name] = f"{variable}{_FILE} cannot be used: {error}"
        if _variable(variable):
            problems[name] = f"{variable} and {variable}{_FILE} are both set: unset one"
    return values, problems


def _variable(name: str) -> str:
    # As the other settings are: whatever the case of its letters.
    return next((value for key, value in os.environ.items() if key.upper() == name), "")


def _read(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError("it is too large")
    try:
        return content.decode().strip()
    except UnicodeDecodeError:
        raise ValueError("it is not text") from None
