"""Loaded by Schemathesis (tests/acceptance/test_schemathesis.py): short long polls and times in the past."""

from datetime import UTC, datetime, timedelta
from typing import Any

import schemathesis
from hypothesis import strategies

LONGEST_WAIT = 60

# The contract refuses callbacks dated more than five minutes ahead, which no schema can express.
schemathesis.openapi.format(
    "date-time",
    strategies.datetimes(
        datetime(2000, 1, 1),
        datetime.now(UTC).replace(tzinfo=None) - timedelta(days=1),
        timezones=strategies.just(UTC),
    ).map(datetime.isoformat),
)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Shorten every long poll that the service would grant to one second."""
    wait = str((case.query or {}).get("wait"))
    if wait.isascii() and wait.isdigit() and 1 < int(wait) <= LONGEST_WAIT:
        case.query["wait"] = 1
