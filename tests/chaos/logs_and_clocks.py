"""The environment of a process that faults change: the reader of its log, and its wall clock."""

import fcntl
import os
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

# Without a C compiler clocks are not changed, and the report says so.
COMPILER = shutil.which("cc")
_SOURCE = Path(__file__).with_name("clock.c")
_SMALLEST_PIPE = 4096


class LogReader:
    """Copies a process's log from a named pipe to `path`; reading can be stopped and resumed."""

    def __init__(self, path: Path) -> None:
        self.fifo = path.with_suffix(".pipe")
        self._path, self._lock = path, threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(self.fifo)
        self._reading, self._stop = threading.Event(), threading.Event()
        self._descriptor: int | None = None
        self.resume()
        threading.Thread(target=self._run, daemon=True).start()

    def resume(self) -> None:
        with self._lock:
            if self._descriptor is None:
                self._descriptor = os.open(self.fifo, os.O_RDONLY | os.O_NONBLOCK)
                fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, _SMALLEST_PIPE)
        self._reading.set()

    def stall(self) -> None:
        """Stop reading: the process's writes block once the pipe is full."""
        self._reading.clear()

    def close(self) -> None:
        """Close the pipe: the process's writes fail with EPIPE."""
        self._reading.clear()
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        with self._path.open("ab", buffering=0) as file:
            while not self._stop.is_set():
                if not (self._reading.wait(0.1) and self._copy(file.write)):
                    time.sleep(0.02)

    def _copy(self, write: Callable[[bytes], object]) -> bool:
        with self._lock:
            if self._descriptor is None:
                return False
            try:
                lines = os.read(self._descriptor, 1 << 16)
            except BlockingIOError:
                return False
        write(lines)
        return bool(lines)


def compiled_clock(directory: Path) -> Path | None:
    """Compile `clock.c`, which shifts a process's clock, into `directory`; None without a compiler."""
    if COMPILER is None:
        return None
    library = directory / "clock.so"
    command = [COMPILER, "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE), "-ldl", "-lm"]
    subprocess.run(command, check=True, timeout=60)
    return library


class Clock:
    """A process's wall clock, which is off by `seconds`, and by a jump while a fault lasts."""

    def __init__(self, path: Path, seconds: float, library: Path | None) -> None:
        self._path, self._seconds, self._library = path, seconds, library
        path.write_bytes(struct.pack("d", seconds))

    def set(self, jump: float) -> None:
        """Shift the clock by `jump` seconds in addition to its constant offset."""
        with self._path.open("r+b") as file:  # in place: processes have it mapped
            file.write(struct.pack("d", self._seconds + jump))

    @property
    def environment(self) -> dict[str, str]:
        """The variables that apply the clock to a process; empty without a compiler."""
        if self._library is None:
            return {}
        return {"LD_PRELOAD": str(self._library), "CLOCK_OFFSET_FILE": str(self._path)}
