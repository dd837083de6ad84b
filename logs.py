"""Logging for every process: structured, one format for our lines and the libraries', and no secret.

The rule (contract, "Logs, everywhere"): what a caller wrote appears only as a short keyed hash, and the
text of an exception never appears, because it can quote a URL, a header or a body.
"""

import logging
import logging.config
import sys
import traceback
from hashlib import blake2s
from typing import Any

import orjson
import structlog

from log_lines import PromptLines
from runtime import utc_now
from settings import Settings
from settings.sources import unknown_variables

_QUIET = ("urllib3", "requests", "kombu", "amqp", "celery.app.trace", "celery.worker.strategy")
# gunicorn formats what it could not parse into the message itself.
_QUOTES_CALLERS = ("Invalid request", "Invalid HTTP", "Error handling request", "Error parsing")
_hash_key = b""


def configure_logging(settings: Settings) -> None:
    """Set up logging of this process. May be called again, as forked workers do."""
    global _hash_key
    _hash_key = settings.log_key
    renderer, lines = _renderer(settings), PromptLines(sys.stdout.buffer)
    structlog.configure(
        processors=[*_shared_processors(), renderer],
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )
    logging.config.dictConfig(library_logging(settings))
    for name, meant in unknown_variables(type(settings)).items():
        structlog.get_logger("settings").warning(
            "settings.unknown_variable", name=name, meant=meant
        )


def hashed(identifier: str | None) -> str | None:
    """Stand-in for anything that a caller wrote: the same in every line and process, and no way back."""
    if identifier is None:
        return None
    # Not remembered: most are ids that are seen once.
    return blake2s(identifier.encode(errors="replace"), key=_hash_key, digest_size=6).hexdigest()


def _shared_processors() -> list[Any]:
    return [
        structlog.processors.add_log_level,
        _stamped,
        _without_exception_text,
    ]


def _stamped(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    # The renderer writes it, which takes a fifth of what structlog's TimeStamper does.
    event["timestamp"] = utc_now()
    return event


def _without_exception_text(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """Say of an exception what it is and where it came from, never what it says."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        frames = traceback.extract_tb(error.__traceback__)[-8:]
        event["error"] = type(error).__name__
        event["error_at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return event


def _renderer(settings: Settings) -> Any:
    if settings.log_format == "json" or (settings.production and not settings.log_format):
        return structlog.processors.JSONRenderer(serializer=_to_json)
    console = structlog.dev.ConsoleRenderer(colors=False)
    return lambda logger, name, event: console(logger, name, _readable(event)).encode()


def _readable(event: dict[str, Any]) -> dict[str, Any]:
    return event | {"timestamp": f"{event['timestamp']:%FT%T.%fZ}"}


def _to_json(event: Any, **_: Any) -> bytes:
    return orjson.dumps(event, default=str, option=orjson.OPT_UTC_Z)


class LibraryFormatter(logging.Formatter):
    """Puts the lines of gunicorn, Celery and others into our format."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._render = _renderer(settings)

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        event: dict[str, Any] = {"event": _safe_message(record), "logger": record.name}
        event |= {"level": record.levelname.lower(), "exc_info": record.exc_info}
        event = _stamped(None, "", _without_exception_text(None, "", event))
        rendered = self._render(None, record.levelname.lower(), event)
        return rendered.decode() if isinstance(rendered, bytes) else rendered


def _safe_message(record: logging.LogRecord) -> str:
    message = str(record.msg)
    for quote in _QUOTES_CALLERS:
        if message.startswith(quote):
            return quote
    if record.exc_info or any(isinstance(each, BaseException) for each in _arguments(record)):
        return message  # the template: its arguments may be, or quote, the exception
    return record.getMessage()


def _arguments(record: logging.LogRecord) -> tuple[Any, ...]:
    arguments: Any = record.args or ()
    return tuple(arguments.values()) if isinstance(arguments, dict) else tuple(arguments)


def library_logging(settings: Settings) -> dict[str, Any]:
    """The logging.config dictionary for the lines of libraries."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"ours": {"()": LibraryFormatter, "settings": settings}},
        "handlers": {
            "stdout": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stdout",
                "formatter": "ours",
            }
        },
        "root": {"handlers": ["stdout"], "level": settings.log_level},
        "loggers": {
            **{name: {"level": "CRITICAL"} for name in _QUIET},
            # gunicorn gives its logger a handler of its own, which would print in its own format.
            "gunicorn.error": {"handlers": ["stdout"], "propagate": False},
        },
    }
