"""Everything that runs: the Procfile's processes as in production, and a proxy between any two."""

import secrets
import sys
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, Self

import jwt

from demo.ports import HOST, free_port
from demo.processes import Process, clean_environment, stop_all
from demo.redis_server import RedisServer
from demo.stack import START_SECONDS, WORKER_READY, answers, procfile_command
from settings import Settings
from tests.chaos.limits import SETTINGS
from tests.chaos.orchestrator import CALM, RECORD
from tests.support.tcp_proxy import TcpProxy

Fsync = Literal["always", "everysec"]

WEBS = 2
WORKERS = 2
_JWT = {"iss": "https://issuer.example", "aud": "takeone"}
STOP_SECONDS = 6.0


class World:
    """Two web, two workers, Redis, the orchestrator, and the links between them.

    `processes` and `links` are by name, which is how the faults know them.
    """

    def __init__(self, directory: Path, seed: int, fsync: Fsync, all_deduplicate: bool) -> None:
        self.directory = directory.resolve()
        self.seed, self.all_deduplicate = seed, all_deduplicate
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
        self.webs = [self._procfile("web", n, port) for n, port in enumerate(web_ports, 1)]
        self.workers = [self._procfile("worker", n) for n in range(1, WORKERS + 1)]
        self.orchestrator = self._orchestrator(orchestrator_port)
        self._running = ExitStack()

    @property
    def processes(self) -> dict[str, Process]:
        """Every process, by name."""
        listed = [self.redis, self.orchestrator, *self.webs, *self.workers]
        return {process.name: process for process in listed}

    @property
    def client_urls(self) -> list[str]:
        """Where clients reach the two web processes."""
        return [self.url("clients->web1"), self.url("clients->web2")]

    @property
    def record_path(self) -> Path:
        """The orchestrator's record."""
        return self.directory / RECORD

    @property
    def settings(self) -> Settings:
        """The service's settings, as its processes read them."""
        names = {name.removeprefix("TAKEONE_").lower(): v for name, v in self._settings("").items()}
        return Settings(**{**names, "redis_url": self.redis.url})  # type: ignore[arg-type]

    def url(self, link: str) -> str:
        """The address that leads through a link."""
        return f"http://{HOST}:{self.links[link].port}"

    def token(self, user: str) -> str:
        """A token of an editor, as the issuer would make it."""
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
            "TAKEONE_ORCHESTRATOR_URL": self.url("worker->orchestrator") + "/dispatches",
            "TAKEONE_ORCHESTRATOR_CANCEL_URL": self.url("worker->orchestrator") + "/cancellations",
            "TAKEONE_ORCHESTRATOR_DEDUPLICATES": str(self.all_deduplicate).lower(),
            "TAKEONE_REDIS_URL": f"redis://{HOST}:{port}/0",
        }

    def _procfile(self, kind: str, number: int, port: int | None = None) -> Process:
        port = port or free_port()
        environment = {**self._settings(f"{kind}->redis"), "PORT": str(port), "HOST": HOST}
        return Process(
            f"{kind}{number}",
            ["/bin/sh", "-c", f"exec {procfile_command(kind).removeprefix('exec ')}"],
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
            "ALL_DEDUPLICATE": str(int(self.all_deduplicate)),
        }
        return Process(
            "orchestrator",
            [sys.executable, "-m", "tests.chaos.orchestrator"],
            environment=clean_environment(environment),
            log_path=self.directory / "logs" / "orchestrator.log",
            port=port,
        )

    def calm_orchestrator(self) -> None:
        """Let the orchestrator behave from now on."""
        (self.directory / CALM).touch()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        for link in self.links.values():
            self._running.enter_context(link)
        for process in self.processes.values():
            process.start()
        for process in (*self.webs, self.orchestrator):
            url = f"{process.url}/healthz"
            process.wait_until(lambda url=url: answers(url), START_SECONDS, "it answers")  # type: ignore[misc]
        for worker in self.workers:
            worker.wait_until(
                lambda worker=worker: WORKER_READY.search(worker.log()),  # type: ignore[misc]
                START_SECONDS,
                "it is ready",
            )

    def __exit__(self, *_: object) -> None:
        stop_all([*self.webs, *self.workers, self.orchestrator], STOP_SECONDS)
        self.redis.terminate(STOP_SECONDS)
        self._running.close()
