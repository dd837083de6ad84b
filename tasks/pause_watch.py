"""How a worker learns that dispatching is paused or resumed, within a second or so.

It only keeps messages in their queues. What keeps a dispatch from being posted is the commit that begins it.
"""

import threading
from collections.abc import Callable
from contextlib import suppress

import structlog

from store.pauses import PauseStore

log = structlog.get_logger("tasks")

PAUSE_SEEN_SECONDS = 1.0


class PauseWatch:
    """Reads the pause every second, in a thread; while the store is away, what it said last counts."""

    def __init__(self, pauses: PauseStore) -> None:
        self._pauses = pauses
        self._react: Callable[[bool], None] | None = None
        self._thread = threading.Thread(target=self._run, name="pause", daemon=True)
        self.is_on = False

    def start(self, react: Callable[[bool], None] | None = None) -> None:
        """Begin to watch. `react` is called with whether it is on, each time that this changes."""
        self._react = react
        self._thread.start()

    def _run(self) -> None:
        between = threading.Event()
        while True:
            with suppress(Exception):
                self._look()
            between.wait(PAUSE_SEEN_SECONDS)

    def _look(self) -> None:
        pause = self._pauses.latest()
        is_on = pause is not None and pause.is_on
        if is_on is self.is_on:
            return
        self.is_on = is_on
        if self._react is not None:
            self._react(is_on)
        if pause is not None:
            moment = pause.resumed_at or pause.paused_at
            log.warning("dispatching.paused" if is_on else "dispatching.resumed", at=str(moment))
