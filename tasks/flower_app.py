"""Celery as Flower sees it: the broker, and nothing else of the service.

A Flower that is started with this app, with `--conf` or without, may look and touch nothing. In production it
does not start without a password.
"""

import sys
from logging import CRITICAL, getLogger
from typing import Any

from celery import Celery
from flower.inspector import Inspector
from flower.views import BaseHandler
from flower.views.monitor import Healthcheck, Metrics
from kombu import Queue
from tornado.options import options
from tornado.web import HTTPError, authenticated

from observability.log_sink import stdout
from observability.logs import configure_logging
from settings import load_flower_settings, or_exit, split_list
from settings.types import is_loopback
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
    accept_content=["json"],
    timezone="UTC",
)


def _set_options() -> None:
    """Set Flower's options, each with the reason it is not the default, after it has read its own sources."""
    # From the environment as Flower has it (FLOWER_BASIC_AUTH, FLOWER_AUTH, …), unless ours is set.
    options.basic_auth = list(split_list(_settings.flower_basic_auth)) or options.basic_auth
    asks_who_is_there = options.basic_auth or options.auth
    if not asks_who_is_there and (
        _settings.production or not is_loopback(_settings.listen_address)
    ):
        sys.exit(
            "takeone refuses to start:\nTAKEONE_FLOWER_BASIC_AUTH is not set, and neither is Flower's "
            "OAuth (FLOWER_AUTH, FLOWER_AUTH_PROVIDER, FLOWER_OAUTH2_KEY, …)"
        )
    options.address = _settings.listen_address
    options.url_prefix = _settings.flower_url_prefix.strip("/")
    options.read_only = True
    # Its error pages would show settings and tracebacks.
    options.debug = False
    # The outcome is what one looks for. The arguments are ids.
    options.tasks_columns = "name,uuid,state,exception,result,received,runtime,args,worker"
    options.max_tasks = 10_000
    # Workers' names change with every deployment.
    options.purge_offline_workers = 3600
    # Flower has set up logging of its own by now; its warnings quote what callers asked for.
    configure_logging(_settings)
    stdout.own_output()
    for name in ("tornado.access", "tornado.general"):
        getLogger(name).setLevel(CRITICAL)


options.add_parse_callback(_set_options)

# Flower leaves these two open even where all else asks who is there.
for _view in (Metrics, Healthcheck):
    _view.get = authenticated(_view.get)


def _current_user(
    handler: Any, _get_current_user: Any = BaseHandler.get_current_user
) -> str | None:
    try:
        user: str | None = _get_current_user(handler)
    except TypeError:  # a password that is not ASCII cannot be compared, and is none of ours
        raise HTTPError(401) from None
    return user


BaseHandler.get_current_user = _current_user

# The workers' Celery settings stay with the workers.
Inspector.inspect_methods = tuple(each for each in Inspector.inspect_methods if each != "conf")
