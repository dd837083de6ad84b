"""A process that is set up wrongly does not start, and says all of what is wrong, by name."""

import subprocess
from collections.abc import Mapping

import pytest

from demo.processes import ROOT, clean_environment
from demo.stack import DEVELOPMENT_SETTINGS, procfile_command

WRONG = {
    "TAKEONE_REDIS_URL": "planted-password@nowhere",
    "TAKEONE_ORCHESTRATOR_URL": "ftp://user:planted-password@flows.example/",
    "TAKEONE_CALLBACK_SECRET": "planted",
    "TAKEONE_WEB_THREADS": "planted",
}


def run(command: str, settings: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; raises TimeoutExpired if it does not end by itself."""
    return subprocess.run(
        ["/bin/sh", "-c", f"exec {command}"],
        cwd=ROOT,
        env=clean_environment({"PORT": "0", **settings}),
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize("process", ["web", "worker"])
def test_a_process_with_wrong_settings_refuses_to_start_and_names_them_all(process: str) -> None:
    ended = run(procfile_command(process), WRONG)
    said = ended.stdout + ended.stderr
    assert ended.returncode != 0
    assert "takeone refuses to start:" in said
    assert "planted" not in said
    for problem in (
        "TAKEONE_REDIS_URL: must be a redis://",
        "TAKEONE_ORCHESTRATOR_URL: must be an absolute http or https URL",
        "TAKEONE_WEB_THREADS: ",
        "TAKEONE_CALLBACK_SECRET is too short or a known default",
        "TAKEONE_PUBLIC_URL is not set",
        "TAKEONE_JWT_ISSUER is not set",
    ):
        assert problem in said


def test_a_variable_that_no_setting_answers_to_is_named_in_the_log_with_what_was_meant() -> None:
    settings = {**DEVELOPMENT_SETTINGS, "TAKEONE_RUN_WAIT_SECOND": "planted"}
    said = run("python -c 'import api; api.create_app()'", settings).stdout
    assert "settings.unknown_variable" in said
    assert "TAKEONE_RUN_WAIT_SECONDS" in said
    assert "planted" not in said
