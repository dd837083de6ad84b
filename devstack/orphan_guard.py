"""The process groups that must not outlive this program; see `devstack.watchdog`, which ends them."""

import atexit
import subprocess
import sys
import threading

from devstack import watchdog


class _Watchdog:
    """The one watchdog process of this program, started with the first group to watch."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None

    def tell(self, line: str) -> None:
        """Send one line; see `devstack.watchdog` for what it may say."""
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
            start_new_session=True,  # Ctrl-C in the terminal is not for it
        )

    def close(self) -> None:
        """Close the pipe, which ends every group still listed, and wait for that."""
        with self._lock:
            if self._child is not None and self._child.stdin is not None:
                self._child.stdin.close()
                self._child.wait(timeout=10)


_watchdog = _Watchdog()


def add(group: int) -> None:
    """Let the process group end with this program, however that ends."""
    _watchdog.tell(f"+{group}")


def discard(group: int) -> None:
    """Forget a process group that has ended."""
    _watchdog.tell(f"-{group}")
