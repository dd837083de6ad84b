"""`make up` and `make dev`: loopback only, with the caller's settings, and their printed examples work."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from devstack.client import ApiClient
from devstack.ports import free_port, is_free
from devstack.processes import ROOT, Process, clean_environment
from devstack.waiting import wait_until
from tests.acceptance.programs import listening
from tests.support.client import status_report

PAGE = "http://localhost:5173"
ORIGIN = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}


@pytest.fixture(params=["demo.up", "demo.dev"])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Process]:
    """The running command, with its own directory and port, and one setting of the caller."""
    port = next(port for port in iter(free_port, None) if is_free(port + 1_000))
    program = (
        "import pathlib, sys, demo.up; demo.up.DIRECTORY = pathlib.Path(sys.argv[1]); "
        f"import {request.param} as command; sys.exit(command.main())"
    )
    settings = {"PORT": str(port), "TAKEONE_MODEL_PROFILES": "only-this", "COLUMNS": "200"}
    process = Process(
        "up",
        [sys.executable, "-c", program, str(tmp_path / "data")],
        environment=clean_environment({**settings, "PYTHONPATH": str(ROOT)}),
        log_path=tmp_path / "up.log",
        port=port,
    )
    process.start()
    try:
        process.wait_until(lambda: "?fail=audio" in process.log(), 40, "it prints its examples")
        yield process
    finally:
        os.kill(process.pid, signal.SIGINT)
        process.terminate(20)


def test_it_serves_this_machine_only_and_its_printed_addresses_work(running: Process) -> None:
    assert {host for host, _ in listening(running)} == {"127.0.0.1"}
    addresses = re.findall(r"http://\S+", running.log())
    assert addresses[0] == f"{running.url}/console"
    # The same again after a restart, or the service would take it for another engine.
    assert f"http://127.0.0.1:{running.port + 1_000}/executions" in addresses
    assert requests.get(addresses[0], timeout=5).status_code == 200
    alice = ApiClient(running.url, "alice")
    preflight = requests.options(f"{running.url}/api/v1/projects", headers=ORIGIN, timeout=5)
    assert preflight.headers["Access-Control-Allow-Origin"] == PAGE
    job = alice.uploaded_job("s3://videos/one.mp4?fail=audio")
    assert alice.run(job["id"]).status_code == 202
    found = re.search(r"X-Callback-Secret: (\S+)", running.log())
    assert found is not None
    alice.callback(job["id"], found[1], status_report("AUDIO_EXTRACTING"))
    wait_until(lambda: alice.job(job["id"]).json()["status"] == "FAILED", 20, "the step fails")
    assert alice.retry(job["id"], "again", "standard").status_code == 400
    assert alice.retry(job["id"], "again", "only-this").status_code == 202
    (command,) = re.findall(r"^  (\(.+ doctor\))$", running.log(), re.MULTILINE)
    shell = ["/bin/sh", "-c", command]
    ended = subprocess.run(shell, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"the API answers at {running.url}" in ended.stdout
    if "worker1 " in running.log():  # `make dev`
        wait_until(lambda: "dispatch.accepted" in running.log(), 10, "it prints the logs")


def test_a_process_that_ends_is_started_again(running: Process) -> None:
    (worker,) = workers(running)
    worker.kill()
    worker.wait(20)  # until it has been noticed
    running.wait_until(lambda: workers(running) - {worker}, 20, "another worker runs")
    assert "worker1 ended; starting it again" in running.log()


def workers(running: Process) -> set[psutil.Process]:
    """The worker processes of the stack."""
    children = psutil.Process(running.pid).children()
    return {child for child in children if "tasks.worker" in child.cmdline()}


def test_a_code_change_is_detected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from demo import dev

    monkeypatch.setattr(dev, "ROOT", tmp_path)
    for name in dev.PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "module.py").write_text("")
    before = dev.newest_code()
    os.utime(tmp_path / "store" / "module.py", (before + 5, before + 5))
    assert dev.newest_code() == before + 5
