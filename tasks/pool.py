"""Celery's thread pool, with threads that go on by themselves and tell the event loop of room.

With `worker_disable_prefetch` the loop takes no message while every thread is busy, and then sleeps until
something else wakes it: a full worker would stand still for up to a quarter of a second at a time.
"""

import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

from celery.concurrency.base import apply_target
from celery.concurrency.thread import ApplyResult, TaskPool
from celery.worker import state

# Then a thread comes back, however much there is to do: the loop may hold a message that it asked for when
# there seemed to be room, and must not wait with it until the crowd is gone.
_LONGEST_SECONDS = 1.0


def nothing_more() -> bool:
    """Where only the event loop has work for the threads."""
    return False


class ThreadPool(TaskPool):
    """Threads that look for more work at the end of a task, and wake the loop where it waits for room."""

    #: Does one more piece of work; False if there was none (`tasks.inbox`).
    run_next: ClassVar[Callable[[], bool]] = staticmethod(nothing_more)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._was_full = False
        # Counted by adding and taking away, which no other thread can come between.
        self._handed_over: deque[None] = deque()
        self._going_on: deque[None] = deque()
        self._wakes, self._wake = os.pipe()
        os.set_blocking(self._wakes, False)
        os.set_blocking(self._wake, False)

    def register_with_event_loop(self, hub: Any) -> None:
        """Let the loop be woken."""
        hub.add_reader(self._wakes, self._woken)

    @property
    def num_processes(self) -> int:
        """The threads that Celery may reckon with: not those that go on by themselves."""
        free: int = self.limit - len(self._going_on)
        return free

    def on_apply(
        self,
        target: Any,
        args: Any = None,
        kwargs: Any = None,
        callback: Any = None,
        accept_callback: Any = None,
        **_: Any,
    ) -> Any:
        """Hand a task to a thread."""
        if len(state.reserved_requests) >= self.num_processes:
            self._was_full = True
        self._handed_over.append(None)
        work = (target, args, kwargs, callback, accept_callback)
        result = ApplyResult(self.executor.submit(self._work, *work))
        result.f.add_done_callback(self._make_room)
        return result

    def _work(self, *work: Any) -> None:
        self._handed_over.pop()
        apply_target(*work)
        self._going_on.append(None)
        until = time.monotonic() + _LONGEST_SECONDS
        try:
            # Whatever the loop has handed over and no thread has begun comes first.
            while not self._handed_over and time.monotonic() < until and type(self).run_next():
                pass
        finally:
            self._going_on.pop()

    def _make_room(self, _: Any) -> None:
        # Not for every task: a turn of the loop costs more than all of this.
        if self._was_full:
            self._was_full = False
            with suppress(BlockingIOError):  # then it has been told often enough
                os.write(self._wake, b"\0")

    def _woken(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._wakes, 4096)
