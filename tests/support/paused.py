"""A process that stands still for as long as a test looks at it."""

from collections.abc import Iterator
from contextlib import contextmanager

from demo.processes import Process


@contextmanager
def paused(process: Process) -> Iterator[None]:
    """Stop the process with SIGSTOP, and let it go on however the test ends."""
    process.pause()
    try:
        yield
    finally:
        process.resume()
