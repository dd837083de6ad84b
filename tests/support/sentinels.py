"""Redis with a replica and three sentinels that watch over both, all on this machine."""

from contextlib import ExitStack
from pathlib import Path
from typing import Self

import redis

from devstack.ports import HOST, free_port
from devstack.processes import Process, clean_environment
from devstack.redis_server import RedisServer, find_redis_server
from devstack.waiting import wait_until

MASTER, USER = "takeone", "service"
QUORUM = 2
DOWN_AFTER_MILLISECONDS = 800
READY_SECONDS = 15.0


class Sentinel(Process):
    """One sentinel: the same program, with a file that it may rewrite."""

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

    def sees(self) -> dict[str, str]:
        """What it knows of the master; nothing while it does not answer."""
        with redis.Redis(
            host=HOST, port=int(self.port or 0), password=self._password, decode_responses=True,
            socket_timeout=1, protocol=2,
        ) as client:  # fmt: skip
            try:
                return dict(client.sentinel_master(MASTER))
            except redis.RedisError:
                return {}


class SentinelRedis:
    """A master, its replica and their sentinels; which of the two is the master may change.

    The sentinels ask for `password`, and the service's user at the two Redis has it as well.
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
        """The address of the sentinels as the settings want it; `more_nodes` come first."""
        nodes = [*more_nodes, *(f"{HOST}:{each.port}" for each in self.sentinels)]
        return f"sentinel://{USER}:{self.password}@{','.join(nodes)}/0"

    def __enter__(self) -> Self:
        self._running.enter_context(self.first)
        self._running.enter_context(self.second)
        with self.second.client() as client:
            client.replicaof(HOST, str(self.first.port))
        for server in (self.first, self.second):
            with server.client() as client:
                rights = ["on", f">{self.password}", "~*", "&*", "+@all"]
                client.execute_command("ACL", "SETUSER", USER, *rights)
        for sentinel in self.sentinels:
            sentinel.start()
            self._running.callback(sentinel.terminate)
        wait_until(self._all_know_each_other, READY_SECONDS, "the sentinels know all")
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def _all_know_each_other(self) -> bool:
        views = [sentinel.sees() for sentinel in self.sentinels]
        return (
            all(
                view.get("num-other-sentinels") == 2 and view.get("num-slaves") == 1
                for view in views
            )
            and self._replica_is_in_step()
        )

    def _replica_is_in_step(self) -> bool:
        with self.second.client() as client:
            return client.info("replication").get("master_link_status") == "up"
