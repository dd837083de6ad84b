"""What surrounds a process: who reads its log, and which time it believes it is."""

import fcntl
import os
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

# Without a C compiler no clock is ever wrong, and the report says so.
COMPILER = shutil.which("cc")
_SOURCE = Path(__file__).with_name("clock.c")
_SMALLEST_PIPE = 4096


class LogReader:
    """Takes a process's log lines from a named pipe to `path`, unless it is told not to."""

    def __init__(self, path: Path) -> None:
        self.fifo = path.with_suffix(".pipe")
        self._path, self._lock = path, threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(self.fifo)
        self._reading, self._stop = threading.Event(), threading.Event()
        self._descriptor: int | None = None
        self.read_on()
        threading.Thread(target=self._run, daemon=True).start()

    def read_on(self) -> None:
        """Read, from now on."""
        with self._lock:
            if self._descriptor is None:
                self._descriptor = os.open(self.fifo, os.O_RDONLY | os.O_NONBLOCK)
                fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, _SMALLEST_PIPE)
        self._reading.set()

    def stand_still(self) -> None:
        """Read nothing: after a page of lines, nothing more can be written."""
        self._reading.clear()

    def go(self) -> None:
        """Close the pipe: a writer is told that it is broken."""
        self._reading.clear()
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def stop(self) -> None:
        """End."""
        self._stop.set()

    def _run(self) -> None:
        with self._path.open("ab", buffering=0) as file:
            while not self._stop.is_set():
                if not (self._reading.wait(0.1) and self._copied(file.write)):
                    time.sleep(0.02)

    def _copied(self, write: Callable[[bytes], object]) -> bool:
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
    """The library that sets a process's clock (`clock.c`), made in `directory`."""
    if COMPILER is None:
        return None
    library = directory / "clock.so"
    command = [COMPILER, "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE), "-ldl", "-lm"]
    subprocess.run(command, check=True, timeout=60)
    return library


class Clock:
    """How far a process's clock is from the true time: always `seconds`, and more while it jumps."""

    def __init__(self, path: Path, seconds: float, library: Path | None) -> None:
        self._path, self._seconds, self._library = path, seconds, library
        path.write_bytes(struct.pack("d", seconds))

    def set(self, jump: float) -> None:
        """Let the clock be `jump` seconds further off than it always is."""
        with self._path.open("r+b") as file:  # in place: processes have it mapped
            file.write(struct.pack("d", self._seconds + jump))

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process believe it; nothing without a compiler."""
        if self._library is None:
            return {}
        return {"LD_PRELOAD": str(self._library), "CLOCK_OFFSET_FILE": str(self._path)}
