"""gunicorn's settings for the `web` process. The service's own come from TAKEONE_ (settings/)."""

import atexit
import os
import shutil
import sys
import tempfile

from logs import library_logging
from settings import SettingsError, load_settings

_METRICS_DIR = "PROMETHEUS_MULTIPROC_DIR"


def _make_metrics_dir():
    """Where this start's processes put what they count, so that any of them can show the sum."""
    prefix = f"takeone-metrics-{os.getpid()}-"
    given = os.path.basename(os.environ.get(_METRICS_DIR, ""))
    # The operator's own, or ours before a reload; but not that of a server which this one replaces.
    if given.startswith(prefix) or (given and not given.startswith("takeone-metrics-")):
        return
    made = os.environ[_METRICS_DIR] = tempfile.mkdtemp(prefix=prefix, dir=worker_tmp_dir)
    owner = os.getpid()  # the children inherit what is done at exit
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(made, ignore_errors=True))


def child_exit(_server, worker):
    """What a process that is gone was doing is no longer so; what it counted stays."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)


try:
    _settings = load_settings()
except SettingsError as error:
    sys.exit(f"takeone refuses to start:\n{error}")

# A platform's router reaches the process from outside its container.
bind = f"{os.environ.get('HOST', '0.0.0.0')}:{os.environ.get('PORT', '8000')}"  # noqa: S104
workers = _settings.web_processes
worker_class = "api.server.Worker"
threads = _settings.web_threads
keepalive = 75
# A caller who waits for a dispatch is answered before the process ends.
graceful_timeout = int(_settings.run_wait_seconds) + 15
timeout = 60
# No route's path is long and no client of ours sends many headers; JWTs are the longest of them.
limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 8190
# The heartbeat file: on a disk it would block the worker whenever the disk does.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108
logger_class = "api.server.ServerLogger"
logconfig_dict = library_logging(_settings)
# Two web processes of one user would fight for the one socket, and nobody here talks to it.
control_socket_disable = True

# Before anything imports what counts: prometheus_client looks only then.
_make_metrics_dir()
