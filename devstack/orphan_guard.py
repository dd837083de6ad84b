"""Registers the process groups that must not outlive this program; `devstack.watchdog` ends them."""

import atexit
import subprocess
import sys
import threading

from devstack import watchdog


class _Watchdog:
    """The watchdog process of this program, started when the first group is added."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None

    def send(self, line: str) -> None:
        """Send one line in the format of `devstack.watchdog`."""
        with self._lock:
            if self._child is None:
                self._child = self._start()
            assert self._child.stdin is not None
            self._child.stdin.write(line + "\n")
            self._child.stdin.flush()

    def _start(self) -> subprocess.Popen[str]:
        atexit.register(self.close)
        return subprocess.Popen(
            [sys.executable, "-I", watchdog.__file__],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that Ctrl-C in the terminal does not end it
        )

    def close(self) -> None:
        """Close the pipe, on which the watchdog ends every group still listed; wait for that."""
        with self._lock:
            if self._child is not None and self._child.stdin is not None:
                self._child.stdin.close()
                self._child.wait(timeout=10)


_watchdog = _Watchdog()


def add(group: int) -> None:
    """End the process group when this program ends, in whatever way."""
    _watchdog.send(f"+{group}")


def discard(group: int) -> None:
    """Forget a process group that has ended."""
    _watchdog.send(f"-{group}")
