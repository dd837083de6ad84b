"""Ports of the loopback interface that nothing listens on."""

import random
import socket

HOST = "127.0.0.1"

# Below the range from which Linux and macOS take the local ports of outgoing connections:
# a process that is stopped and started again must find its port as free as it left it.
LISTENING_PORTS = range(20_000, 32_000)

_given_out: set[int] = set()
_share = slice(None)


def take_share(number: int, count: int) -> None:
    """Give out only the ports of one of `count` programs that run at once; `number` is from 0.

    A port that is given out and not listened on yet looks free to the others.
    """
    global _share
    _share = slice(number, None, count)


def is_free(port: int) -> bool:
    """Tell whether a server could listen on `port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def free_port(preferred: int | None = None) -> int:
    """Return `preferred` if it is free, else a free port; never the same one twice."""
    candidates = [preferred] if preferred else []
    candidates += random.sample(LISTENING_PORTS[_share], 200)
    for port in candidates:
        if port not in _given_out and is_free(port):
            _given_out.add(port)
            return port
    raise OSError("no free port on the loopback interface")
