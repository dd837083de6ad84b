"""A process that stands still for as long as a test looks at it."""

from collections.abc import Iterator
from contextlib import contextmanager

from devstack.processes import Process
from devstack.redis_server import RedisServer
from devstack.waiting import wait_until


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
    """Stop the only worker, and wait until none of its threads is waiting for a message any more.

    Redis would hand a message to a stopped thread that still waits.
    """
    with paused(worker), redis.client() as client:
        waiting = lambda: client.info("clients")["blocked_clients"]  # noqa: E731
        wait_until(lambda: waiting() <= 1, 30, "at most Celery's event loop waits")
        yield
