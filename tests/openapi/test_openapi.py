"""The specification in other hands: two linters, an HTTP file's runner, and the TypeScript client's types.

Runs as `make openapi`, where npm is.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from devstack.local_stack import LocalStack
from devstack.processes import ROOT
from devstack.stack import Stack

HERE = Path(__file__).parent
SPECIFICATION = ROOT / "spec/api/openapi.yaml"
BUILD = HERE / "build"
CLIENT = ROOT / "clients/typescript"
OLDEST_NODE = (20, 19)  # Redocly's
REFUSES_THE_CALL = {400, 401, 403, 404, 405, 413, 415, 500}


def node_version() -> tuple[int, ...]:
    """Major and minor version of Node.js; empty where there is none, or no npm."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        return ()
    told = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(number) for number in told.strip("v\n").split(".")[:2])


pytestmark = [
    pytest.mark.skipif(
        node_version() < OLDEST_NODE, reason="it needs npm and Node.js 20.19 or newer"
    ),
    pytest.mark.timeout(400),
]


def run(*command: str | Path, folder: Path = HERE, **environment: str) -> str:
    """Run a command in `folder`; its output. Fails with the output if the command does."""
    quiet = {"REDOCLY_SUPPRESS_UPDATE_NOTICE": "true", "REDOCLY_TELEMETRY": "off", "NO_COLOR": "1"}
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**os.environ, **quiet, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-10_000:]
    return done.stdout


def install(folder: Path) -> Path:
    """Install what package-lock.json of `folder` has, unless it is there; the folder of the programs."""
    lock, installed = folder / "package-lock.json", folder / "node_modules/.package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", folder=folder)
    return folder / "node_modules/.bin"


@pytest.fixture(scope="module")
def tools() -> Path:
    """The folder of the programs that read the specification."""
    BUILD.mkdir(exist_ok=True)
    return install(HERE)


@pytest.fixture(scope="module")
def client_tools() -> Path:
    """The TypeScript client, compiled with its tests; the folder of its programs."""
    programs = install(CLIENT)
    run(programs / "tsc", folder=CLIENT)
    run(programs / "tsc", "--project", "test", folder=CLIENT)
    return programs


@pytest.mark.parametrize("folder", [HERE, CLIENT], ids=["checks", "client"])
def test_the_lock_file_names_no_registry(folder: Path) -> None:
    assert '"resolved"' not in (folder / "package-lock.json").read_text()


def test_redocly_finds_nothing(tools: Path) -> None:
    # The strict rule set makes every warning of the recommended one an error.
    found = run(tools / "redocly", "lint", "--extends", "recommended-strict", SPECIFICATION)
    assert "Your API description is valid" in found


def test_spectral_finds_nothing(tools: Path) -> None:
    run(tools / "spectral", "lint", "--fail-severity", "hint", SPECIFICATION)


def test_the_clients_types_are_those_of_the_specification(client_tools: Path) -> None:
    run("npm", "run", "generate", "--", "--check", folder=CLIENT)


def test_the_client_brings_nothing_along() -> None:
    assert "dependencies" not in json.loads((CLIENT / "package.json").read_text())


def test_the_client_leads_a_job_to_its_draft(client_tools: Path, tmp_path: Path) -> None:
    with LocalStack(tmp_path, step_seconds=0.1) as local:
        told = run(
            "node",
            CLIENT / "test/build/one_job.js",
            API_URL=local.service.api_url,
            TOKEN="test:alice:editor",
        )
    assert " SENT; CREATED UPLOADED AUDIO_EXTRACTING " in told


def test_httpyac_sends_every_call_of_the_http_file(
    tools: Path, stack: Stack, callback_secret: str
) -> None:
    lines = {
        "@host = http://127.0.0.1:8000": f"@host = {stack.api_url}",
        "@callbackSecret = dev-callback-secret": f"@callbackSecret = {callback_secret}",
    }
    text = (ROOT / "docs/takeone.http").read_text()
    for line, other in lines.items():
        assert line in text
        text = text.replace(line, other)
    (BUILD / "takeone.http").write_text(text)
    report = json.loads(run(tools / "httpyac", "send", "build/takeone.http", "--all", "--json"))
    statuses = {each["name"]: each["response"]["statusCode"] for each in report["requests"]}
    assert len(statuses) == text.count("# @name")
    assert not REFUSES_THE_CALL & set(statuses.values()), statuses
    assert (statuses["runJob"], statuses["reportJobStatus"]) == (202, 204)
