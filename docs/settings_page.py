"""Writes docs/configuration.md from the settings: `python -m docs.settings_page > docs/configuration.md`."""

from types import UnionType
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from settings import Settings
from settings.rules import LEAST_SECRET_CHARACTERS, LEAST_SHARED_KEY_BYTES
from settings.sources import PREFIX, may_be_secret, variable_of

_HEAD = f"""# Configuration

Every setting is an environment variable. This page is generated from `settings/model.py` (`make docs`); a
test checks that it is up to date.

- A process with a missing or unsafe setting does not start. It lists all problems at once, by name and
  never by value.
- Blanks and line feeds around a value are ignored.
- A setting marked with a key (🔑) is a secret, or a URL that may contain a password. It may come from a
  file instead, as containers mount secrets: `{PREFIX}CALLBACK_SECRET_FILE=/run/secrets/callback`. If both
  the variable and its file are set, the process does not start.
- An unknown `{PREFIX}` variable is logged at start, with the name that was probably meant. It is not
  refused: platforms set such variables (Kubernetes does, for a Service called `takeone`), and after a
  rollback a release sees settings of the later one. The old name of a renamed setting is refused unless
  the new name is set too.
- `{PREFIX}ENV=development` gives the settings marked with a star (\\*) a default for one machine.
- A process requires only its own settings: a worker none of the editors', Flower only its broker and its
  users.
- With `{PREFIX}OTEL`, processes also read OpenTelemetry's own `OTEL_…` variables.
"""

# The title, and how the names of its settings begin. What fits nowhere comes last.
_GROUPS = (
    ("The process", ("env", "host", "port", "public_", "allowed_", "cors_", "max_body", "web_")),
    ("Store and broker", ("redis_", "broker_", "dispatch_queues")),
    ("The orchestrator", ("orchestrator_", "callback_", "signing_", "breaker_")),
    ("Editors", ("auth_", "jwt_", "model_profiles", "write_limit")),
    ("Dispatches", ("run_wait", "unknown_", "claim_", "sweep_", "worker_")),
    ("Flower", ("flower_",)),
    ("Logs, metrics and traces", ("log_", "metrics_", "otel")),
)
_OTHER = "Other"

REQUIRED = "required"
_SHARED_KEY = f"of {LEAST_SHARED_KEY_BYTES} bytes or more if it is a shared key"
PRODUCTION = {
    "redis_url": REQUIRED,
    "public_url": REQUIRED,
    "orchestrator_url": f"{REQUIRED} by the worker",
    "callback_secret": f"{REQUIRED}, unless SIGNING_SECRET is set; each of "
    f"{LEAST_SECRET_CHARACTERS} characters or more",
    "auth_mode": "must be `jwt`; `dev` works on a loopback address alone",
    "jwt_key": f"this or JWT_JWKS_URL is {REQUIRED}; {_SHARED_KEY}",
    "jwt_jwks_url": f"this or JWT_KEY is {REQUIRED}; https, but for one on this machine",
    "jwt_issuer": REQUIRED,
    "jwt_audience": REQUIRED,
    "flower_basic_auth": "required by Flower, unless its OAuth is set; passwords of "
    f"{LEAST_SECRET_CHARACTERS} characters or more",
}
_DEVELOPMENT_DEFAULTS = {"callback_secret", "auth_mode", "public_url", "orchestrator_url"}
_UNITS = {"_seconds": "seconds", "_bytes": "bytes"}


def settings_page() -> str:
    """The page's text."""
    rows: dict[str, list[str]] = {}
    for name, field in Settings.model_fields.items():
        rows.setdefault(_group(name), []).append(_row(name, field))
    titles = [title for title, _ in _GROUPS] + [_OTHER]
    sections = [_section(title, rows[title]) for title in titles if title in rows]
    return "\n".join([_HEAD, *sections])


def _group(name: str) -> str:
    return next((title for title, starts in _GROUPS if name.startswith(starts)), _OTHER)


def _section(title: str, rows: list[str]) -> str:
    head = "| setting | meaning | value | default | in production |\n|---|---|---|---|---|"
    return "\n".join([f"## {title}\n", head, *rows, ""])


def _row(name: str, field: FieldInfo) -> str:
    marks = " 🔑" if may_be_secret(field) else ""
    marks += " \\*" if name in _DEVELOPMENT_DEFAULTS else ""
    meaning = " ".join(str(field.description).split()).replace("|", "\\|")
    shown = [f"`{variable_of(name)}`{marks}", meaning, _value(name, field), _default(field)]
    return f"| {' | '.join([*shown, PRODUCTION.get(name, '')])} |"


def _value(name: str, field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{each}`" if each else "empty" for each in get_args(field.annotation))
    unit = next((unit for end, unit in _UNITS.items() if name.endswith(end)), None)
    kind = unit or _kind(field.annotation)
    bounds = _bounds(field.metadata)
    return f"{kind}, {bounds}" if bounds else kind


def _kind(annotation: Any) -> str:
    kinds = {bool: "`true`, `false`", int: "whole number", float: "number", SecretStr: "text"}
    assert not isinstance(annotation, UnionType)
    return kinds.get(annotation, "text")


def _bounds(metadata: list[Any]) -> str:
    words = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
    found = {key: getattr(each, key) for each in metadata for key in words if hasattr(each, key)}
    return " ".join(f"{words[key]} {found[key]:,.15g}" for key in words if key in found)


def _default(field: FieldInfo) -> str:
    default = field.default
    if isinstance(default, tuple):
        default = ",".join(default)
    if isinstance(default, SecretStr) or default == "":
        return "empty"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


if __name__ == "__main__":
    print(settings_page(), end="")  # noqa: T201 - that is what it is for
