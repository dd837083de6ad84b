"""Free ports of the loopback interface."""

import random
import socket

HOST = "127.0.0.1"

# Below the ephemeral ports of Linux and macOS: no outgoing connection takes the port of a process while it
# restarts.
LISTENING_PORTS = range(20_000, 32_000)

_given_out: set[int] = set()
_share = slice(None)


def take_share(number: int, count: int) -> None:
    """Return only the ports of share `number` of `count` (from 0), when several programs run concurrently.

    Otherwise two could be given the same port, before the first listens on it.
    """
    global _share
    _share = slice(number, None, count)


def is_free(port: int) -> bool:
    """Return whether a server could listen on `port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def free_port(preferred: int | None = None) -> int:
    """Return `preferred` if it is free, else another free port; never the same one twice."""
    candidates = [preferred] if preferred else []
    candidates += random.sample(LISTENING_PORTS[_share], 200)
    for port in candidates:
        if port not in _given_out and is_free(port):
            _given_out.add(port)
            return port
    raise OSError("no free port on the loopback interface")
