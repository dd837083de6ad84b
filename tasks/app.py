"""The Celery app and its tasks: thin, so that all there is to know of a dispatch is in `tasks.worker`."""

import sys
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import lru_cache
from typing import Any

from celery import Celery
from celery.signals import setup_logging, worker_init, worker_ready, worker_shutting_down
from celery.worker.request import Request

import tracing
from domain.dispatch_steps import Token
from logs import configure_logging
from runtime import freeze_what_stays
from settings import SettingsError, load_settings
from signatures import Signer
from store.connecting import connections
from store.jobs import JobStore
from store.link import Link
from store.queues import Queues
from tasks import message
from tasks.breaker import CircuitBreaker
from tasks.broker import is_redis, lanes, queue_keys
from tasks.consumer import BatchedEvents, UnacknowledgedRequest
from tasks.inbox import Inbox, Task
from tasks.metrics_server import serve_metrics
from tasks.orchestrator import OrchestratorClient
from tasks.outbox import make_outbox
from tasks.pool import ThreadPool, nothing_more
from tasks.sweep import Sweeper
from tasks.worker import Dispatcher, DispatchFailed, failing_safely

# How long a thread that is done waits for a message before it leaves that to the event loop.
_NEXT_MESSAGE_SECONDS = 0.05

app = Celery("takeone")
app.steps["consumer"].add(BatchedEvents)


def _configure() -> None:
    try:
        load_settings()
    except SettingsError as error:
        sys.exit(f"takeone refuses to start:\n{error}")
    app.config_from_object("celeryconfig")


_configure()
_request = UnacknowledgedRequest if is_redis(load_settings()) else Request


@app.task(name=message.DISPATCH_TASK, throws=(DispatchFailed,), Request=_request)
def dispatch(job_id: str, dispatch_id: str, epoch: int) -> str:
    """Post one dispatch. Fails, visibly and with a safe reason, if it did not come to stand."""
    return _dispatch(Token(job_id, dispatch_id, epoch), _traceparent())


@app.task(name=message.TELL_CANCELLED_TASK, throws=(DispatchFailed,), Request=_request)
def tell_cancelled(job_id: str, dispatch_id: str, epoch: int) -> None:
    """Tell the orchestrator that the job is cancelled."""
    _tell_cancelled(Token(job_id, dispatch_id, epoch), _traceparent())


def _dispatch(token: Token, traceparent: str | None) -> str:
    with failing_safely(), _traced("dispatch", token, traceparent):
        return dispatcher().dispatch(token)


def _tell_cancelled(token: Token, traceparent: str | None) -> None:
    with failing_safely(), _traced("tell_cancelled", token, traceparent):
        dispatcher().tell_cancelled(token)


def _traceparent() -> str | None:
    return getattr(app.current_task.request, tracing.TRACEPARENT, None)


def _traced(name: str, token: Token, parent: str | None) -> AbstractContextManager[Any]:
    ids = {"takeone.job_id": token.job_id, "takeone.dispatch_id": token.dispatch_id}
    return tracing.span(name, "CONSUMER", parent, ids)


@lru_cache(maxsize=1)
def _link() -> Link:
    settings = load_settings()
    make = connections(settings)
    size = max(settings.redis_connections, settings.worker_concurrency + 2)
    return Link(make, size, settings.redis_timeout_seconds)


@lru_cache(maxsize=1)
def _store() -> JobStore:
    return JobStore(_link(), make_outbox(load_settings()))


@lru_cache(maxsize=1)
def dispatcher() -> Dispatcher:
    """This process's dispatcher."""
    settings = load_settings()
    client = OrchestratorClient(
        timeout_seconds=settings.orchestrator_timeout_seconds,
        connect_timeout_seconds=settings.orchestrator_connect_timeout_seconds,
        connect_tries=settings.orchestrator_connect_tries,
        connections=settings.worker_concurrency,
        use_proxies=settings.orchestrator_use_proxies,
        ca_file=settings.ca_file,
    )
    return Dispatcher(
        _store(),
        client,
        settings.policy,
        settings.orchestrator_url,
        settings.orchestrator_cancel_url,
        settings.public_url,
        CircuitBreaker(settings.breaker_failures, settings.breaker_seconds),
        Signer(settings.signing_secrets),
    )


@lru_cache(maxsize=1)
def sweeper() -> Sweeper:
    """This process's sweeper."""
    settings = load_settings()
    interval = timedelta(seconds=settings.sweep_interval_seconds)
    return Sweeper(_store(), settings.policy, interval)


def inbox() -> Inbox:
    """What this process's threads go on with, where the messages lie in the store's own Redis."""
    settings = load_settings()
    queues = Queues(_link(), queue_keys(lanes(settings)))
    tasks: dict[str, Task] = {
        message.DISPATCH_TASK: lambda received: _dispatch(received.token, received.traceparent),
        message.TELL_CANCELLED_TASK: lambda received: _tell_cancelled(
            received.token, received.traceparent
        ),
    }
    return Inbox(
        queues,
        tasks,
        BatchedEvents.send,
        waiters=settings.worker_concurrency // 2,
        wait_seconds=min(_NEXT_MESSAGE_SECONDS, settings.redis_timeout_seconds / 2),
    )


@setup_logging.connect
def _set_up_logging(**_: Any) -> None:
    configure_logging(load_settings())


@worker_init.connect
def _start_tracing(**_: Any) -> None:
    tracing.start(load_settings(), "worker")


@worker_ready.connect
def _begin_work(**_: Any) -> None:
    settings, breaker = load_settings(), dispatcher().breaker
    if settings.worker_metrics_port:
        serve_metrics(settings.worker_metrics_port, breaker)
    if settings.broker_is_store:
        ThreadPool.run_next = inbox().run_next
    sweeper().start()
    freeze_what_stays()


@worker_shutting_down.connect
def _begin_nothing_more(**_: Any) -> None:
    ThreadPool.run_next = staticmethod(nothing_more)
    sweeper().stop()
