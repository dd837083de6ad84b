"""Lines of libraries in our format: rendered, and in JSON without what an exception says."""

import json
import logging
import sys
from typing import Any, Literal

import pytest

from observability.logs import LibraryFormatter
from settings import StoreSettings

SAID = "planted-in-an-exception"


def line(
    message: str,
    *arguments: Any,
    error: Exception | None = None,
    form: Literal["json", "console"] = "json",
) -> str:
    """One record as it is written in development."""
    info = None
    if error is not None:
        try:
            raise error
        except type(error):
            info = sys.exc_info()
    record = logging.LogRecord("library", logging.ERROR, "x.py", 1, message, arguments, info)
    return LibraryFormatter(StoreSettings(env="development", log_format=form)).format(record)


@pytest.mark.parametrize("error", [None, ValueError(SAID)])
def test_a_message_around_an_exception_is_rendered_with_its_type(error: Exception | None) -> None:
    shown = line("Cannot reach %s: %r, again in %.1f s", SAID, OSError(SAID), 2, error=error)
    assert json.loads(shown)["event"] == "Cannot reach …: 'OSError', again in 2.0 s"
    assert SAID not in shown


def test_a_message_without_an_exception_is_as_it_is() -> None:
    assert json.loads(line("%s of %d", "one", 2))["event"] == "one of 2"
    assert json.loads(line("%d apples", "x"))["event"] == "%d apples"


def test_a_developer_at_the_console_is_shown_what_an_exception_says() -> None:
    shown = line("failed: %s", OSError(SAID), error=ValueError(SAID), form="console")
    assert f"failed: {SAID}" in shown
    assert f"ValueError: {SAID}" in shown
