"""Standard output for log lines, written by a thread so that no reader of the log can block the service.

A line that cannot be written is dropped and counted: if the disk is full, or the reader is gone or does not
read. Once writing works again, a line says how many were dropped.
"""

import os
import stat
import threading
import time
from contextlib import suppress
from queue import SimpleQueue

import orjson

from observability.metrics import log_lines_dropped

_STDOUT, _STDERR = 1, 2
_MAX_WAITING = 10_000
_BATCH_SECONDS = 0.02
# How long a process that exits waits for its last lines to be written.
_EXIT_SECONDS = 2.0
# In the queue, where `_finish` waits for everything before it to be written.
_END = b""


class LogSink:
    """A file for whole lines whose `write` never waits. Any thread may use it, also after a fork."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._pid = 0

    def write(self, line: str) -> int:
        """Queue a line, with its line feed, or drop it if the queue is full."""
        if self._pid != os.getpid():
            self._start()
        if self._lines.qsize() >= _MAX_WAITING:
            self._drop(1)
        else:
            # SimpleQueue.put is reentrant: a signal handler may log while its thread does.
            self._lines.put(line.encode(errors="replace"))
        return len(line)

    def flush(self) -> None:
        """Do nothing: callers never wait for the writer."""

    def own_output(self) -> None:
        """Keep everything else in this process from blocking on its output; for long-running processes.

        Libraries print banners, and Celery prints in its signal handler, where a full pipe would keep a
        worker from stopping. What is written to stdout other than by this sink is discarded. Stderr, if it
        is a pipe, is opened again as non-blocking: the flag on the old one would affect all who share it.
        """
        if self._descriptor == _STDOUT:
            self._descriptor = os.dup(_STDOUT)
            with open(os.devnull, "wb") as null:
                os.dup2(null.fileno(), _STDOUT)
        with suppress(OSError):
            if stat.S_ISFIFO(os.fstat(_STDERR).st_mode):
                reopened = os.open(f"/proc/self/fd/{_STDERR}", os.O_WRONLY | os.O_NONBLOCK)
                os.dup2(reopened, _STDERR)
                os.close(reopened)

    def _start(self) -> None:
        with self._lock:
            if self._pid == os.getpid():
                return
            self._lines: SimpleQueue[bytes] = SimpleQueue()
            self._is_finished = threading.Event()
            self._dropped = 0
            self._is_torn = False
            threading.Thread(target=self._write_lines, name="log-sink", daemon=True).start()
            threading.Thread(target=self._finish, name="log-sink-end").start()
            self._pid = os.getpid()

    def _drop(self, lines: int) -> None:
        self._dropped += lines
        log_lines_dropped.inc(lines)

    def _write_lines(self) -> None:
        while True:
            first = self._lines.get()
            # Lines are written in batches: a switch between threads costs more than all else about a line.
            time.sleep(_BATCH_SECONDS)
            batch = [first, *(self._lines.get() for _ in range(self._lines.qsize()))]
            try:
                if dropped := self._dropped:
                    note = {"event": "logs.dropped", "lines": dropped, "level": "warning"}
                    self._write(orjson.dumps(note) + b"\n")
                    self._dropped -= dropped
                self._write(b"".join(batch))
            except OSError:
                self._drop(len(batch) - batch.count(_END))
            if _END in batch:
                self._is_finished.set()

    def _write(self, lines: bytes) -> None:
        data = memoryview(b"\n" + lines if self._is_torn else lines)
        while data:
            self._is_torn = True
            data = data[os.write(self._descriptor, data) :]
        self._is_torn = False

    def _finish(self) -> None:
        """Keep the process alive, briefly, until its last lines are written."""
        threading.main_thread().join()
        self._lines.put(_END)
        self._is_finished.wait(_EXIT_SECONDS)


stdout = LogSink(_STDOUT)
