"""A TCP proxy that injects connection faults between two processes."""

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress

from devstack.ports import HOST, free_port
from devstack.processes import Startable

CONTROL_SECONDS = 5.0


def unavailable(*headers: str) -> bytes:
    """Return a gateway's 503 response with these extra headers, for `respond_with`."""
    lines = ("HTTP/1.1 503 Service Unavailable", *headers, "Content-Length: 0", "Connection: close")
    return "\r\n".join((*lines, "", "")).encode()


class TcpProxy(Startable):
    """Forwards connections to `target_port` of the loopback interface, in its own thread.

    With `tls` it terminates TLS. Its methods may be called from any thread, and have taken effect when they
    return.
    """

    def __init__(self, target_port: int, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.port = free_port()
        self.target_port = target_port
        self.connections_made = 0
        self._sides: set[_Side] = set()
        self._stalled_requests = False
        self._stalled_answers = False
        self._page = b""
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def cut(self) -> None:
        """Reset all open connections; new ones are served."""
        self._control(self._abort_all)

    def refuse(self) -> None:
        """Reset all open connections, and refuse new ones until `restore`."""
        self._control(self._close)

    def forget(self) -> None:
        """Drop all data on open connections, and do not forward their end; new ones are served."""
        self._control(self._forget_all)

    def respond_with(self, page: bytes) -> None:
        """Reset all open connections; answer each new one with `page` and forward nothing."""
        self._control(lambda: self._set_page(page))

    def stall(self) -> None:
        """Forward nothing in either direction until `restore`; connections stay open, new ones wait."""
        self._control(lambda: self._set_stalled(requests=True, answers=True))

    def stall_answers(self) -> None:
        """Forward what the client sends, and hold back the target's answers.

        After a `cut`, the target has processed the request but the client has no answer.
        """
        self._control(lambda: self._set_stalled(requests=False, answers=True))

    def restore(self) -> None:
        """Accept and forward again, beginning with what was held back."""
        self._control(lambda: self._set_stalled(requests=False, answers=False))
        self._page = b""
        self._run(self._listen())

    def start(self) -> None:
        """Start the thread and listen."""
        self._thread.start()
        self._run(self._listen())

    def stop(self) -> None:
        """Close everything and end the thread."""
        self._control(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CONTROL_SECONDS)
        self._loop.close()

    def _control(self, action: Callable[[], None]) -> None:
        async def act() -> None:
            action()
            await asyncio.sleep(0)  # an aborted connection is closed in the loop's next iteration

        self._run(act())

    def _run(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(CONTROL_SECONDS)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await self._loop.create_server(
                lambda: _Side(self, is_client=True), HOST, self.port, backlog=1024, ssl=self._tls
            )

    def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._abort_all()

    def _abort_all(self) -> None:
        for side in list(self._sides):
            side.abort()

    def _forget_all(self) -> None:
        for side in list(self._sides):
            side.is_forgotten = True
            side.regulate()

    def _set_page(self, page: bytes) -> None:
        self._abort_all()
        self._page = page

    def _set_stalled(self, *, requests: bool, answers: bool) -> None:
        self._stalled_requests = requests
        self._stalled_answers = answers
        for side in list(self._sides):
            side.regulate()

    def is_stalled(self, side: "_Side") -> bool:
        """Return whether to hold back what `side` sends."""
        return self._stalled_requests if side.is_client else self._stalled_answers

    async def connect(self, client: "_Side") -> None:
        """Open the connection to the target for a client."""
        self.connections_made += 1
        if self._page:
            client.answer(self._page)
            return
        try:
            _, target = await self._loop.create_connection(
                lambda: _Side(self, is_client=False), HOST, self.target_port
            )
        except OSError:
            client.abort()
        else:
            client.join(target)

    def add(self, side: "_Side") -> None:
        self._sides.add(side)

    def discard(self, side: "_Side") -> None:
        self._sides.discard(side)


class _Side(asyncio.Protocol):
    """One side of a proxied connection: forwards what it receives to the other side."""

    transport: asyncio.Transport

    def __init__(self, proxy: TcpProxy, *, is_client: bool) -> None:
        self.proxy = proxy
        self.is_client = is_client
        self.other: _Side | None = None
        self.is_other_full = False
        self.is_closed = False
        self.is_forgotten = False
        self.page = b""
        self.held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.proxy.add(self)
        # Not at once: before Python 3.11.4, reading begins after this method, even if it was paused.
        asyncio.get_running_loop().call_soon(self.regulate)
        if self.is_client:
            self.connecting = asyncio.ensure_future(self.proxy.connect(self))

    def join(self, other: "_Side") -> None:
        """Connect this side with `other`."""
        self.other, other.other = other, self
        if self.is_closed:
            other.abort()
        self.regulate()
        other.regulate()

    def regulate(self) -> None:
        """Read from this side only while its data can be forwarded."""
        if self.page:
            return
        may_read = (
            self.other
            and not self.is_forgotten
            and not self.is_other_full
            and not self.proxy.is_stalled(self)
        )
        if self.transport.is_closing():
            return
        if may_read and self.other:
            self.transport.resume_reading()
            held, self.held = self.held, b""
            self.other.transport.write(held)
        else:
            self.transport.pause_reading()

    def answer(self, page: bytes) -> None:
        """Answer the first bytes with `page`, and close."""
        self.page = page
        if self.held:
            self._send_page()
        else:
            self.transport.resume_reading()

    def _send_page(self) -> None:
        self.transport.write(self.page)
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self.page:
            self._send_page()
        else:
            # With TLS, data may come with the end of the handshake, before reading can be paused.
            self.held += data
            self.regulate()

    def pause_writing(self) -> None:
        self._let_other_send(False)

    def resume_writing(self) -> None:
        self._let_other_send(True)

    def _let_other_send(self, may: bool) -> None:
        if self.other is not None:
            self.other.is_other_full = not may
            self.other.regulate()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_closed = True
        self.proxy.discard(self)
        if self.other is not None:
            self.other.transport.close()

    def abort(self) -> None:
        """Close this side with RST."""
        with suppress(OSError, AttributeError):  # it may be closed already, and have no socket
            self.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        self.transport.abort()
