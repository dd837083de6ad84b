"""The service as in production: the Procfile's processes, and a private Redis."""

import re
from collections.abc import Mapping
from pathlib import Path

import requests

from devstack.ports import HOST, free_port
from devstack.processes import ROOT, Process, Startable, clean_environment
from devstack.redis_server import RedisServer

START_SECONDS = 30.0
STOP_SECONDS = 10.0

DEVELOPMENT_SETTINGS = {
    "TAKEONE_ENV": "development",
    "TAKEONE_AUTH_MODE": "dev",
    "TAKEONE_CALLBACK_SECRET": "development-callback-secret",
}

WORKER_READY = re.compile(r"celery@\S+ ready")


def procfile_command(name: str, root: Path = ROOT) -> str:
    """Return the command that the Procfile of a checkout gives to `name`."""
    for line in (root / "Procfile").read_text().splitlines():
        process, _, command = line.partition(":")
        if process.strip() == name:
            return command.strip()
    raise LookupError(f"the Procfile has no {name}")


def answers(url: str) -> bool:
    """Return whether `url` answers with a 2xx now."""
    with requests.Session() as session:
        session.trust_env = False
        try:
            return session.get(url, timeout=2).ok
        except requests.RequestException:
            return False


class Stack(Startable):
    """Redis, web, worker and optionally Flower processes, started and stopped together.

    `settings` are TAKEONE_ variables that override those of a development stack. A given `redis` must be
    running, and is not stopped; otherwise the stack has its own, whose data survives if `append_only`. Logs and
    data are in `directory`. `root` is the checkout to run; one other than this needs its own `.venv`.
    """

    #: Whether `stop` lets web and worker processes finish their work, as in production.
    drains_on_stop = True

    def __init__(
        self,
        directory: Path,
        *,
        settings: Mapping[str, str] | None = None,
        redis: RedisServer | None = None,
        append_only: bool = False,
        web: int = 1,
        workers: int = 1,
        flower: bool = False,
        preferred_port: int | None = None,
        root: Path = ROOT,
    ) -> None:
        self.root = root
        self.directory = directory.resolve()
        self.redis = redis or RedisServer(self.directory / "redis", append_only=append_only)
        self._own_redis = redis is None
        web_ports = [free_port(preferred_port) for _ in range(web)]
        self.settings = {
            **DEVELOPMENT_SETTINGS,
            "TAKEONE_REDIS_URL": self.redis.url,
            "TAKEONE_PUBLIC_URL": f"http://{HOST}:{web_ports[0]}",
            **(settings or {}),
        }
        self.webs = [self._process("web", f"web{n}", port) for n, port in enumerate(web_ports, 1)]
        self.workers = [self._process("worker", f"worker{n}") for n in range(1, workers + 1)]
        self.flower = self._process("flower", "flower") if flower else None

    def _process(self, kind: str, name: str, port: int | None = None) -> Process:
        port = port or free_port()
        command = procfile_command(kind, self.root).removeprefix("exec ")
        programs = None if self.root == ROOT else self.root / ".venv" / "bin"
        return Process(
            name,
            ["/bin/sh", "-c", f"exec {command}"],
            environment=clean_environment({**self.settings, "PORT": str(port)}, programs),
            log_path=self.directory / "logs" / f"{name}.log",
            port=port,
            directory=self.root,
        )

    @property
    def api_url(self) -> str:
        """The URL of the first web process."""
        return self.webs[0].url

    @property
    def processes(self) -> list[Process]:
        """All processes except Redis."""
        return [*self.webs, *self.workers, *([self.flower] if self.flower else [])]

    def start(self) -> None:
        """Start all processes concurrently; wait until the API answers and each worker is ready."""
        if self._own_redis:
            self.redis.start()
        for process in self.processes:
            process.start()
        for process in [*self.webs, *self.workers]:
            self.wait_for(process)

    def restart(self, process: Process) -> None:
        """Stop one of the stack's processes if it runs, start it, and wait until it is ready."""
        process.terminate(STOP_SECONDS)
        process.start()
        self.wait_for(process)

    def wait_for(self, process: Process) -> None:
        """Wait until a web or worker process that was just started is ready; do not wait for others."""
        if process in self.webs:
            self.wait_for_web(process)
        elif process in self.workers:
            self.wait_for_worker(process)

    @staticmethod
    def wait_for_web(web: Process, limit_seconds: float = START_SECONDS) -> None:
        """Wait until a web process that was just started answers."""
        web.wait_until(lambda: answers(f"{web.url}/healthz"), limit_seconds, "/healthz answers")

    @staticmethod
    def wait_for_worker(worker: Process, limit_seconds: float = START_SECONDS) -> None:
        """Wait until a worker process that was just started consumes tasks."""
        worker.wait_until(lambda: WORKER_READY.search(worker.log()), limit_seconds, "it is ready")

    def stop(self) -> None:
        """Stop everything that is running, Redis last."""
        for process in self.processes:
            if process in self.workers and not self.drains_on_stop:
                process.kill()
            elif process in self.webs and not self.drains_on_stop:
                process.interrupt()  # a kill would leave its metrics files behind
            else:
                process.ask_to_stop()
        for process in self.processes:
            process.end(STOP_SECONDS)
        if self._own_redis:
            self.redis.terminate(STOP_SECONDS)
