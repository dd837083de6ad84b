"""How a worker learns within about a second that dispatching is paused or resumed.

This only leaves messages in their queues. What keeps a dispatch from being posted is the commit that begins it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from store.pauses import PauseStore

log = structlog.get_logger("tasks")

PAUSE_SEEN_SECONDS = 1.0


@dataclass(slots=True)
class PauseWatch:
    """Reads the pause every second. While the store is unavailable, the last reading holds."""

    pauses: PauseStore
    is_on: bool = False
    #: Called with `is_on` each time that it changes.
    on_change: Callable[[bool], None] = lambda _: None

    def step(self) -> None:
        """Read the pause once."""
        pause = self.pauses.latest()
        is_on = pause is not None and pause.is_on
        if is_on is self.is_on:
            return
        self.is_on = is_on
        self.on_change(is_on)
        if pause is not None:
            at = str(pause.resumed_at or pause.paused_at)
            log.warning("dispatching.paused" if is_on else "dispatching.resumed", at=at)
