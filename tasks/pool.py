"""Celery's thread pool, which tells the worker's event loop when there is room again.

With `worker_disable_prefetch` the loop takes no message while every thread is busy, and then sleeps until
something else wakes it: a full worker would stand still for up to a quarter of a second at a time.
"""

import os
from contextlib import suppress
from typing import Any

from celery.concurrency.thread import TaskPool
from celery.worker import state


class ThreadPool(TaskPool):
    """Threads that wake the loop at the end of a task, where the loop may be asleep for want of room."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._was_full = False
        self._wakes, self._wake = os.pipe()
        os.set_blocking(self._wakes, False)
        os.set_blocking(self._wake, False)

    def register_with_event_loop(self, hub: Any) -> None:
        """Let the loop be woken."""
        hub.add_reader(self._wakes, self._woken)

    def on_apply(self, *args: Any, **options: Any) -> Any:
        """Hand a task to a thread."""
        if len(state.reserved_requests) >= self.limit:
            self._was_full = True
        result = super().on_apply(*args, **options)
        result.f.add_done_callback(self._make_room)
        return result

    def _make_room(self, _: Any) -> None:
        # Not for every task: a turn of the loop costs more than all of this.
        if self._was_full:
            self._was_full = False
            with suppress(BlockingIOError):  # then it has been told often enough
                os.write(self._wake, b"\0")

    def _woken(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._wakes, 4096)
