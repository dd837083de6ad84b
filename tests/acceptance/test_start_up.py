"""Start-up: invalid settings are all named, unknown ones are logged, and development stays local."""

import os
import signal
from pathlib import Path

import pytest

from devstack.ports import free_port
from devstack.stack import DEVELOPMENT_SETTINGS, START_SECONDS, Stack, procfile_command
from devstack.waiting import wait_until
from tests.acceptance.programs import listening, run_program

WRONG = {
    "TAKEONE_REDIS_URL": "planted-password@nowhere",
    "TAKEONE_ORCHESTRATOR_URL": "ftp://user:planted-password@flows.example/",
    "TAKEONE_CALLBACK_SECRET": "planted",
    "TAKEONE_WEB_THREADS": "planted",
}


NEEDED_BY_CALLERS = ("TAKEONE_CALLBACK_SECRET", "TAKEONE_JWT_ISSUER", "TAKEONE_JWT_KEY")


@pytest.mark.parametrize("process", ["web", "worker"])
def test_a_process_with_invalid_settings_refuses_to_start_and_names_them_all(process: str) -> None:
    ended = run_program(procfile_command(process), {**WRONG, "PORT": "0"})
    output = ended.stdout + ended.stderr
    assert ended.returncode != 0
    assert "takeone refuses to start:" in output
    assert "planted" not in output
    for problem in (
        "TAKEONE_REDIS_URL: must be a redis://",
        "TAKEONE_ORCHESTRATOR_URL: must be an absolute http or https URL",
        "TAKEONE_WEB_THREADS: ",
        "TAKEONE_PUBLIC_URL is not set",
    ):
        assert problem in output
    # A worker does not need the settings for callers.
    for name in NEEDED_BY_CALLERS:
        assert (name in output) == (process == "web")


def test_in_development_every_process_listens_on_loopback_only(tmp_path: Path) -> None:
    port = free_port()
    with Stack(tmp_path, flower=True, settings={"TAKEONE_WORKER_METRICS_PORT": str(port)}) as stack:
        assert stack.flower is not None
        expected = [
            (stack.webs[0], stack.webs[0].port),
            (stack.workers[0], port),
            (stack.flower, stack.flower.port),
        ]
        for process, own_port in expected:
            found = process.wait_until(
                lambda process=process: listening(process), START_SECONDS, "it listens"
            )
            assert found == {("127.0.0.1", own_port)}


def test_an_unknown_variable_is_logged_with_the_likely_setting() -> None:
    settings = {**DEVELOPMENT_SETTINGS, "TAKEONE_RUN_WAIT_SECOND": "planted"}
    output = run_program(
        "python -c 'from api.app import create_app; create_app()'", settings
    ).stdout
    assert "settings.unknown_variable" in output
    assert "TAKEONE_RUN_WAIT_SECONDS" in output
    assert "planted" not in output


def test_a_worker_without_its_broker_obeys_signals_and_shows_no_variables(tmp_path: Path) -> None:
    with Stack(tmp_path).workers[0] as worker:  # its Redis is not started
        worker.wait_until(
            lambda: "Cannot connect" in worker.log(), START_SECONDS, "it tries to connect"
        )
        os.kill(worker.pid, signal.SIGUSR1)
        os.kill(worker.pid, signal.SIGHUP)  # handled after it
        wait_until(lambda: not worker.is_running, START_SECONDS, "the worker ends")
        assert "Traceback" not in worker.log()
        assert "VARIABLES" not in worker.log()
        assert worker.exit_code == 0
