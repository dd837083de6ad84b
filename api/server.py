"""The `web` process: Granian, configured from our settings. Start it by `python -m api.server`."""

import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from flask import Flask, Response

# Clients that do not send a complete head in this time, and idle ones, are disconnected.
_HEAD_MILLISECONDS = 30_000
_MAX_HEAD_BYTES = 65_536
_MAX_CONNECTIONS = 16_000
# Files that a process needs besides its connections.
_OTHER_FILES = 256
# The files that a process counts into, each with more bytes than its metrics take with all their labels.
_METRIC_FILES = {
    "counter": 262_144, "gauge_all": 4_096, "gauge_livesum": 4_096, "histogram": 262_144,
}  # fmt: skip
_MOST_PROCESSES = 65
# Added to the longest wait of a run, so that each caller is answered before the process is killed.
_STOP_SECONDS_AFTER_WAIT = 15
# How long answers carry `Connection: close` before idle connections are closed.
_DRAIN_SECONDS = 1.0
_STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}


def main() -> None:
    """Serve until SIGTERM. Exits if the settings are incomplete or unsafe."""
    # All threads of all server processes block these signals, and one thread of each process waits for them.
    # Python runs handlers only in the main thread. That thread waits in native code without a timeout: it would
    # not notice a signal that the kernel delivers to another thread.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        _serve()
        return
    # The processes count into files in this directory, so that any of them can show the sum. The variable must
    # be set before anything imports prometheus_client. The directory is in memory if that has room: counting
    # never waits for a disk. Forked processes end by os._exit, so they do not remove it.
    memory = "/dev/shm"  # noqa: S108
    needed = _MOST_PROCESSES * sum(_METRIC_FILES.values())
    has_room = os.path.isdir(memory) and shutil.disk_usage(memory).free > needed
    prefix, place = f"takeone-metrics-{os.getpid()}-", memory if has_room else None
    with tempfile.TemporaryDirectory("", prefix, place, ignore_cleanup_errors=True) as directory:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
        _serve()


def _reserve_metric_files() -> None:
    """Give the files that this process will count into their room on the disk.

    It maps them, and would be killed (SIGBUS) by a count for which a full disk has no room.
    """
    for kind, size in _METRIC_FILES.items():
        file = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"], f"{kind}_{os.getpid()}.db")
        file.write_bytes(bytes(size))


def _serve() -> None:
    _reserve_metric_files()
    from granian import Granian
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings

    from observability.log_sink import stdout
    from observability.logs import configure_logging, library_logging
    from settings import load_settings, or_exit

    settings = or_exit(load_settings)
    configure_logging(settings)
    stdout.own_output()
    # The default before Python 3.14. Only a forked process inherits what is set up here.
    multiprocessing.set_start_method("fork")
    server = Granian(
        "api.server:create_worker_app",
        factory=True,
        interface=Interfaces.WSGI,
        http=HTTPModes.http1,
        websockets=False,
        address=settings.listen_address,
        port=settings.port,
        workers=settings.web_processes,
        blocking_threads=settings.web_threads,
        backlog=2_048,
        # No more connections are accepted than files can be opened. Idle ones occupy no thread.
        backpressure=min(_MAX_CONNECTIONS, _raise_file_limit() - _OTHER_FILES),
        http1_settings=HTTP1Settings(
            header_read_timeout=_HEAD_MILLISECONDS, max_buffer_size=_MAX_HEAD_BYTES
        ),
        log_dictconfig=library_logging(settings),
        respawn_failed_workers=True,
        workers_kill_timeout=int(settings.run_wait_seconds) + _STOP_SECONDS_AFTER_WAIT,
    )
    # On startup, the server has already set its signal handlers.
    server.on_startup(_stop_on_signal)
    server.serve()


def _stop_on_signal(drain: Callable[[int], None] | None = None) -> None:
    """Start a thread that waits for a stop signal, calls `drain` with it, and has the server stop."""

    def wait() -> None:
        # Not `sigtimedwait`: after SIGSTOP and SIGCONT it may return a signal that was not sent.
        received = signal.sigwait(_STOP_SIGNALS)
        if drain is not None:
            drain(received)
        handler = signal.getsignal(signal.SIGTERM)
        if callable(handler):
            handler(signal.SIGTERM, None)
        else:
            os._exit(0)  # the process does not serve yet

    threading.Thread(target=wait, name="stop", daemon=True).start()


def _raise_file_limit() -> int:
    """Raise the limit of open files towards `_MAX_CONNECTIONS`, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_CONNECTIONS + _OTHER_FILES
    limit = wanted if hard == resource.RLIM_INFINITY else min(hard, max(soft, wanted))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit


def create_worker_app() -> Flask:
    """The application of one server process.

    On SIGTERM it drains for a moment: long polls end, and answers close their connections, so that no client
    sends its next request into a connection that is about to end. SIGINT, as from a terminal, skips that.
    """
    # A fork inherits the handler of the server's main process.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _reserve_metric_files()
    from api.app import create_app
    from services.assembly import Services

    app = create_app()
    services: Services = app.extensions["takeone"]
    stopping = threading.Event()

    def drain(received: int) -> None:
        if received != signal.SIGINT:
            stopping.set()
            services.run_and_wait.end_long_polls()
            time.sleep(_DRAIN_SECONDS)

    def close_when_stopping(response: Response) -> Response:
        if stopping.is_set():
            response.headers["Connection"] = "close"
        return response

    _stop_on_signal(drain)
    threading.Thread(target=_stop_with_the_server, name="orphan", daemon=True).start()
    app.after_request(close_when_stopping)
    return app


def _stop_with_the_server() -> None:
    """Stop this process once the server's main process has ended, also if that was killed."""
    server = multiprocessing.parent_process()
    if server is not None:
        server.join()
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
