"""Schemathesis with all checks, over the whole specification, against the running service."""

import subprocess
import sys
from pathlib import Path

import pytest

from devstack.processes import ROOT, clean_environment
from devstack.stack import Stack

SECONDS, THOROUGH_SECONDS = 10, 25
CONFIGURATION = """
max-failures = 20

# The documented failures of the orchestrator and the store are expected; any other 5xx is a fault.
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 502, 503]

[generation]
allow-x00 = true

[auth.openapi.bearerAuth]
bearer = "test:alice:editor"

[auth.openapi.callbackSecret]
api_key = "{secret}"
"""


def test_schemathesis_finds_no_failure(
    stack: Stack, callback_secret: str, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    seconds = THOROUGH_SECONDS if pytestconfig.getoption("--thorough") else SECONDS
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(CONFIGURATION.format(secret=callback_secret))
    hooks = Path(__file__).with_name("schemathesis_hooks.py")
    command = [
        *(sys.executable, "-m", "schemathesis.cli"),
        *("--config-file", str(configuration), "--no-color"),
        *("run", str(ROOT / "spec/api/openapi.yaml"), "--url", stack.api_url),
        *("--checks", "all", "--max-time", str(seconds), "--request-timeout", "10"),
        # With several workers CPython 3.11 can fail: "AST constructor recursion depth mismatch".
        *("--workers", "1", "--suppress-health-check", "all", "--seed", "1"),
    ]
    found = subprocess.run(
        command,
        cwd=tmp_path,
        env=clean_environment({"SCHEMATHESIS_HOOKS": str(hooks)}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds + 50,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-20_000:]
    for phase in ("Examples", "Coverage", "Fuzzing", "Stateful"):
        assert phase in found.stdout
