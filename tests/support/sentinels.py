"""Redis with a replica, monitored by three sentinels, all on this machine."""

from contextlib import ExitStack
from pathlib import Path

import redis

from devstack.ports import HOST, free_port
from devstack.processes import Process, Startable, clean_environment
from devstack.redis_server import RedisServer, find_redis_server
from devstack.waiting import wait_until

MASTER, USER = "takeone", "service"
QUORUM = 2
DOWN_AFTER_MILLISECONDS = 800
READY_SECONDS = 15.0


class Sentinel(Process):
    """One sentinel: a Redis server in sentinel mode, which rewrites its configuration file."""

    def __init__(self, directory: Path, number: int, master_port: int, password: str) -> None:
        port = free_port()
        self.file = directory / f"sentinel{number}.conf"
        lines = [
            f"port {port}", f"bind {HOST}", f"dir {directory}", f"requirepass {password}",
            f"sentinel monitor {MASTER} {HOST} {master_port} {QUORUM}",
            f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MILLISECONDS}",
            f"sentinel failover-timeout {MASTER} 3000",
        ]  # fmt: skip
        self.file.write_text("\n".join(lines) + "\n")
        super().__init__(
            f"sentinel{number}",
            [find_redis_server(), str(self.file), "--sentinel"],
            environment=clean_environment({}),
            log_path=directory / f"sentinel{number}.log",
            port=port,
        )
        self._password = password

    def master_info(self) -> dict[str, str]:
        """Return what it knows of the master; empty while it does not answer."""
        with redis.Redis(
            host=HOST, port=int(self.port or 0), password=self._password, decode_responses=True,
            socket_timeout=1, protocol=2,
        ) as client:  # fmt: skip
            try:
                return dict(client.sentinel_master(MASTER))
            except redis.RedisError:
                return {}


class SentinelRedis(Startable):
    """Two Redis servers, one the master and one its replica, and their sentinels.

    `password` is required by the sentinels, and is also that of the service's user at both servers.
    """

    def __init__(self, directory: Path, password: str) -> None:
        self.password = password
        self.first = RedisServer(directory / "first", append_only=True)
        self.second = RedisServer(directory / "second", append_only=True)
        self.sentinels = [
            Sentinel(directory, number, int(self.first.port or 0), password) for number in (1, 2, 3)
        ]
        self._running = ExitStack()

    def url(self, *more_nodes: str) -> str:
        """Return the sentinels' URL for the settings; `more_nodes` come first."""
        nodes = [*more_nodes, *(f"{HOST}:{sentinel.port}" for sentinel in self.sentinels)]
        return f"sentinel://{USER}:{self.password}@{','.join(nodes)}/0"

    def start(self) -> None:
        """Start everything; wait until the sentinels know each other and the replica is in sync."""
        self._running.enter_context(self.first)
        self._running.enter_context(self.second)
        with self.second.client() as client:
            client.replicaof(HOST, str(self.first.port))
        for server in (self.first, self.second):
            with server.client() as client:
                rights = ["on", f">{self.password}", "~*", "&*", "+@all"]
                client.execute_command("ACL", "SETUSER", USER, *rights)
        for sentinel in self.sentinels:
            self._running.enter_context(sentinel)
        wait_until(self._is_ready, READY_SECONDS, "sentinels and replica are ready")

    def stop(self) -> None:
        """Stop everything."""
        self._running.close()

    def _is_ready(self) -> bool:
        views = [sentinel.master_info() for sentinel in self.sentinels]
        if any(v.get("num-other-sentinels") != 2 or v.get("num-slaves") != 1 for v in views):
            return False
        with self.second.client() as client:
            return client.info("replication").get("master_link_status") == "up"
