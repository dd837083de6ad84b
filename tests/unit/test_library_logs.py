"""Lines of libraries in our format; in JSON, without the message of an exception."""

import json
import logging
import sys
from typing import Any, Literal

import pytest

from observability.logs import LibraryFormatter
from settings import StoreSettings

TEXT = "planted-in-an-exception"


def line(
    message: str,
    *arguments: Any,
    error: Exception | None = None,
    log_format: Literal["json", "console"] = "json",
) -> str:
    """A log record, formatted with development settings."""
    exc_info = None
    if error is not None:
        try:
            raise error
        except type(error):
            exc_info = sys.exc_info()
    record = logging.LogRecord("library", logging.ERROR, "x.py", 1, message, arguments, exc_info)
    return LibraryFormatter(StoreSettings(env="development", log_format=log_format)).format(record)


@pytest.mark.parametrize("error", [None, ValueError(TEXT)])
def test_a_message_about_an_exception_shows_its_type_only(error: Exception | None) -> None:
    shown = line("Cannot reach %s: %r, again in %.1f s", TEXT, OSError(TEXT), 2, error=error)
    assert json.loads(shown)["event"] == "Cannot reach …: 'OSError', again in 2.0 s"
    assert TEXT not in shown


def test_a_message_without_an_exception_is_unchanged() -> None:
    assert json.loads(line("%s of %d", "one", 2))["event"] == "one of 2"
    assert json.loads(line("%d apples", "x"))["event"] == "%d apples"


def test_the_console_of_development_shows_the_messages_of_exceptions() -> None:
    shown = line("failed: %s", OSError(TEXT), error=ValueError(TEXT), log_format="console")
    assert f"failed: {TEXT}" in shown
    assert f"ValueError: {TEXT}" in shown


def test_a_traceback_shows_no_local_variables() -> None:
    shown = line("failed%.0s", TEXT, error=ValueError("why"), log_format="console")
    assert "ValueError: why" in shown
    assert TEXT not in shown
