"""The measured systems: the service with production settings, and the bare program."""

import sys
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import jwt
import requests

from bench import seeding
from bench.load import http_request
from bench.stub import Stub
from devstack.ports import HOST, free_port
from devstack.processes import Process, Startable, clean_environment, stop_all
from devstack.redis_server import RedisServer
from devstack.stack import Stack

_OWNER = "bench"
_JWT_KEY = "a-shared-key-of-the-bench-with-enough-bytes"
_ISSUER, _AUDIENCE = "https://issuer.bench", "takeone"
_PRODUCTION = {
    "TAKEONE_ENV": "production",
    "TAKEONE_CALLBACK_SECRET": "a-callback-secret-of-the-bench",
    "TAKEONE_LOG_FORMAT": "json",
    "TAKEONE_AUTH_MODE": "jwt",
    "TAKEONE_JWT_KEY": _JWT_KEY,
    "TAKEONE_JWT_ALGORITHMS": "HS256",
    "TAKEONE_JWT_ISSUER": _ISSUER,
    "TAKEONE_JWT_AUDIENCE": _AUDIENCE,
}


def _redis_server(directory: Path, *, append_only: bool) -> RedisServer:
    """A Redis whose append-only file is not rewritten during a measurement."""
    server = RedisServer(directory / "redis", append_only=append_only)
    server.command += ["--auto-aof-rewrite-percentage", "0"]
    server.data_dir.mkdir(parents=True, exist_ok=True)
    return server


class System(Startable):
    """A program that starts jobs. `processes` are its parts; `fresh` are stored jobs that have not run."""

    name: str
    port: int
    redis: RedisServer
    processes: dict[str, list[Process]]

    def __init__(self) -> None:
        self.fresh: deque[str] = deque()

    @abstractmethod
    def seed(self, number: int) -> list[str]:
        """Store jobs whose upload is confirmed, and return their ids."""

    @abstractmethod
    def run(self, job_id: str) -> bytes:
        """The request that runs a job."""


class Service(System):
    """Take One, started from the Procfile."""

    def __init__(
        self,
        name: str,
        directory: Path,
        stub: Stub,
        *,
        append_only: bool = True,
        workers: int = 1,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.redis = _redis_server(directory, append_only=append_only)
        claims = {"sub": _OWNER, "roles": ["editor"], "iss": _ISSUER, "aud": _AUDIENCE}
        self._token = jwt.encode({**claims, "exp": int(time.time()) + 3_600}, _JWT_KEY, "HS256")
        stub_url = {"TAKEONE_ORCHESTRATOR_URL": stub.dispatch_url}
        all_settings = {**_PRODUCTION, **stub_url, **(settings or {})}
        self.stack = Stack(directory, settings=all_settings, redis=self.redis, workers=workers)
        self.port = int(self.stack.webs[0].port or 0)
        self.processes = {
            "API": self.stack.webs,
            "worker": self.stack.workers,
            "Redis": [self.redis],
        }

    def start(self) -> None:
        """Start Redis and the Procfile's processes."""
        self.redis.start()
        self.stack.start()
        self.project_id = seeding.make_project(self.redis.client(), _OWNER)

    def stop(self) -> None:
        """Stop it."""
        self.stack.stop()
        self.redis.terminate()

    def seed(self, number: int) -> list[str]:
        """Store jobs whose upload is confirmed, all in one project."""
        ids = list(seeding.ids(number))
        seeding.store_copies(
            self.redis.port or 0, seeding.uploaded_job(self.project_id, _OWNER), ids
        )
        return ids

    def run(self, job_id: str) -> bytes:
        """`POST /jobs/{id}/run`."""
        return http_request("POST", f"/api/v1/jobs/{job_id}/run", self._token)

    def get(self, path: str) -> bytes:
        """`GET` of a path of the service."""
        return http_request("GET", path, self._token)


class Baseline(System):
    """The program of `bench.baseline`."""

    name = "bare"

    def __init__(self, directory: Path, stub: Stub) -> None:
        super().__init__()
        self.redis = _redis_server(directory, append_only=True)
        self.port = free_port()
        self._environment = {
            "BASELINE_REDIS_URL": self.redis.url,
            "BASELINE_ORCHESTRATOR_URL": stub.dispatch_url,
        }
        web = (
            f"gunicorn --worker-class gthread --threads 160 --keep-alive 75 --bind {HOST}:{self.port}"
            " bench.baseline.app:web"
        )
        worker = (
            "celery --app bench.baseline.app:queue worker --pool threads --concurrency 32"
            " --loglevel WARNING --without-gossip --without-mingle --without-heartbeat"
        )
        self._web = self._process(directory, "web", web)
        self._worker = self._process(directory, "worker", worker)
        self.processes = {"API": [self._web], "worker": [self._worker], "Redis": [self.redis]}

    def _process(self, directory: Path, role: str, command: str) -> Process:
        environment = {**self._environment, "BASELINE_ROLE": role}
        return Process(
            f"bare-{role}",
            [sys.executable, "-m", *command.split()],
            environment=clean_environment(environment),
            log_path=directory / "logs" / f"bare-{role}.log",
            port=self.port,
        )

    def start(self) -> None:
        """Start Redis, gunicorn and a Celery worker; wait until a job has run."""
        self.redis.start()
        self._web.start()
        self._worker.start()
        (job_id,) = self.seed(1)
        self._web.wait_until(lambda: self._runs(job_id), 30, "a job has run")

    def _runs(self, job_id: str) -> bool:
        with suppress(requests.ConnectionError):
            answer = requests.post(f"{self._web.url}/jobs/{job_id}/run", timeout=15)
            return answer.status_code == 202
        return False

    def stop(self) -> None:
        """Stop it."""
        stop_all([self._web, self._worker])
        self.redis.terminate()

    def seed(self, number: int) -> list[str]:
        """Store jobs whose upload is confirmed."""
        ids = list(seeding.ids(number))
        fields = ["status", "UPLOADED", "project_id", "one", "video_uri", seeding.VIDEO_URI]
        template = seeding.command("HSET", f"job:{seeding.PLACEHOLDER}", *fields)
        seeding.store_copies(self.redis.port or 0, template, ids)
        return ids

    def run(self, job_id: str) -> bytes:
        """`POST /jobs/{id}/run`."""
        return http_request("POST", f"/jobs/{job_id}/run")
