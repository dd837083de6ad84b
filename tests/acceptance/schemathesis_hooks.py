"""Loaded by Schemathesis (tests/acceptance/test_schemathesis.py): long polls are kept short."""

from typing import Any

import schemathesis

LONGEST_WAIT = 60


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Let no long poll that the service would grant hold up the run for more than a second."""
    wait = str((case.query or {}).get("wait"))
    if wait.isascii() and wait.isdigit() and 1 < int(wait) <= LONGEST_WAIT:
        case.query["wait"] = 1
