"""Structured logging for every process: one format for our lines and those of libraries, and no secrets.

The rule (contract, "Logs, everywhere"): text from a caller appears only as a short keyed hash, and the message
of an exception never, because it can quote a URL, a header or a body. Only the console of development
shows it.
"""

import json
import logging
import logging.config
import sys
import traceback
from hashlib import blake2s
from typing import Any

import orjson
import structlog

from observability.log_sink import stdout
from settings import Settings
from settings.sources import unknown_variables

_QUIET = ("urllib3", "botocore", "kombu", "amqp", "celery.app.trace", "celery.worker.strategy")
_TIMESTAMP = structlog.processors.TimeStamper(fmt="iso", utc=True)
_hash_key = b""


def configure_logging(settings: Settings) -> None:
    """Set up logging in this process. May be called again, as forked workers do."""
    global _hash_key
    _hash_key = settings.log_key
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _TIMESTAMP,
            *_renderers(settings),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=structlog.WriteLoggerFactory(stdout),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    logging.config.dictConfig(library_logging(settings))
    logging.captureWarnings(True)
    log = structlog.get_logger("settings")
    for name, meant in unknown_variables(type(settings)).items():
        log.warning("settings.unknown_variable", name=name, meant=meant)


def hashed(identifier: str | None) -> str | None:
    """A stand-in for text from a caller: the same in all lines and processes, and not reversible."""
    return None if identifier is None else hash_of(identifier, _hash_key)


def hash_of(identifier: str, key: bytes) -> str:
    """The stand-in for `identifier` under this key."""
    return blake2s(identifier.encode(errors="replace"), key=key, digest_size=6).hexdigest()


def library_logging(settings: Settings) -> dict[str, Any]:
    """The logging.config dictionary for the lines of libraries."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"ours": {"()": LibraryFormatter, "settings": settings}},
        "handlers": {
            "stdout": {"class": "logging.StreamHandler", "stream": stdout, "formatter": "ours"}
        },
        "root": {"handlers": ["stdout"], "level": settings.log_level},
        "loggers": {name: {"level": "CRITICAL"} for name in _QUIET},
    }


class LibraryFormatter(logging.Formatter):
    """Renders the lines of Granian, Celery and other libraries in our format."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._renderers = [_TIMESTAMP, *_renderers(settings)]
        self._shows_exceptions = _without_exception_text not in self._renderers

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        level = record.levelname.lower()
        message = _message(record, shows_exceptions=self._shows_exceptions)
        event: Any = {"event": message, "logger": record.name, "level": level}
        if record.exc_info:
            event["exc_info"] = record.exc_info
        for render in self._renderers:
            event = render(None, level, event)
        return str(event)


def _renderers(settings: Settings) -> list[Any]:
    if settings.log_format == "json" or (settings.production and not settings.log_format):
        return [_without_exception_text, structlog.processors.JSONRenderer(serializer=_to_json)]
    # Without the values of local variables, among which may be tokens.
    console = structlog.dev.ConsoleRenderer(
        colors=False, exception_formatter=structlog.dev.plain_traceback
    )
    # The messages of exceptions are shown on the console of development only.
    return [_without_exception_text, console] if settings.production else [console]


def _without_exception_text(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """Replace an exception by its type and its place in the code."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        frames = traceback.extract_tb(error.__traceback__)[-8:]
        event["error"] = type(error).__name__
        event["error_at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return event


def _to_json(event: Any, **_: Any) -> str:
    try:
        return orjson.dumps(event, default=str).decode()
    except TypeError:  # text with surrogates, which no encoding can write
        return json.dumps(event, default=str)


def _message(record: logging.LogRecord, *, shows_exceptions: bool) -> str:
    """The message; if it is about an exception, with the type of that and no other text argument."""
    arguments: Any = record.args or ()
    named = arguments if isinstance(arguments, dict) else dict(enumerate(arguments))
    may_quote = record.exc_info or any(isinstance(value, BaseException) for value in named.values())
    try:
        if shows_exceptions or not may_quote:
            return record.getMessage()
        shown = {name: _without_text(value) for name, value in named.items()}
        return str(record.msg) % (shown if named is arguments else tuple(shown.values()))
    except (TypeError, ValueError, KeyError):
        return str(record.msg)


def _without_text(argument: Any) -> Any:
    if isinstance(argument, BaseException):
        return type(argument).__name__
    return argument if isinstance(argument, int | float) else "…"
