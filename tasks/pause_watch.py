"""How a worker learns within about a second that dispatching is paused or resumed.

This only leaves messages in their queues. What keeps a dispatch from being posted is the commit that begins it.
"""

from collections.abc import Callable

import structlog

from store.pauses import PauseStore
from tasks.periodic import PeriodicThread

log = structlog.get_logger("tasks")

PAUSE_SEEN_SECONDS = 1.0


class PauseWatch(PeriodicThread):
    """Reads the pause every second. While the store is unavailable, the last reading holds."""

    def __init__(self, pauses: PauseStore) -> None:
        super().__init__("pause", PAUSE_SEEN_SECONDS)
        self._pauses = pauses
        self.is_on = False
        #: Called with `is_on` each time that it changes.
        self.on_change: Callable[[bool], None] = lambda _: None

    def step(self) -> None:
        """Read the pause once."""
        pause = self._pauses.latest()
        is_on = pause is not None and pause.is_on
        if is_on is self.is_on:
            return
        self.is_on = is_on
        self.on_change(is_on)
        if pause is not None:
            at = str(pause.resumed_at or pause.paused_at)
            log.warning("dispatching.paused" if is_on else "dispatching.resumed", at=at)
