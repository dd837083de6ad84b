"""Start and stop programs, each in its own process group and with its own log file."""

import os
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self, TypeVar

from devstack import orphan_guard, watchdog
from devstack.ports import HOST
from devstack.waiting import wait_until

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
INHERITED = ("HOME", "LANG", "LC_ALL", "TMPDIR", "TZ")


class ProcessFailedError(RuntimeError):
    """A program ended unexpectedly or missed a deadline; the message includes the end of its log."""


def clean_environment(extra: Mapping[str, str], programs: Path | None = None) -> dict[str, str]:
    """Return an environment without this process's settings, with `extra` added.

    PATH begins with `programs`, by default the directory of this Python.
    """
    first = programs or Path(sys.executable).parent
    path = f"{first}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {**inherited, "PATH": path, "PYTHONUNBUFFERED": "1", **extra}


class Startable(ABC):
    """A context manager that starts on entry and stops on exit, or when the start fails."""

    @abstractmethod
    def start(self) -> None:
        """Start, and wait until it is ready."""

    @abstractmethod
    def stop(self) -> None:
        """Stop everything that is running."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Process(Startable):
    """A program in its own process group, run in `directory`; its output is appended to `log_path`."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        log_path: Path,
        port: int | None = None,
        directory: Path = ROOT,
    ) -> None:
        self.name = name
        self.directory = directory
        self.command = list(command)
        self.environment = dict(environment)
        self.log_path = log_path
        self.port = port
        self._child: subprocess.Popen[bytes] | None = None
        self._group_ended = True
        self._log_start = 0

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id, which is also the process group's id."""
        if self._child is None:
            raise ProcessFailedError(f"{self.name} was never started")
        return self._child.pid

    @property
    def is_running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The program's exit status; None while it runs."""
        return None if self._child is None else self._child.poll()

    def start(self) -> None:
        """Start the program without waiting; subclasses wait until it is ready."""
        self._start()

    def _start(self, inherited_files: Sequence[int] = ()) -> None:
        if self.is_running:
            raise ProcessFailedError(f"{self.name} is already running")
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            self._child = subprocess.Popen(
                self.command,
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=inherited_files,
            )
        self._group_ended = False
        orphan_guard.add(self.pid)

    def log(self) -> str:
        """Return what the program has printed since its last start."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def wait_until(self, condition: Callable[[], T], limit_seconds: float, what: str) -> T:
        """Wait as `waiting.wait_until` does, but only while the program runs.

        Raises ProcessFailedError when the program ends or the limit passes.
        """

        def condition_while_running() -> T:
            if not self.is_running:
                raise ProcessFailedError(
                    f"{self.name} ended while awaiting: {what}\n{self._log_end()}"
                )
            return condition()

        try:
            return wait_until(condition_while_running, limit_seconds, what)
        except TimeoutError as error:
            raise ProcessFailedError(f"{self.name}: {error}\n{self._log_end()}") from None

    def _log_end(self, lines: int = 25) -> str:
        return "\n".join(self.log().splitlines()[-lines:])

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the program, which ends its own children; do not wait."""
        if self.is_running:
            os.kill(self.pid, signal.SIGTERM)
            self.resume()  # a paused process would not handle it

    def interrupt(self) -> None:
        """Send SIGINT to the whole process group, as Ctrl-C would; do not wait."""
        self._signal_group(signal.SIGINT)
        self.resume()  # a paused process would not handle it

    def stop(self) -> None:
        """Terminate the program."""
        self.terminate()

    def terminate(self, limit_seconds: float = 10.0) -> None:
        """Send SIGTERM; kill the process group if the program has not ended after the limit."""
        self.ask_to_stop()
        self.end(limit_seconds)

    def end(self, limit_seconds: float) -> None:
        """Wait for a program that was asked to stop; then kill what is left of its process group."""
        if self._child is not None:
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(limit_seconds)
        self.kill()

    def kill(self) -> None:
        """Send SIGKILL to the process group, and wait until the program has ended."""
        if self._child is None or self._group_ended:
            return
        self._signal_group(signal.SIGKILL)
        self._child.wait(10)
        self._group_ended = True
        orphan_guard.discard(self.pid)

    def pause(self) -> None:
        """Send SIGSTOP to the process group."""
        self._signal_group(signal.SIGSTOP)

    def resume(self) -> None:
        """Send SIGCONT to the process group."""
        self._signal_group(signal.SIGCONT)

    def _signal_group(self, signal_number: int) -> None:
        if not self._group_ended:  # afterwards the id may be reused
            watchdog.send(self.pid, signal_number)


def stop_all(processes: Iterable[Process], limit_seconds: float = 10.0) -> None:
    """Stop programs concurrently: send SIGTERM to all, then wait for each."""
    listed = list(processes)
    for process in listed:
        process.ask_to_stop()
    for process in listed:
        process.end(limit_seconds)
