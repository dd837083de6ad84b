"""The worker: registers the tasks and assembles what they need. `celery --app tasks.worker worker`."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Any

import structlog
from celery import bootsteps, signals
from celery.worker.control import Panel, inspect_command
from prometheus_client import start_http_server

from domain.claim import FencingToken
from domain.record import TaskKind
from observability import tracing
from observability.log_sink import stdout
from observability.logs import configure_logging
from observability.metrics import breaker_open, messages_discarded
from orchestrators.client import OrchestratorClient
from orchestrators.engine import Engine
from orchestrators.registry import dispatch_policy, make_adapter
from settings import load_worker_settings, or_exit
from store.client import make_client
from store.jobs import JobStore
from store.message_queue import MessageQueue
from store.retention import Retention
from tasks import message
from tasks.app import app
from tasks.circuit_breaker import CircuitBreaker
from tasks.consumer import Consumer, Events
from tasks.dispatch import PAUSE_SEEN_SECONDS, Dispatcher, DispatchFailed
from tasks.outbox import make_outbox
from tasks.periodic import PeriodicThread
from tasks.queues import dispatch_queue_names, queue_keys, queue_names
from tasks.sweep import Sweeper

log = structlog.get_logger("tasks")

_utc_now = partial(datetime.now, UTC)

# The control commands that a worker obeys. Anyone who may write to the broker can send them, so none of them
# changes anything or shows settings.
_CONTROL_COMMANDS = {
    "active", "active_queues", "clock", "conf", "heartbeat", "ping", "query_task", "registered",
    "reserved", "revoked", "scheduled", "stats",
}  # fmt: skip


@contextmanager
def _handling(name: str, token: FencingToken) -> Iterator[None]:
    """Refuse a message of an unknown form, trace the task, and turn each exception into `DispatchFailed`.

    A task's events publish its exception, and the message of any other one may quote a URL, a header or a
    stored record.
    """
    request = app.current_task.request
    # With a broker other than Redis, Celery takes every message. The sweep sends again what is refused here.
    if not message.is_known(getattr(request, message.FORM_HEADER, 0)):
        messages_discarded.inc()
        log.warning("message.discarded")
        raise DispatchFailed("later_form")
    parent = getattr(request, tracing.TRACEPARENT, None)
    ids = {"takeone.job_id": token.job_id, "takeone.dispatch_id": token.dispatch_id}
    try:
        with tracing.span(name, "CONSUMER", ids, parent):
            yield
    except DispatchFailed:
        raise
    except Exception as error:
        log.error("task.failed", exc_info=True)
        raise DispatchFailed(type(error).__name__) from None


def _task(kind: TaskKind, work: Callable[[Dispatcher, FencingToken], str | None]) -> None:
    """Register a task about one claim."""

    @app.task(name=message.task_name(kind), throws=(DispatchFailed,))
    def run(job_id: str, dispatch_id: str, epoch: int) -> str | None:
        token = FencingToken(job_id, dispatch_id, epoch)
        with _handling(kind, token):
            return work(_parts().dispatcher, token)


_task(TaskKind.DISPATCH, Dispatcher.dispatch)
_task(TaskKind.TELL_CANCELLED, Dispatcher.tell_cancelled)
_task(TaskKind.ASK, Dispatcher.ask)


class _Parts:
    """What a worker process works with, one of each."""

    def __init__(self) -> None:
        settings = load_worker_settings()
        # One connection for each thread that runs tasks, and some for the sweep and the pause.
        client = make_client(settings, connections=settings.worker_concurrency + 4)
        policy = dispatch_policy(settings)
        store = JobStore(client, make_outbox(settings), settings.retention)
        engine = Engine(OrchestratorClient(settings), make_adapter(settings))
        breaker = CircuitBreaker(settings.breaker_failures, settings.breaker_seconds)
        self.dispatcher = Dispatcher(store, engine, policy, settings.public_url, breaker, _utc_now)
        kept, interval = settings.retention, timedelta(seconds=settings.sweep_interval_seconds)
        retention = Retention(client, store, kept) if kept else None
        sweeper = Sweeper(store, policy, interval, _utc_now, retention)
        self.sweeping = PeriodicThread("sweep", settings.sweep_interval_seconds, sweeper.step)
        keys, wait = queue_keys(queue_names(settings)), min(1.0, settings.redis_timeout_seconds / 2)
        self.queue = MessageQueue(client, keys, wait)


_parts = cache(_Parts)


def _watch_pause(consumer: Any) -> None:
    """Read whether dispatching is paused. While the store is unavailable, the last reading holds."""
    parts, settings = _parts(), load_worker_settings()
    pause = parts.dispatcher.store.pauses.latest()
    is_paused = pause is not None and pause.is_on
    if is_paused is parts.queue.is_paused:
        return
    parts.queue.is_paused = is_paused
    if not settings.broker_is_store:  # Celery's own consumer takes the messages
        change = consumer.cancel_task_queue if is_paused else consumer.add_task_queue
        for name in dispatch_queue_names(settings):
            consumer.call_soon(change, name)
    if pause is not None:
        at = str(pause.resumed_at or pause.paused_at)
        log.warning("dispatching.paused" if is_paused else "dispatching.resumed", at=at)


class _Signals(bootsteps.StartStopStep):
    """Replaces Celery's handlers of signals before the worker connects, which may take for ever."""

    def start(self, worker: Any) -> None:  # noqa: ARG002
        # On SIGHUP Celery would execute its command line again, which fails for one that was started by `-m`.
        # Instead the worker finishes its tasks and exits, and the supervisor starts the next one.
        signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))
        # Celery would print the variables of every thread, with records and addresses in them.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


