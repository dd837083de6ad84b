"""A thread that repeats one step, and that no error ends."""

import threading
from collections.abc import Callable
from contextlib import suppress


class PeriodicThread(threading.Thread):
    """Calls `step` when it is started and then every `seconds`, until it is stopped.

    An exception ends one step only.
    """

    def __init__(self, name: str, seconds: float, step: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._seconds, self._step = seconds, step
        self._stopping = threading.Event()

    def run(self) -> None:
        """Repeat the step."""
        while not self._stopping.is_set():
            with suppress(Exception):
                self._step()
            self._stopping.wait(self._seconds)

    def stop(self) -> None:
        """Begin no further step, and wait up to 5 seconds for one in progress."""
        self._stopping.set()
        if self.is_alive():
            self.join(timeout=5)
