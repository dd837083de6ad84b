"""Where log lines are written: by a call that keeps the GIL, where it cannot have to wait for a reader.

A request writes one line, and giving the GIL away for it costs a change of threads (spec/decisions/0014).
"""

import ctypes
import os
import stat
import threading
from contextlib import suppress
from typing import BinaryIO

# Called without giving the GIL away: only where a write takes microseconds, or nothing at all.
_write = ctypes.PyDLL(None).write


class PromptLines:
    """structlog's innermost logger. All of a process share one, so that no line is torn by another."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._descriptor = _without_waits(stream)
        self._lock = threading.Lock()

    def msg(self, line: bytes) -> None:
        """Write a line; it is with the kernel when this returns. Raises `OSError`."""
        line += b"\n"
        with self._lock:
            written = 0
            if self._descriptor is not None:
                written = _write(self._descriptor, line, len(line))
                if written == len(line):
                    return
            # The pipe is full, or it went wrong, which this will say.
            self._stream.write(line[max(0, written) :])
            self._stream.flush()

    debug = info = warning = error = critical = exception = msg


def _without_waits(stream: BinaryIO) -> int | None:
    """A descriptor of the stream's to which no write waits for a reader; None where there is none.

    A pipe is opened anew for it: whether a write may wait is a property that all who have the pipe share.
    """
    with suppress(OSError):  # not a file, or no /proc
        mode = os.fstat(stream.fileno()).st_mode
        if stat.S_ISREG(mode):
            return stream.fileno()
        if stat.S_ISFIFO(mode):
            return os.open(f"/proc/self/fd/{stream.fileno()}", os.O_WRONLY | os.O_NONBLOCK)
    return None
