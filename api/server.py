"""The `web` process: Granian, with its settings made from ours. `python -m api.server` starts it."""

import multiprocessing
import os
import resource
import signal
import tempfile
import threading
import time

from flask import Flask, Response

# A client that has not sent a whole head by then is disconnected, and so is one that keeps a connection
# open without using it.
_HEAD_MILLISECONDS = 30_000
_MOST_HEAD_BYTES = 65_536
_MOST_CONNECTIONS = 16_000
# Files that a process needs beside its callers' connections.
_OTHER_FILES = 256
# More than the longest wait of a run, so that each caller is answered before the process ends.
_STOP_SECONDS_AFTER_WAIT = 15
# How long answers ask their clients to close, before connections are closed that lie unused.
_DRAIN_SECONDS = 1.0
_STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}


def main() -> None:
    """Serve until SIGTERM. Exits if the settings are incomplete or unsafe."""
    # Blocked in every thread of every process of the server; one thread of each waits for them. Python runs a
    # handler in the main thread alone, which waits here without a limit: it would not wake when another thread
    # takes the signal, and of two that come together the kernel may give both to another.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        _serve()  # into the operator's own
        return
    # This start's processes put what they count here, so that any of them can show the sum. It is made before
    # anything imports prometheus_client, which looks for it only then; on memory if possible: on a full disk,
    # counting would end the process. Its forks end by os._exit, so that none of them takes it away.
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108
    prefix = f"takeone-metrics-{os.getpid()}-"
    with tempfile.TemporaryDirectory("", prefix, memory, ignore_cleanup_errors=True) as made:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = made
        _serve()


def _serve() -> None:
    from granian import Granian
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings

    from observability.log_sink import stdout
    from observability.logs import configure_logging, library_logging
    from settings import load_settings, or_exit

    settings = or_exit(load_settings)
    configure_logging(settings)
    stdout.own_output()
    # The default before Python 3.14; a process that is not forked has nothing of what is set up here.
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
        # Above it no connection is accepted: each must find a file, and a silent one keeps no thread.
        backpressure=min(_MOST_CONNECTIONS, raise_file_limit() - _OTHER_FILES),
        http1_settings=HTTP1Settings(
            header_read_timeout=_HEAD_MILLISECONDS, max_buffer_size=_MOST_HEAD_BYTES
        ),
        log_dictconfig=library_logging(settings),
        respawn_failed_workers=True,
        workers_kill_timeout=int(settings.run_wait_seconds) + _STOP_SECONDS_AFTER_WAIT,
    )
    # By then the server has set its signal handlers.
    server.on_startup(_stop_server_on_signal)
    server.serve()


def _stop_server_on_signal() -> None:
    def wait() -> None:
        signal.sigwait(_STOP_SIGNALS)
        _call_stop_handler()

    threading.Thread(target=wait, name="stop", daemon=True).start()


def _call_stop_handler() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    if callable(handler):
        handler(signal.SIGTERM, None)
    else:
        os._exit(0)  # a process that does not serve yet


def raise_file_limit() -> int:
    """Let this process open as many files as it may (each connection is one), and return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_CONNECTIONS + _OTHER_FILES
    limit = wanted if hard == resource.RLIM_INFINITY else min(hard, max(soft, wanted))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit


def create_worker_app() -> Flask:
    """The application of one server process, which drains for a moment when it is told to stop.

    Its long polls end then, and each answer closes its connection: a client that kept one would send its
    next request into a connection that ends. SIGINT, as from a terminal, stops it without that moment.
    """
    # The server's main process has one already, which a fork takes over.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    from api.app import create_app
    from api.context import Context

    app = create_app()
    context: Context = app.extensions["takeone"]
    stopping = threading.Event()

    def stop_when_told() -> None:
        if signal.sigwait(_STOP_SIGNALS) != signal.SIGINT:
            stopping.set()
            context.services.run_and_wait.end_long_polls()
            time.sleep(_DRAIN_SECONDS)
        _call_stop_handler()

    def close_when_stopping(response: Response) -> Response:
        if stopping.is_set():
            response.headers["Connection"] = "close"
        return response

    # No wait with a limit (`sigtimedwait`): after a SIGSTOP and SIGCONT it may return a signal that never came.
    threading.Thread(target=stop_when_told, name="stop", daemon=True).start()
    threading.Thread(target=_stop_with_the_server, name="orphan", daemon=True).start()
    app.after_request(close_when_stopping)
    return app


def _stop_with_the_server() -> None:
    """Tell this process to stop once the server's main process is gone, also where that was killed."""
    server = multiprocessing.parent_process()
    if server is not None:
        server.join()
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
