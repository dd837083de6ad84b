"""The Celery app for Flower: it knows the broker, and nothing else of the service.

A Flower that is started with this app, with `--conf` or without, can only look. In production it does not
start without a password.
"""

import sys
from logging import CRITICAL, getLogger
from typing import Any

from celery import Celery
from flower.urls import handlers
from flower.views import BaseHandler
from flower.views.monitor import Healthcheck, Metrics
from kombu import Queue
from tornado.options import options
from tornado.routing import URLSpec
from tornado.web import HTTPError, authenticated

from observability.log_sink import stdout
from observability.logs import configure_logging
from settings import load_flower_settings, or_exit
from settings.types import is_loopback, split_list
from tasks.queues import broker_options, broker_tls, broker_transport_url, queue_names

_settings = or_exit(load_flower_settings)
configure_logging(_settings)

app = Celery("takeone")
app.conf.update(
    broker_url=broker_transport_url(_settings),
    broker_transport_options=broker_options(_settings),
    broker_use_ssl=broker_tls(_settings),
    task_queues=[Queue(name, routing_key=name) for name in queue_names(_settings)],
    task_default_queue=queue_names(_settings)[0],
    timezone="UTC",
)


def _set_options() -> None:
    """Set Flower's options, each with the reason it is not the default, after it has read its own sources."""
    # Without our setting, Flower's own variables count (FLOWER_BASIC_AUTH, FLOWER_AUTH, …).
    options.basic_auth = list(split_list(_settings.flower_basic_auth)) or options.basic_auth
    is_reachable = _settings.production or not is_loopback(_settings.listen_address)
    if is_reachable and not options.basic_auth and not options.auth:
        sys.exit(
            "takeone refuses to start:\nTAKEONE_FLOWER_BASIC_AUTH is not set, and neither is Flower's "
            "OAuth (FLOWER_AUTH, FLOWER_AUTH_PROVIDER, FLOWER_OAUTH2_KEY, …)"
        )
    options.address = _settings.listen_address
    options.url_prefix = _settings.flower_url_prefix.strip("/")
    options.read_only = True
    # Error pages would show settings and tracebacks.
    options.debug = False
    # Operators look for the outcome first. The arguments are ids.
    options.tasks_columns = "name,uuid,state,exception,result,received,runtime,args,worker"
    options.max_tasks = 10_000
    # The names of workers change with every deployment.
    options.purge_offline_workers = 3600
    # Flower has configured its own logging by now, and its warnings quote requests.
    configure_logging(_settings)
    stdout.own_output()
    for name in ("tornado.access", "tornado.general"):
        getLogger(name).setLevel(CRITICAL)


options.add_parse_callback(_set_options)


def _guarded(handler: Any) -> Any:
    """A handler with a login where Flower has none, and 401 where Flower cannot compare the password."""
    spec = handler if isinstance(handler, URLSpec) else URLSpec(*handler)
    view: Any = spec.handler_class
    if not issubclass(view, BaseHandler):  # of static files
        return handler

    class Guarded(view):
        def get_current_user(self) -> Any:
            try:
                return super().get_current_user()
            except TypeError:  # for a password that is not ASCII; ours are
                raise HTTPError(401) from None

    if view in (Metrics, Healthcheck):
        Guarded.get = authenticated(view.get)
    return URLSpec(spec.regex.pattern, Guarded, spec.kwargs, spec.name)


handlers[:] = map(_guarded, handlers)
