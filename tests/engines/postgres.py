"""A PostgreSQL cluster on a free port, for engines that need more than SQLite."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from devstack.ports import HOST, free_port
from devstack.processes import Process, clean_environment

INIT_SECONDS = 60.0
START_SECONDS = 30.0
_USER = "postgres"
_UNPRIVILEGED = ("nobody", "nogroup")
_OPTIONS = {
    "listen_addresses": HOST,
    # Tests need no durability.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "100",
}


def find_programs() -> Path:
    """The directory of PostgreSQL's programs; skips the test if it is not installed."""
    on_path = shutil.which("initdb")
    found = [Path(on_path).resolve()] if on_path else []
    found += Path("/usr/lib/postgresql").glob("*/bin/initdb")  # Debian's, which are not on PATH
    if not found:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    return found[0].parent


class PostgresServer(Process):
    """A cluster in a temporary directory. Root starts it as another user, as PostgreSQL requires."""

    def __init__(self, log_path: Path) -> None:
        self._programs = find_programs()
        self._home = Path(tempfile.mkdtemp(prefix="takeone-postgres-"))
        port = free_port()
        options = {**_OPTIONS, "port": str(port), "unix_socket_directories": str(self._home)}
        arguments = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        data = str(self._home / "data")
        super().__init__(
            "postgres",
            [*_as_ordinary_user(), str(self._programs / "postgres"), "-D", data, *arguments],
            environment=clean_environment({"LC_ALL": "C.UTF-8"}),
            log_path=log_path,
            port=port,
        )
        if os.geteuid() == 0:
            shutil.chown(self._home, *_UNPRIVILEGED)
        self._once("initdb", "-D", data, "-U", _USER, "--auth=trust", "--no-sync", "-E", "UTF8")

    def address(self, database: str, scheme: str = "postgresql") -> str:
        """The URL of one of its databases."""
        return f"{scheme}://{_USER}@{HOST}:{self.port}/{database}"

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        super().start()
        self.wait_until(self._answers, START_SECONDS, "PostgreSQL accepts connections")

    def create(self, database: str) -> None:
        """Create an empty database."""
        self._once("createdb", *self._where, "-U", _USER, database)

    def terminate(self, limit_seconds: float = 10.0) -> None:
        """Stop it, and remove all its data."""
        self.interrupt()  # on SIGTERM it would wait for its clients
        self.end(limit_seconds)
        shutil.rmtree(self._home, ignore_errors=True)

    @property
    def _where(self) -> tuple[str, ...]:
        return ("-h", HOST, "-p", str(self.port))

    def _answers(self) -> bool:
        command = [str(self._programs / "pg_isready"), "-q", *self._where]
        return subprocess.run(command, check=False, timeout=10).returncode == 0

    def _once(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [*_as_ordinary_user(), str(self._programs / program), *arguments],
            cwd=self._home,
            check=True,
            timeout=INIT_SECONDS,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )


def _as_ordinary_user() -> list[str]:
    if os.geteuid() != 0:
        return []
    user, group = _UNPRIVILEGED
    return ["setpriv", "--reuid", user, "--regid", group, "--clear-groups", "--"]
