"""A port that takes no connection."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from devstack.ports import HOST


@contextmanager
def port_that_takes_no_connection() -> Iterator[int]:
    """A listener whose backlog is full: the kernel drops every further connection attempt."""
    with ExitStack() as open_sockets:
        listener = open_sockets.enter_context(socket.socket())
        listener.bind((HOST, 0))
        listener.listen(0)
        for _ in range(4):
            waiting = open_sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
