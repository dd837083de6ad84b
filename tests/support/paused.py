"""A process that stands still for as long as a test looks at it."""

from collections.abc import Iterator
from contextlib import contextmanager

from demo.processes import Process
from demo.redis_server import RedisServer
from demo.waiting import wait_until


@contextmanager
def paused(process: Process) -> Iterator[None]:
    """Stop the process with SIGSTOP, and let it go on however the test ends."""
    process.pause()
    try:
        yield
    finally:
        process.resume()


@contextmanager
def paused_worker(worker: Process, redis: RedisServer) -> Iterator[None]:
    """Stop the only worker; its threads wait for no message any more, its event loop still does.

    So the first message that comes meanwhile is handed to it, and the next ones stay in their queues.
    """
    with paused(worker), redis.client() as client:
        waiting = lambda: client.info("clients")["blocked_clients"]  # noqa: E731
        wait_until(lambda: waiting() == 1, 5, "only the event loop waits for a message")
        yield
