"""Everything that runs: the Procfile's processes with production settings, and a proxy on each connection."""

import secrets
import shlex
import sys
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Literal

import jwt

from devstack.ports import HOST, free_port
from devstack.processes import Process, Startable, clean_environment, stop_all
from devstack.redis_server import RedisServer
from devstack.stack import Stack, procfile_command
from settings import Settings
from tests.chaos.limits import IDEMPOTENCY_SECONDS, SETTINGS
from tests.chaos.logs_and_clocks import Clock, LogReader, compiled_clock
from tests.chaos.orchestrator import CALM, RECORD, WORKFLOW
from tests.support.tcp_proxy import TcpProxy

Fsync = Literal["always", "everysec"]

WEBS = 2
WORKERS = 2
_JWT = {"iss": "https://issuer.example", "aud": "takeone"}
STOP_SECONDS = 6.0
# The largest constant offset of a clock, in seconds.
CLOCKS_APART = 1.0


class World(Startable):
    """Two web processes, two workers, Redis, the orchestrator, and the proxied links between them.

    `processes`, `links`, `logs` and `clocks` are keyed by the names of the fault schedule.
    """

    def __init__(
        self, directory: Path, seed: int, fsync: Fsync, all_idempotent: bool, engine: str
    ) -> None:
        self.directory = directory.resolve()
        self.seed, self.all_idempotent, self.engine = seed, all_idempotent, engine
        self.redis = RedisServer(self.directory / "redis", append_only=True, appendfsync=fsync)
        self._jwt_key = secrets.token_urlsafe(48)
        self._callback_secret = secrets.token_urlsafe(24)
        web_ports = [free_port() for _ in range(WEBS)]
        orchestrator_port = free_port()
        redis_port = int(self.redis.port or 0)
        self.links = {
            "clients->web1": TcpProxy(web_ports[0]),
            "clients->web2": TcpProxy(web_ports[1]),
            "web->redis": TcpProxy(redis_port),
            "worker->redis": TcpProxy(redis_port),
            "worker->orchestrator": TcpProxy(orchestrator_port),
            "orchestrator->web": TcpProxy(web_ports[0]),
        }
        names = [f"web{n}" for n in range(1, WEBS + 1)]
        names += [f"worker{n}" for n in range(1, WORKERS + 1)]
        logs = self.directory / "logs"
        self.logs = {f"{name}.log": LogReader(logs / f"{name}.log") for name in names}
        rng = Random(f"{seed}:clocks")
        library = compiled_clock(self.directory)
        self.clocks = {
            f"{name}.clock": Clock(
                self.directory / f"{name}.clock", rng.uniform(-CLOCKS_APART, CLOCKS_APART), library
            )
            for name in (*names, "orchestrator")
        }
        self.webs = [self._procfile("web", n, port) for n, port in enumerate(web_ports, 1)]
        self.workers = [self._procfile("worker", n) for n in range(1, WORKERS + 1)]
        self.orchestrator = self._orchestrator(orchestrator_port)
        self._running = ExitStack()

    @property
    def processes(self) -> dict[str, Process]:
        listed = [self.redis, self.orchestrator, *self.webs, *self.workers]
        return {process.name: process for process in listed}

    @property
    def queryable(self) -> bool:
        """Whether the orchestrator can be queried."""
        return self.engine == "restate"

    @property
    def client_urls(self) -> list[str]:
        return [self.url("clients->web1"), self.url("clients->web2")]

    @property
    def record_path(self) -> Path:
        return self.directory / RECORD

    @property
    def settings(self) -> Settings:
        names = {name.removeprefix("TAKEONE_").lower(): v for name, v in self._settings("").items()}
        return Settings(**{**names, "redis_url": self.redis.url})  # type: ignore[arg-type]

    def url(self, link: str) -> str:
        return f"http://{HOST}:{self.links[link].port}"

    def token(self, user: str) -> str:
        """Return a token of an editor, as the issuer would sign it."""
        claims = {
            "sub": user,
            "roles": ["editor"],
            "exp": datetime.now(UTC) + timedelta(days=1),
            **_JWT,
        }
        return jwt.encode(claims, self._jwt_key, algorithm="HS256")

    def _settings(self, redis_link: str) -> dict[str, str]:
        port = self.links[redis_link].port if redis_link else 0
        return {
            **SETTINGS,
            "TAKEONE_ENV": "production",
            "TAKEONE_AUTH_MODE": "jwt",
            "TAKEONE_JWT_KEY": self._jwt_key,
            "TAKEONE_JWT_ALGORITHMS": "HS256",
            "TAKEONE_JWT_ISSUER": _JWT["iss"],
            "TAKEONE_JWT_AUDIENCE": _JWT["aud"],
            "TAKEONE_CALLBACK_SECRET": self._callback_secret,
            "TAKEONE_PUBLIC_URL": self.url("orchestrator->web"),
            **self._engine_settings(),
            "TAKEONE_REDIS_URL": f"redis://{HOST}:{port}/0",
        }

    def _engine_settings(self) -> dict[str, str]:
        url = self.url("worker->orchestrator")
        if self.queryable:
            return {
                "TAKEONE_ORCHESTRATOR_KIND": self.engine,
                "TAKEONE_ORCHESTRATOR_WORKFLOW": WORKFLOW,
                "TAKEONE_ORCHESTRATOR_URL": url,
                "TAKEONE_ORCHESTRATOR_CANCEL_URL": url,
            }
        seconds = IDEMPOTENCY_SECONDS * self.all_idempotent
        return {
            "TAKEONE_ORCHESTRATOR_URL": f"{url}/dispatches",
            "TAKEONE_ORCHESTRATOR_CANCEL_URL": f"{url}/cancellations",
            "TAKEONE_ORCHESTRATOR_IDEMPOTENCY_SECONDS": str(seconds),
        }

    def _procfile(self, kind: str, number: int, port: int | None = None) -> Process:
        port = port or free_port()
        name = f"{kind}{number}"
        environment = {**self._settings(f"{kind}->redis"), "PORT": str(port), "HOST": HOST}
        environment |= self.clocks[f"{name}.clock"].environment
        log = self.logs[f"{name}.log"].fifo
        command = procfile_command(kind).removeprefix("exec ")
        return Process(
            name,
            ["/bin/sh", "-c", f"exec {command} > {shlex.quote(str(log))} 2>&1"],
            environment=clean_environment(environment),
            log_path=self.directory / "logs" / f"{kind}{number}.log",
            port=port,
        )

    def _orchestrator(self, port: int) -> Process:
        environment = {
            "PORT": str(port),
            "SEED": str(self.seed),
            "DIRECTORY": str(self.directory),
            "CALLBACK_SECRET": self._callback_secret,
            "ALL_IDEMPOTENT": str(int(self.all_idempotent)),
            "ENGINE": self.engine,
            **self.clocks["orchestrator.clock"].environment,
        }
        return Process(
            "orchestrator",
            [sys.executable, "-m", "tests.chaos.orchestrator"],
            environment=clean_environment(environment),
            log_path=self.directory / "logs" / "orchestrator.log",
            port=port,
        )

    def calm_orchestrator(self) -> None:
        """Stop the orchestrator's misbehaviour."""
        (self.directory / CALM).touch()

    def start(self) -> None:
        """Start the links, then the processes; wait until they serve."""
        for link in self.links.values():
            self._running.enter_context(link)
        for process in self.processes.values():
            process.start()
        for process in (*self.webs, self.orchestrator):
            Stack.wait_for_web(process)
        for worker in self.workers:
            Stack.wait_for_worker(worker)

    def stop(self) -> None:
        """Stop everything, Redis and the links last."""
        stop_all([*self.webs, *self.workers, self.orchestrator], STOP_SECONDS)
        self.redis.terminate(STOP_SECONDS)
        self._running.close()
        for log in self.logs.values():
            log.stop()
