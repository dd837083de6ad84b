"""Installs engines into environments of their own under `.engines/`, once."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from devstack.processes import ROOT

ENGINES = ROOT / ".engines"
INSTALL_SECONDS = 300.0


def python_environment(engine: str, *requirements: str, constraints: Path | None = None) -> Path:
    """The `bin` directory of a virtual environment with pinned `requirements`.

    Skips the test if they cannot be installed.
    """
    home = ENGINES / engine
    python = home / "bin" / "python"
    pinned = list(requirements)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--timeout", "20", "--retries", "2"]
    if constraints is not None:
        pip += ["--constraint", str(constraints)]
        pinned.append(constraints.read_text())
    _install(home, pinned, [[sys.executable, "-m", "venv", str(home)], [*pip, *requirements]])
    return python.parent


def example_environment(engine: str, example: Path, *more: str) -> Path:
    """The same for an example's `requirements.txt` and `more`, at the engine's pinned constraints."""
    lines = (example / "requirements.txt").read_text().splitlines()
    constraints = Path(__file__).parent / "constraints" / f"{engine}.txt"
    return python_environment(engine, *more, *filter(None, lines), constraints=constraints)


def node_environment(engine: str, *packages: str) -> Path:
    """The directory of the programs of pinned npm `packages`; skips the test if they cannot be installed."""
    if shutil.which("npm") is None:
        pytest.skip(f"{engine}: npm is not installed")
    home = ENGINES / engine
    quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    _install(home, packages, [["npm", "install", *quiet, "--prefix", str(home), *packages]])
    return home / "node_modules" / ".bin"


def _install(home: Path, selection: Sequence[str], commands: Sequence[Sequence[str]]) -> None:
    """Run the commands unless `home` has exactly this selection."""
    mark, wanted = home / "installed.txt", "\n".join(selection)
    with _lock(home):
        if mark.exists() and mark.read_text() == wanted:
            return
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        for command in commands:
            _run(home.name, command)
        mark.write_text(wanted)


def _run(engine: str, command: Sequence[str]) -> None:
    log = ENGINES / f"{engine}.log"
    with log.open("w") as output:
        try:
            subprocess.run(
                command,
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=INSTALL_SECONDS,
                env={**os.environ, "PYTHONNOUSERSITE": "1"},
            )
        except (OSError, subprocess.SubprocessError) as error:
            end = " ".join(log.read_text(errors="replace").split()[-30:])
            pytest.skip(f"{engine} could not be installed: {type(error).__name__}: {end}")


@contextmanager
def _lock(home: Path) -> Iterator[None]:
    """Make parallel test runs install one after the other."""
    ENGINES.mkdir(exist_ok=True)
    with (ENGINES / f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
