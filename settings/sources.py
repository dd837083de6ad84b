"""Settings from files, as containers mount secrets, and variables that no setting answers to."""

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

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


class Unreadable:
    """Stands where a value should be; the field's validation turns it into a named problem."""

    def __init__(self, problem: str) -> None:
        self.problem = problem


class SecretFiles(PydanticBaseSettingsSource):
    """Reads `TAKEONE_X_FILE` for every setting X that is, or may hold, a secret."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The value of one field, or None."""
        value = _from_file(field_name) if may_be_secret(field) else None
        return value, field_name, False

    def __call__(self) -> dict[str, Any]:
        """The values of all fields that a file is named for."""
        fields = self.settings_cls.model_fields.items()
        values = {name: self.get_field_value(field, name)[0] for name, field in fields}
        return {name: value for name, value in values.items() if value is not None}


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


def unknown_variables(
    settings: type[BaseSettings], environment: Mapping[str, str] | None = None
) -> dict[str, str | None]:
    """The TAKEONE_ variables that name no setting, each with the name that was probably meant."""
    given = {name.upper() for name in (os.environ if environment is None else environment)}
    known = {variable_of(name) for name in settings.model_fields}
    for name, field in settings.model_fields.items():
        if may_be_secret(field):
            known.add(PREFIX + name.upper() + _FILE)
    unknown = sorted(name for name in given - known if name.startswith(PREFIX))
    return {name: next(iter(get_close_matches(name, known, 1, 0.8)), None) for name in unknown}


def _from_file(field_name: str) -> str | Unreadable | None:
    variable = PREFIX + field_name.upper()
    path = _variable(variable + _FILE)
    if not path:
        return None
    if _variable(variable):
        return Unreadable(f"{variable} and {variable}{_FILE} are both set: unset one")
    try:
        return _read(Path(path))
    except OSError as error:
        return Unreadable(f"{variable}{_FILE} cannot be read: {error.strerror}")
    except ValueError as error:
        return Unreadable(f"{variable}{_FILE} cannot be used: {error}")


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
