"""Flower's settings, each with the reason it is not the default. Read by `--conf` in the Procfile.

Flower runs this file and takes its variables for options; it may look, and touch nothing.
"""

import sys
from logging import CRITICAL, getLogger

from flower.inspector import Inspector
from flower.views import BaseHandler
from flower.views.monitor import Healthcheck, Metrics
from tornado.options import options
from tornado.web import HTTPError, authenticated

from logs import configure_logging
from settings import load_flower_settings

_settings = load_flower_settings()

# From the environment as Flower has it (FLOWER_BASIC_AUTH, FLOWER_AUTH, …), unless ours is set.
basic_auth = list(_settings.flower_users) or options.basic_auth
if _settings.production and not (basic_auth or options.auth):
    sys.exit(
        "takeone refuses to start:\nTAKEONE_FLOWER_BASIC_AUTH is not set, and neither is Flower's "
        "OAuth (FLOWER_AUTH, FLOWER_AUTH_PROVIDER, FLOWER_OAUTH2_KEY, …)"
    )

url_prefix = _settings.flower_url_prefix.strip("/") or None
read_only = True
# Its error pages would show settings and tracebacks.
debug = False
# Flower leaves these two open even where all else asks who is there.
for _view in (Metrics, Healthcheck):
    _view.get = authenticated(_view.get)


def _current_user(handler, _get_current_user=BaseHandler.get_current_user):
    try:
        return _get_current_user(handler)
    except TypeError:  # a password that is not ASCII cannot be compared, and is none of ours
        raise HTTPError(401) from None


BaseHandler.get_current_user = _current_user

# The outcome is what one looks for. The arguments are ids.
tasks_columns = "name,uuid,state,exception,result,received,runtime,args,worker"
max_tasks = 10_000
# Workers' names change with every deployment.
purge_offline_workers = 3600


def _without_settings(inspector, worker, method, response, _on_update=Inspector._on_update):
    """Keep of a worker's connection what is not secret: its options may hold a password."""
    if method == "stats":
        consumer = response.get("consumer") or response
        known = ("transport", "hostname", "port", "virtual_host")
        consumer["broker"] = {name: consumer.get("broker", {}).get(name) for name in known}
    _on_update(inspector, worker, method, response)


Inspector._on_update = _without_settings
# The workers' Celery settings stay with the workers.
Inspector.inspect_methods = tuple(each for each in Inspector.inspect_methods if each != "conf")

# Flower has set up logging of its own by now; its warnings quote what callers asked for.
configure_logging(_settings)
for _name in ("tornado.access", "tornado.general"):
    getLogger(_name).setLevel(CRITICAL)
