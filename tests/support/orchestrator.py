"""A stub orchestrator that records every request and behaves as scripted.

Two others are separate: demo/orchestrator.py is an example for authors of real ones, and
bench/orchestrator.py must cost almost nothing compared with what is measured.
"""

import select
import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from devstack.ports import HOST, free_port
from devstack.processes import Startable
from devstack.waiting import wait_until
from tests.support.behaviours import Behaviour, Exchange, Request, accept, reset

STOP_SECONDS = 5.0


class StubOrchestrator(Startable):
    """An HTTP server in a thread; after a stop it can be started again on the same port.

    Its behaviour towards a request is `behaviours[job_id]` or else `default`; both may be changed at any time.
    While `resets_before_reading` is set, it resets each connection on which a request arrives, without reading
    or recording it.
    """

    def __init__(self, default: Behaviour | None = None, port: int | None = None) -> None:
        self.port = port or free_port()
        self.default = default or accept()
        self.behaviours: dict[str, Behaviour] = {}
        self.resets_before_reading = False
        self.resets = 0
        self.requests: list[Request] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.lock = threading.Lock()
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        """The URL for dispatches."""
        return f"http://{HOST}:{self.port}/dispatches"

    def requests_for(self, job_id: str) -> list[Request]:
        """Return the requests about a job, in order of arrival."""
        return [request for request in list(self.requests) if request.job_id == job_id]

    def wait_for_requests(self, job_id: str, count: int = 1, limit_seconds: float = 30.0) -> None:
        """Wait until at least `count` requests about a job have been read."""
        what = f"{count} requests about job {job_id} at the orchestrator"
        wait_until(lambda: len(self.requests_for(job_id)) >= count, limit_seconds, what)

    def behaviour_for(self, request: Request) -> Behaviour:
        return self.behaviours.get(request.job_id or "", self.default)

    def resets_unread(self) -> bool:
        """Whether to reset a connection on which a request has just arrived, unread."""
        return self.resets_before_reading

    def reset_behaviour(self) -> None:
        """Reset the behaviours to accepting everything, and clear the record."""
        self.default = accept()
        self.behaviours.clear()
        self.resets_before_reading = False
        self.requests.clear()
        self.most_in_flight = 0

    def start(self) -> None:
        """Start listening; before that, connections are refused."""
        self._server = _Server(self)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Close every connection, and refuse new ones."""
        if self._server is not None:
            self._server.stop()
            self._server = None


class _Server(ThreadingHTTPServer):
    request_queue_size = 1024  # enough for every concurrent caller of a test
    daemon_threads = True
    block_on_close = False

    def __init__(self, stub: StubOrchestrator) -> None:
        self.stub = stub
        self.stopping = threading.Event()
        self.open_connections: set[socket.socket] = set()
        super().__init__((HOST, stub.port), _Handler)

    def stop(self) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()
        with self.stub.lock:
            for connection in self.open_connections:
                _shut(connection)
        wait_until(lambda: not self.open_connections, STOP_SECONDS, "the stub's connections end")

    def handle_error(self, *_: object) -> None:
        """Print nothing when a caller has closed its connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        with self.server.stub.lock:
            self.server.open_connections.add(self.connection)

    def finish(self) -> None:
        with self.server.stub.lock:
            self.server.open_connections.discard(self.connection)
        super().finish()

    def handle_one_request(self) -> None:
        if self._is_to_be_reset():
            self.server.stub.resets += 1
            self.close_connection = True
            reset(self.connection)
        else:
            super().handle_one_request()

    def _is_to_be_reset(self) -> bool:
        """Wait for the first byte without reading it; return whether to reset the connection."""
        while not self.server.stopping.is_set():
            readable, _, _ = select.select([self.connection], [], [], 0.2)
            if readable:
                has_bytes = bool(self.connection.recv(1, socket.MSG_PEEK))
                return has_bytes and self.server.stub.resets_unread()
        return False

    def do_POST(self) -> None:
        request = self._read_request()
        stub = self.server.stub
        with stub.lock:
            stub.requests.append(request)
            stub.in_flight += 1
            stub.most_in_flight = max(stub.most_in_flight, stub.in_flight)
        try:
            self._behave(request)
        finally:
            with stub.lock:
                stub.in_flight -= 1

    do_GET = do_PUT = do_PATCH = do_DELETE = do_POST  # noqa: N815 - the names are http.server's

    def _read_request(self) -> Request:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        return Request(self.command, self.path, headers, body, time.time())

    def _behave(self, request: Request) -> None:
        exchange = Exchange(request, self.connection, self.server.stopping)
        self.server.stub.behaviour_for(request)(exchange)
        if not exchange.keep_alive:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Print nothing: the requests are recorded in `requests`."""


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):  # it may be closed already
        connection.shutdown(socket.SHUT_RDWR)
