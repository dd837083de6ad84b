"""Wait for a condition instead of a fixed time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.02


def wait_until(condition: Callable[[], T], limit_seconds: float, what: str) -> T:
    """Call `condition` until it returns a true value, and return that.

    Raises TimeoutError after `limit_seconds`; `what` describes the condition in its message.
    """
    deadline = time.monotonic() + limit_seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise TimeoutError(f"not within {limit_seconds:g} s: {what}")
        time.sleep(POLL_SECONDS)
