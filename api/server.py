"""gunicorn's threaded worker, with its own refusals in the contract's shape."""

import select
import signal
from typing import Any

import orjson
from gunicorn import util
from gunicorn.glogging import Logger
from gunicorn.http import errors as parsing
from gunicorn.workers.gthread import ThreadWorker

from api.errors import INTERNAL, describe
from api.security import HEADERS
from runtime import freeze_what_stays
from sockets import PromptSocket, limit_waits

_STATUS = {
    parsing.LimitRequestLine: 414,
    parsing.LimitRequestHeaders: 431,
    parsing.ExpectationFailed: 417,
    parsing.UnsupportedTransferCoding: 501,
}
# Between two pieces of a request, or of an answer that is not taken.
_SLOWEST_CLIENT_SECONDS = 10
# How long a thread stays with a connection that it has just served.
_NEXT_REQUEST_MILLISECONDS = 10


class ServerLogger(Logger):
    """gunicorn's log without its access lines: the application writes one line a request itself."""

    def access(self, *_: Any) -> None:
        """Nothing; gunicorn would format a line even if it is thrown away."""


class Worker(ThreadWorker):
    """Answers what it cannot even parse as everything else is answered, and quotes nothing of it."""

    #: The application; there is none yet while it is loaded.
    wsgi: Any = None

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:  # noqa: ARG002
        """Refuse a request that never reached the application."""
        status = _status_of(exc)
        if status is None:
            self.log.exception("Error handling request")
        else:
            self.log.info("Invalid request (%s)", type(exc).__name__)
        try:
            util.write_nonblock(client, _answer(status or 500))
        except OSError:
            self.log.debug("The client did not wait for its refusal")

    def handle(self, conn: Any) -> Any:
        """Serve what comes on a connection; True if it is to be kept for more.

        A client that goes on at once is served by the same thread: handing the connection to the main
        thread and back was a sixth of the CPU of a read. One that stops in the middle of a request does
        not keep the thread.
        """
        if not conn.initialized:
            conn.sock = PromptSocket.taking_over(conn.sock)
            limit_waits(conn.sock, _SLOWEST_CLIENT_SECONDS)
        kept = super().handle(conn)
        while kept is True and self._next_request_is_here(conn):
            kept = super().handle(conn)
        return kept

    def _keepalive_after(self, conn: Any, keepalive: bool) -> bool:
        # Where nothing is left of the body, gunicorn sets a timeout all the same, and takes it away again.
        if keepalive and getattr(conn.parser.mesg.body.reader, "length", None) == 0:
            return True
        return bool(super()._keepalive_after(conn, keepalive))

    def _next_request_is_here(self, conn: Any) -> bool:
        in_hand = self.nr_conns - len(self.keepalived_conns) - len(self.pending_conns)
        if not self.alive or in_hand > self.cfg.threads:
            return False  # somebody may be waiting for a thread, and comes first
        if conn.parser.unreader.buf.getvalue():
            return True
        poll = select.poll()
        poll.register(conn.sock, select.POLLIN)
        return bool(poll.poll(_NEXT_REQUEST_MILLISECONDS))

    def load_wsgi(self) -> None:
        """Load the application, and let the garbage collector forget that it is there."""
        super().load_wsgi()
        freeze_what_stays()

    def set_accept_enabled(self, enabled: bool) -> None:
        """When stopping, let in whoever already stands in the kernel's queue, and turn away the next.

        gunicorn would leave the door open until the last request is answered: who came meanwhile would
        wait in that queue, and be cut off with it.
        """
        super().set_accept_enabled(enabled)
        if enabled or self.alive:
            return
        for listener in self.sockets:
            while select.select([listener], [], [], 0)[0]:
                self.accept(listener)
            listener.close()

    def init_signals(self) -> None:
        """On SIGTERM let the long polls end, so that only real work is waited for."""
        super().init_signals()
        stop = signal.getsignal(signal.SIGTERM)

        def end_long_polls_and_stop(number: int, frame: Any) -> None:
            services = getattr(self.wsgi, "extensions", {}).get("takeone")
            if services is not None:
                services.dispatching.end_long_polls()
            if callable(stop):
                stop(number, frame)

        signal.signal(signal.SIGTERM, end_long_polls_and_stop)


def _status_of(exc: BaseException) -> int | None:
    for kind, status in _STATUS.items():
        if isinstance(exc, kind):
            return status
    return 400 if isinstance(exc, parsing.ParseException) else None


def _answer(status: int) -> bytes:
    code, message = describe(status) if status < 500 else INTERNAL
    details = {"request": [message]} if code == "VALIDATION_ERROR" else None
    body = orjson.dumps(
        {"code": code, "message": message} | ({"details": details} if details else {})
    )
    secured = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    head = (
        f"HTTP/1.1 {status} {'Bad Request' if status < 500 else 'Internal Server Error'}\r\n"
        f"Connection: close\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"{secured}\r\n"
    )
    return head.encode() + body
