"""Lines of libraries in our format; in JSON, without the message of an exception."""

import json
import logging
import os
import subprocess
import sys
from typing import Any, Literal

import pytest

from observability.logs import LibraryFormatter
from settings import StoreSettings

TEXT = "planted-in-an-exception"
SIGNS_A_START = """
from datetime import UTC, datetime
from observability.logs import configure_logging
from orchestrators.base import Dispatch
from orchestrators.registry import make_adapter
from settings import Settings
machine = "arn:aws:states:eu-central-1:123456789012:stateMachine:take"
kind = {"orchestrator_kind": "step_functions", "orchestrator_workflow": machine}
settings = Settings(env="development", log_format="json", log_level="DEBUG", **kind)
configure_logging(settings)
make_adapter(settings).start(Dispatch("run-1", {"job_id": "1"}, datetime.now(UTC)), "")
import logging
logging.getLogger("library").debug("signed")
logging.shutdown()
"""


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


def test_not_even_debug_shows_the_session_token_of_aws() -> None:
    """botocore logs the request that it signs, with the token, and the answers of STS."""
    credentials = {
        "AWS_ACCESS_KEY_ID": TEXT,
        "AWS_SECRET_ACCESS_KEY": TEXT,
        "AWS_SESSION_TOKEN": TEXT,
    }
    command = [sys.executable, "-c", SIGNS_A_START]
    environment = {**os.environ, **credentials}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "signed" in done.stdout
    assert TEXT not in done.stdout + done.stderr