# Before Celery logs anything: it warns about running as root in its own format.
configure_logging(or_exit(load_worker_settings))
app.steps["worker"].add(_Signals)
app.events_cls = Events
if load_worker_settings().broker_is_store:
    Consumer.make_queue = staticmethod(lambda: _parts().queue)
    app.steps["worker"].add(Consumer)


@signals.celeryd_after_setup.connect
def _deselect_queues(instance: Any, **_: Any) -> None:
    settings = load_worker_settings()
    if settings.broker_is_store:  # the threads of `Consumer` take the messages
        instance.app.amqp.queues.deselect(queue_names(settings))


@signals.setup_logging.connect
def _configure_logging(**_: Any) -> None:
    configure_logging(load_worker_settings())
    stdout.own_output()


@signals.worker_init.connect
def _prepare(**_: Any) -> None:
    tracing.start(load_worker_settings(), "worker")
    for name in set(Panel.data) - _CONTROL_COMMANDS:
        del Panel.data[name]


@inspect_command(name="stats")
def stats(state: Any, **_: Any) -> dict[str, Any]:
    """Celery's statistics of the worker and its time, without the broker's fields that may hold a password."""
    statistics: dict[str, Any] = state.consumer.controller.stats()
    broker = statistics.get("broker") or {}
    shown = ("transport", "hostname", "port", "virtual_host")
    return statistics | {"broker": {name: broker.get(name) for name in shown}, "time": time.time()}


@inspect_command(name="conf")
def conf(*_: Any, **__: Any) -> dict[str, Any]:
    """Nothing: Celery's settings hold the broker's password."""
    return {}


@inspect_command(name="active_queues")
def active_queues(state: Any, **_: Any) -> list[dict[str, Any]]:  # noqa: ARG001 - Celery passes it
    """The queues that this worker takes messages from."""
    return [queue.as_dict(recurse=True) for queue in app.conf.task_queues]


@signals.worker_ready.connect
def _begin_work(sender: Any, **_: Any) -> None:
    settings, parts = load_worker_settings(), _parts()
    breaker_open.set_function(lambda: float(parts.dispatcher.breaker.is_open))
    if settings.worker_metrics_port:
        try:
            start_http_server(settings.worker_metrics_port, settings.listen_address)
        except OSError as error:  # a worker without metrics still works
            log.warning("metrics.not_served", error=type(error).__name__)
    parts.sweeping.start()
    PeriodicThread("pause", PAUSE_SEEN_SECONDS, partial(_watch_pause, sender)).start()
    Consumer.ready.set()


@signals.worker_shutting_down.connect
def _stop_sweeping(**_: Any) -> None:
    _parts().sweeping.stop()
