"""Wait for a fact instead of sleeping for a while."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.02


def wait_until(condition: Callable[[], T], limit_seconds: float, what: str) -> T:
    """Call `condition` until what it returns is true, and return that.

    Raises TimeoutError, naming `what` was awaited, when `limit_seconds` have passed.
    """
    deadline = time.monotonic() + limit_seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise TimeoutError(f"not within {limit_seconds:g} s: {what}")
        time.sleep(POLL_SECONDS)
