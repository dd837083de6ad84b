"""Programs that a test runs to their end, and the addresses on which a running one listens."""

import subprocess
from collections.abc import Mapping

import psutil

from devstack.processes import ROOT, Process, clean_environment

TAKEONE = "python -m cli.main"


def run_program(command: str, settings: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a shell command to its end; raises TimeoutExpired if that takes more than a minute."""
    return subprocess.run(
        ["/bin/sh", "-c", f"exec {command}"],
        cwd=ROOT,
        env=clean_environment(settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )


def takeone(
    arguments: str, settings: Mapping[str, str], program: str = TAKEONE
) -> subprocess.CompletedProcess[str]:
    """Run a command of the service's command line."""
    return run_program(f"{program} {arguments}", settings)


def listening(process: Process) -> set[tuple[str, int]]:
    """The addresses and ports on which a process and its children listen."""
    parent = psutil.Process(process.pid)
    return {
        (connection.laddr.ip, connection.laddr.port)
        for one in [parent, *parent.children(recursive=True)]
        for connection in one.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
