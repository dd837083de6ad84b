"""If the broker is the store's Redis, the threads of a worker take messages themselves.

Celery's event loop takes about 1 ms of CPU to bring a message to a thread, which is what limits a busy
worker (spec/decisions/0016). Here each thread pops a message and has Celery run it in place: events, signals,
`inspect active` and totals are Celery's own. With any other broker Celery consumes as usual.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

import orjson
import structlog
from celery import Celery, bootsteps
from celery.app.events import Events as CeleryEvents
from celery.concurrency.solo import TaskPool as RunInPlace
from celery.events.dispatcher import EventDispatcher
from celery.worker.request import Request
from kombu.message import Message

from observability.metrics import messages_discarded
from store.errors import StoreError
from store.message_queue import MessageQueue
from tasks import message
from tasks.periodic import PeriodicThread

log = structlog.get_logger("tasks")

_RETRY_SECONDS = 0.5
_MAX_WAITING_AT_REDIS = 2
_FLUSH_SECONDS = 0.25
_MAX_EVENTS = 1_000
# Longer than any exchange takes: a warm shutdown waits for tasks in progress, but not forever.
_STOP_SECONDS = 180.0
# Other headers are ignored: Celery would act on an `eta` or `expires`, and our messages have none.
_HEADERS = ("lang", "task", "id", "root_id", "argsrepr", "kwargsrepr", "traceparent")


class WorkerEvents(EventDispatcher):
    """Sends a worker's heartbeats from its main thread, without Celery's retries.

    Those are endless and silent while the broker hangs, and the main thread would heed no signal. An event that
    cannot be sent waits, and its connection is made again as after any other failure.
    """

    def send(self, *arguments: Any, retry: bool = False, **fields: Any) -> None:  # noqa: ARG002
        """Send an event, or keep it until the next connection."""
        super().send(*arguments, retry=False, **fields)


class Events(CeleryEvents):
    """What makes an app's event dispatchers."""

    dispatcher_cls = WorkerEvents


class TaskEvents:
    """Sends Celery's task events four times a second; a failure never affects a task. Celery would send them
    on every turn of the worker's loop, which took 40 % of the CPU of a busy worker."""

    enabled = True

    def __init__(self, app: Celery, hostname: str) -> None:
        self._app, self._hostname = app, hostname
        self._dispatcher = self._new_dispatcher()

    def send(self, event_type: str, **fields: Any) -> None:
        """Keep an event for the next flush."""
        try:
            self._dispatcher.send(event_type, **fields)
        except Exception:  # the buffer is full and the broker unavailable
            self._dispatcher = self._new_dispatcher()

    def flush(self) -> None:
        """Send the events that were kept; drop them if that fails."""
        try:
            self._dispatcher.flush()
        except Exception:  # every transport has its own errors
            self._dispatcher = self._new_dispatcher()

    def _new_dispatcher(self) -> Any:
        return self._app.events.Dispatcher(
            self._app.connection_for_write(),
            hostname=self._hostname,
            buffer_while_offline=False,
            buffer_group={"task"},
            buffer_limit=_MAX_EVENTS,
        )


class Consumer(bootsteps.StartStopStep):
    """A worker's bootstep: as many threads as its concurrency, each running one message at a time."""

    requires = ("celery.worker.components:Pool",)
    #: Makes the queue to take messages from; set by `tasks.worker` before the worker starts.
    make_queue: ClassVar[Callable[[], MessageQueue]]
    #: Set by `tasks.worker` once the worker is ready: Celery cannot run a task before that.
    ready: ClassVar = threading.Event()

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._stopping = threading.Event()
        # The other idle threads wait here: a thread that waits at Redis costs two commands a second.
        self._waiting_at_redis = threading.Semaphore(_MAX_WAITING_AT_REDIS)
        self._threads: list[threading.Thread] = []
        self._run_in_place = RunInPlace(app=worker.app)
        self._events = TaskEvents(worker.app, worker.hostname)
        self._flushing = PeriodicThread("events", _FLUSH_SECONDS, self._events.flush)

    def start(self, worker: Any) -> None:
        """Start the threads."""
        queue = type(self).make_queue()
        self._threads = [
            threading.Thread(
                target=self._consume, args=(worker, queue), name=f"consumer-{number}", daemon=True
            )
            for number in range(worker.concurrency)
        ]
        for thread in (*self._threads, self._flushing):
            thread.start()

    def stop(self, worker: Any) -> None:  # noqa: ARG002
        """Take no more messages, and wait for the tasks in progress (warm shutdown)."""
        self._stopping.set()
        self.ready.set()
        for thread in self._threads:
            thread.join(_STOP_SECONDS)
        self._flushing.stop()
        self._events.flush()

    def terminate(self, worker: Any) -> None:  # noqa: ARG002
        """Take no more messages, and do not wait (cold shutdown)."""
        self._stopping.set()

    def _consume(self, worker: Any, queue: MessageQueue) -> None:
        self.ready.wait()
        while not self._stopping.is_set():
            try:
                with self._waiting_at_redis:
                    payload = None if self._stopping.is_set() else queue.take()
                if payload is not None:
                    self._run(worker, payload)
            except StoreError:
                self._stopping.wait(_RETRY_SECONDS)  # the sweep sends a lost message again
            except Exception:
                with suppress(Exception):  # the thread must survive this too
                    log.error("consumer.failed", exc_info=True)
                self._stopping.wait(_RETRY_SECONDS)

    def _run(self, worker: Any, payload: bytes) -> None:
        request = request_of(payload, worker.app, worker.hostname, self._events)
        if request is None:  # the sweep sends a later release's message again
            messages_discarded.inc()
            log.warning("message.discarded", size=len(payload))
            return
        request.send_event(
            "task-received", name=request.name, args=request.argsrepr, kwargs=request.kwargsrepr
        )
        request.execute_using_pool(self._run_in_place)


def request_of(payload: bytes, app: Celery, hostname: str, eventer: Any = None) -> Request | None:
    """Celery's request for one of our messages; None for anything else in the queue."""
    with suppress(Exception):  # anything may be wrong with it
        envelope = orjson.loads(payload)
        properties, headers = envelope["properties"], envelope["headers"]
        body = orjson.loads(envelope["body"])
        (job_id, dispatch_id, epoch), _, _ = body
        is_ours = isinstance(job_id, str) and isinstance(dispatch_id, str) and type(epoch) is int
        is_ours = is_ours and message.is_known(headers.get(message.FORM_HEADER, 0))
        if not is_ours or headers["task"] not in app.tasks or headers["lang"] != "py":
            return None
        received = Message(
            body=envelope["body"],
            content_type="application/json",
            content_encoding="utf-8",
            delivery_info=properties["delivery_info"],
            properties=properties,
            headers={
                name: headers[name] for name in _HEADERS if isinstance(headers.get(name), str)
            },
            accept={"application/json"},
        )
        return Request(
            received, app=app, hostname=hostname, eventer=eventer, body=body, decoded=True
        )
    return None
