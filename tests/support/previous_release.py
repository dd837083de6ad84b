"""The release before this one, as a checkout with its own virtual environment."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from devstack.processes import ROOT

#: The last commit of the release before this one; to be changed with each release.
COMMIT = "253b23fe2959133967c8db636e8f356a227b418d"
_INSTALL_SECONDS = 400


def previous_release() -> Path:
    """Return the checkout's folder, which is created by the first call and kept for later runs.

    Skips the calling test if git does not have the commit or the packages cannot be installed.
    """
    root = ROOT / ".venv-previous" / COMMIT[:12]
    is_complete = root / ".installed"
    if not is_complete.exists():
        shutil.rmtree(root, ignore_errors=True)  # left by an interrupted run
        root.mkdir(parents=True)
        archive = root / "source.tar"
        _run("git", "-C", str(ROOT), "archive", "--output", str(archive), COMMIT)
        _run("tar", "--extract", "--file", str(archive), "--directory", str(root))
        archive.unlink()
        _run(sys.executable, "-m", "venv", str(root / ".venv"))
        _run(
            str(root / ".venv" / "bin" / "python"),
            *("-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--constraint", str(root / "constraints.txt"), "--editable", str(root)),
        )
        is_complete.touch()
    return root


def _run(*command: str) -> None:
    try:
        subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=_INSTALL_SECONDS
        )
    except FileNotFoundError:
        pytest.skip(f"the previous release cannot be installed: there is no {command[0]}")
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        lines = str(error.stderr or error).strip().splitlines()
        reason = next((line for line in lines if "ERROR" in line), lines[-1])
        pytest.skip(f"the previous release cannot be installed: {reason}")
