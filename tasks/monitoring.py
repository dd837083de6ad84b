"""Celery as Flower sees it: the broker, and nothing else of the service."""

import sys

from celery import Celery
from kombu import Queue

from logs import configure_logging
from settings import SettingsError, load_flower_settings
from tasks.broker import broker_options, broker_tls, broker_transport_url, lanes

app = Celery("takeone")


def _configure() -> None:
    try:
        settings = load_flower_settings()
    except SettingsError as error:
        sys.exit(f"takeone refuses to start:\n{error}")
    configure_logging(settings)
    app.conf.update(
        broker_url=broker_transport_url(settings),
        broker_transport_options=broker_options(settings),
        broker_use_ssl=broker_tls(settings),
        task_queues=[Queue(name, routing_key=name) for name in lanes(settings)],
        accept_content=["json"],
        timezone="UTC",
    )


_configure()
