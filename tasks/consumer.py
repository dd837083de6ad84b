"""Two things that Celery's worker does for each task, and need not do for ours.

Both use documented extension points (bootsteps, a task's `Request` class). Measured together they were a
third of the worker's CPU for a dispatch.
"""

from contextlib import suppress
from typing import Any, ClassVar

from celery import bootsteps
from celery.worker.consumer.events import Events
from celery.worker.request import Request

_FLUSH_SECONDS = 0.25
_MOST_BUFFERED = 1_000


class BatchedEvents(bootsteps.StartStopStep):
    """Sends task events a few times a second instead of on every turn of the event loop."""

    requires = (Events,)
    #: Celery's event dispatcher; None where there is no connection to the broker.
    dispatcher: ClassVar[Any] = None

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._timer: Any = None

    def start(self, consumer: Any) -> None:
        """Called for each connection to the broker, which has a dispatcher of its own."""
        self.stop(consumer)
        dispatcher = consumer.event_dispatcher
        if dispatcher is None or consumer.hub is None:
            return
        BatchedEvents.dispatcher = dispatcher
        dispatcher.on_send_buffered = None
        dispatcher.buffer_limit = _MOST_BUFFERED
        self._timer = consumer.timer.call_repeatedly(_FLUSH_SECONDS, dispatcher.flush)

    def stop(self, consumer: Any) -> None:
        """Send what is left, if that is possible, and stop the timer."""
        if self._timer is None:
            return
        BatchedEvents.dispatcher = None
        self._timer.cancel()
        self._timer = None
        with suppress(Exception):  # the connection may be what is gone; events are for onlookers
            consumer.event_dispatcher.flush()

    @classmethod
    def send(cls, event_type: str, **fields: Any) -> None:
        """Send an event of Celery's, from any thread; nothing without a connection to the broker."""
        if cls.dispatcher is not None:
            cls.dispatcher.send(event_type, **fields)


class UnacknowledgedRequest(Request):
    """A message from a `no_ack` queue of Redis: it was gone when it was popped.

    kombu's Redis transport would still make a round trip to take it off a list that it was never on.
    """

    def acknowledge(self) -> None:
        """Nothing to do."""
        self.acknowledged = True
