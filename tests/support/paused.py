"""Pause a process during a test."""

from collections.abc import Iterator
from contextlib import contextmanager

from devstack.processes import Process
from devstack.redis_server import RedisServer
from devstack.waiting import wait_until


@contextmanager
def paused(process: Process) -> Iterator[None]:
    """Pause the process with SIGSTOP, and resume it in any case."""
    process.pause()
    try:
        yield
    finally:
        process.resume()


@contextmanager
def paused_worker(worker: Process, redis: RedisServer) -> Iterator[None]:
    """Pause the only worker, and wait until Redis has no pending BRPOP of its consumer threads.

    Otherwise Redis would deliver a message to a paused thread.
    """
    with paused(worker), redis.client() as client:
        blocked = lambda: client.info("clients")["blocked_clients"]  # noqa: E731
        wait_until(lambda: blocked() <= 1, 30, "at most Celery's event loop is blocked")
        yield
