"""Where log lines go: standard output, by a thread of its own, so that no reader can stop the work.

A line that cannot be written is dropped and counted: when the disk is full, the reader is gone, or it does
not read. Once writing works again, one line says how many are missing.
"""

import os
import stat
import threading
import time
from collections import deque
from contextlib import suppress

import orjson

from observability.metrics import log_lines_dropped

_STDOUT, _STDERR = 1, 2
_MOST_WAITING = 10_000
_AT_ONCE = 256
_PAUSE_SECONDS = 0.02
# How long a process that ends waits for its last lines to be written.
_LAST_LINES_SECONDS = 2.0


class LogSink:
    """A file to write whole lines to, from any thread and never waiting. It survives a fork."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._pid = 0

    def write(self, line: bytes | str) -> int:
        """Keep a line, its line feed included, for the writer; drop it if too many wait already."""
        if self._pid != os.getpid():
            self._start()
        if len(self._waiting) >= _MOST_WAITING:
            self._drop(1)
        else:
            self._waiting.append(line.encode(errors="replace") if isinstance(line, str) else line)
        if not self._wake.is_set():
            self._wake.set()
        return len(line)

    def flush(self) -> None:
        """Nothing: the writer is never waited for."""

    def own_output(self) -> None:
        """Let nothing else of this process write where it could have to wait; for long-running processes.

        Libraries print banners, and Celery prints in its signal handler, where a full pipe would keep a
        worker from stopping. What goes to stdout past this sink is thrown away, and stderr, if it is a pipe,
        is opened anew without waiting (which all who have the old one would otherwise share).
        """
        if self._descriptor == _STDOUT:
            self._descriptor = os.dup(_STDOUT)
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), _STDOUT)
        with suppress(OSError):
            if stat.S_ISFIFO(os.fstat(_STDERR).st_mode):
                again = os.open(f"/proc/self/fd/{_STDERR}", os.O_WRONLY | os.O_NONBLOCK)
                os.dup2(again, _STDERR)
                os.close(again)

    def _start(self) -> None:
        with self._lock:
            if self._pid == os.getpid():
                return
            self._waiting: deque[bytes] = deque()
            self._wake, self._is_idle = threading.Event(), threading.Event()
            self._dropped = 0
            self._is_torn = False
            threading.Thread(target=self._write_all, name="log-sink", daemon=True).start()
            threading.Thread(target=self._finish, name="log-sink-end").start()
            self._pid = os.getpid()

    def _drop(self, lines: int) -> None:
        self._dropped += lines
        log_lines_dropped.inc(lines)

    def _write_all(self) -> None:
        while True:
            self._wake.wait()
            # Lines are written together: handing each one over costs more than all else about it.
            time.sleep(_PAUSE_SECONDS)
            self._is_idle.clear()
            self._wake.clear()
            while self._waiting:
                lines = [self._waiting.popleft() for _ in range(min(len(self._waiting), _AT_ONCE))]
                try:
                    if dropped := self._dropped:
                        note = {"event": "logs.dropped", "lines": dropped, "level": "warning"}
                        self._write(orjson.dumps(note) + b"\n")
                        self._dropped -= dropped
                    self._write(b"".join(lines))
                except OSError:
                    self._drop(len(lines))
            self._is_idle.set()

    def _write(self, lines: bytes) -> None:
        data = memoryview(b"\n" + lines if self._is_torn else lines)
        while data:
            self._is_torn = True
            data = data[os.write(self._descriptor, data) :]
        self._is_torn = False

    def _finish(self) -> None:
        """Keep the process alive until its last lines are written, for a moment at the most."""
        threading.main_thread().join()
        deadline = time.monotonic() + _LAST_LINES_SECONDS
        while (self._waiting or not self._is_idle.is_set()) and time.monotonic() < deadline:
            time.sleep(_PAUSE_SECONDS / 4)


stdout = LogSink(_STDOUT)
