"""Web and worker processes whose stdout cannot be written to: work continues, and lost lines are counted."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from select import select

import pytest
import requests

from devstack.ports import HOST, free_port
from devstack.processes import Process
from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.conftest import NewStack
from tests.support.client import ApiClient, status_report
from tests.support.full_disk import FullDisk
from tests.support.log_lines import lines_with, wait_for_line
from tests.support.orchestrator import StubOrchestrator
from tests.support.paused import paused


class FullLogDisk(FullDisk):
    """A small disk for the log files, which another file fills up."""

    drops = True

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, size=256 * 1024)

    def attach(self, process: Process) -> None:
        """Redirect the output of a process that is not started yet."""
        process.log_path = self.mount / process.log_path.name


class Pipes:
    """A named pipe for each process, which a thread copies to the process's log file."""

    drops = True

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.paths: dict[Path, Path] = {}
        self.readers: dict[Path, int] = {}
        self.lock = threading.Lock()  # no reader is closed while select waits for it
        self.reading = True
        self.ended = False
        self.thread = threading.Thread(target=self._copy, daemon=True)

    def attach(self, process: Process) -> None:
        pipe = self.directory / f"{process.name}.pipe"
        os.mkfifo(pipe)
        self._open(pipe)
        shell, option, command = process.command
        process.command = [shell, option, f"{command} > {pipe} 2>&1"]
        process.log_path = process.log_path.with_suffix(".copied")
        self.paths[pipe] = process.log_path
        if not self.thread.is_alive():
            self.thread.start()

    def _open(self, pipe: Path) -> None:
        self.readers[pipe] = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    def _copy(self) -> None:
        while not self.ended:
            time.sleep(0.02)
            with self.lock:
                readers = self.readers if self.reading else {}
                ready, _, _ = select(readers.values(), [], [], 0)
                for pipe, reader in readers.items():
                    if reader in ready and (piece := os.read(reader, 65_536)):
                        with self.paths[pipe].open("ab") as log:
                            log.write(piece)

    def close(self) -> None:
        self.ended = True
        self.thread.join(5)
        for reader in self.readers.values():
            os.close(reader)


class SleepingReader(Pipes):
    """Pipes whose reader stops reading."""

    # The queue in each process can hold all lines of this test.
    drops = False

    def fail(self) -> None:
        self.reading = False
        for pipe in self.paths:
            writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            for size in (512, 1):
                with suppress(BlockingIOError):
                    while True:
                        os.write(writer, b"\n" * size)
            os.close(writer)

    def mend(self) -> None:
        self.reading = True


class GoneReader(Pipes):
    """Pipes whose reader has gone."""

    def fail(self) -> None:
        with self.lock:
            for reader in self.readers.values():
                os.close(reader)
            self.readers = {}

    def mend(self) -> None:
        with self.lock:
            for pipe in self.paths:
                self._open(pipe)


class Case:
    """A stack that logs to a sink."""

    def __init__(self, stack: Stack, sink: FullLogDisk | Pipes, metrics_port: int) -> None:
        self.stack, self.sink = stack, sink
        self.web, self.worker = stack.webs[0], stack.workers[0]
        self._metrics = {self.web: f"{stack.api_url}/metrics"}
        self._metrics[self.worker] = f"http://{HOST}:{metrics_port}/metrics"

    def counted(self, process: Process, name: str) -> float:
        """The sum of a metric of the process."""
        text = requests.get(self._metrics[process], timeout=10).text
        found = [line for line in text.splitlines() if line.startswith(f"takeone_{name}")]
        return sum(float(line.split()[-1]) for line in found)


@pytest.fixture(scope="module", params=[FullLogDisk, GoneReader, SleepingReader])
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, new_stack: NewStack
) -> Iterator[Case]:
    port = free_port()
    sink = request.param(tmp_path_factory.mktemp("sink"))
    try:
        stack = new_stack(TAKEONE_WORKER_METRICS_PORT=str(port))
        for process in stack.processes:
            sink.attach(process)
        with stack:
            yield Case(stack, sink, port)
    finally:
        sink.close()


def work(case: Case, orchestrator: StubOrchestrator, secret: str) -> str:
    """Lead a new job from its project to a callback with the usual answers; return its id."""
    editor = ApiClient(case.stack.api_url, "erin")
    job_id = str(editor.uploaded_job()["id"])
    run = editor.run(job_id)
    assert run.status_code == 202
    assert run.json()["status"] == "AUDIO_EXTRACTING"
    assert len(orchestrator.requests_for(job_id)) == 1
    report = status_report("AUDIO_READY")
    assert [editor.callback(job_id, secret, report).status_code for _ in range(2)] == [204, 200]
    assert editor.job(job_id).json()["status"] == "AUDIO_READY"
    assert editor.call("GET", "/no/such/route").status_code == 404
    return job_id


def test_work_continues_and_dropped_lines_are_counted_and_logged(
    case: Case, orchestrator: StubOrchestrator, callback_secret: str
) -> None:
    work(case, orchestrator, callback_secret)
    case.sink.fail()
    # Enough to fill every buffer that still accepts a line.
    lost = [work(case, orchestrator, callback_secret) for _ in range(40)]
    sweeps = lambda result: case.counted(case.worker, f'sweeps_total{{result="{result}"')  # noqa: E731
    with paused(case.stack.redis):
        wait_until(lambda: sweeps("failed"), 10, "a sweep fails, which is logged")
    done = sweeps("done")
    wait_until(lambda: sweeps("done") > done, 10, "the worker still sweeps")
    for process in (case.web, case.worker):
        assert (case.counted(process, "log_lines_dropped_total") > 0) == case.sink.drops
        assert not lines_with(process, lost[-1])
    case.sink.mend()
    last = work(case, orchestrator, callback_secret)
    for process in (case.web, case.worker):
        wait_for_line(process, last)
        wait_for_line(process, "logs.dropped" if case.sink.drops else lost[-1])


def test_processes_stop_normally(
    case: Case, orchestrator: StubOrchestrator, callback_secret: str
) -> None:
    case.sink.fail()
    work(case, orchestrator, callback_secret)
    for process in (case.worker, case.web):
        process.ask_to_stop()
    for process in (case.worker, case.web):
        wait_until(lambda process=process: not process.is_running, 20, f"{process.name} ends")
        assert process.exit_code == 0
