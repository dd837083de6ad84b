"""How a thread of a busy worker goes on to the next message, past Celery's event loop.

The loop takes about 1 ms of CPU to bring a message to a thread, which is what limits a busy worker. So a
thread that is done takes a message itself, where they lie in the store's own Redis, waits a moment for one,
and goes on until none comes. A message is a hint to look at the claim: whoever takes it, and however, the
claim decides what becomes of it. Onlookers are told in Celery's own events, as documented.
"""

import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import structlog

from store.errors import StoreError
from store.queues import Queues
from tasks import message
from tasks.message import Received
from tasks.worker import DispatchFailed

log = structlog.get_logger("tasks")

Task = Callable[[Received], str | None]
SendEvent = Callable[..., None]


class Inbox:
    """Takes messages from `queues` and runs the task that each names; `send_event` tells onlookers.

    Up to `waiters` threads at once wait `wait_seconds` for a message; the others only look. Meanwhile
    whatever the event loop hands to one of them waits as well, so they must not be all there are.
    """

    def __init__(
        self,
        queues: Queues,
        tasks: Mapping[str, Task],
        send_event: SendEvent,
        waiters: int = 0,
        wait_seconds: float = 0,
    ) -> None:
        self._queues, self._tasks, self._send_event = queues, tasks, send_event
        self._waiters = threading.BoundedSemaphore(waiters)
        self._wait_seconds = wait_seconds

    def run_next(self) -> bool:
        """Take one message and do what it asks for; False if there was none, or none could be had."""
        try:
            taken = self._take()
        except StoreError:
            return False  # the event loop waits for it to come back; a lost message is sent again
        except Exception:
            log.error("inbox.failed", exc_info=True)
            return False
        if taken is None:
            return False
        received = message.decode(taken)
        if received is None or received.task not in self._tasks:
            log.warning("message.not_understood")
        else:
            self._run(received)
        return True

    def _take(self) -> bytes | None:
        if not self._waiters.acquire(blocking=False):
            return self._queues.take()
        try:
            return self._queues.take(self._wait_seconds)
        finally:
            self._waiters.release()

    def _run(self, received: Received) -> None:
        began, task_id = time.monotonic(), received.task_id
        shown = {"name": received.task, "args": received.shown_arguments, "kwargs": "{}"}
        self._tell("task-received", uuid=task_id, retries=0, **shown)
        self._tell("task-started", uuid=task_id)
        try:
            result = self._tasks[received.task](received)
        except DispatchFailed as error:
            text = traceback.format_exc()
            self._tell("task-failed", uuid=task_id, exception=repr(error), traceback=text)
        else:
            seconds = time.monotonic() - began
            self._tell("task-succeeded", uuid=task_id, result=repr(result), runtime=seconds)

    def _tell(self, event_type: str, **fields: Any) -> None:
        with suppress(Exception):  # no broker, no onlookers: the work is done all the same
            self._send_event(event_type, **fields)
