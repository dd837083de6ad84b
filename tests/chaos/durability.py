"""Measure which acknowledged writes are lost when Redis dies under load.

    python -m tests.chaos.durability --rounds 5

Each round: clients create, confirm and run jobs; Redis is killed with SIGKILL meanwhile and restarted from
its AOF; then every acknowledged job is looked up and run once more. A power cut is simulated by truncating
the last second of the AOF, which `appendfsync everysec` may not have flushed. With `always` there is nothing
to truncate: an answer is sent after the fsync.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import requests
from rich.console import Console
from rich.table import Table

from devstack.local_stack import treat_sigterm_as_ctrl_c
from devstack.redis_server import RedisServer
from devstack.stack import Stack
from devstack.waiting import wait_until
from store import keys
from tests.chaos.limits import SETTINGS
from tests.support.client import ApiClient
from tests.support.orchestrator import StubOrchestrator

CLIENTS = 8
LOAD_SECONDS = 3.0
POWER_CUT_SECONDS = 1.0
Fsync = Literal["always", "everysec"]
CASES: tuple[tuple[Fsync, bool], ...] = (("always", False), ("everysec", False), ("everysec", True))


@dataclass
class Acknowledged:
    """The jobs whose upload was acknowledged, and those of them whose run was accepted."""

    confirmed: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)


class AofSizes:
    """Samples the size of the AOF, so that it can be truncated to an earlier one."""

    def __init__(self, path: Path) -> None:
        self._path, self._sizes = path, list[tuple[float, int]]()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            self._sizes.append((time.monotonic(), self._path.stat().st_size))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def truncate_to(self, until: float) -> None:
        """Remove what was written after `until`, a time of `time.monotonic()`."""
        size = max((size for at, size in self._sizes if at <= until), default=0)
        with self._path.open("r+b") as file:
            file.truncate(size)


def aof_of(redis: RedisServer) -> Path:
    """Return the file that Redis appends to; from Redis 7 on it is one of several in a folder."""
    found = [path for path in redis.data_dir.rglob("appendonly.aof*") if path.is_file()]
    written = [path for path in found if path.suffix == ".aof" and ".base." not in path.name]
    return max(written, key=lambda path: path.stat().st_mtime)


def load(stack: Stack, stop: threading.Event, acknowledged: Acknowledged) -> None:
    """Create, confirm and run jobs as one client, until stopped."""
    api = ApiClient(stack.api_url, timeout_seconds=5)
    project = None
    while not stop.is_set():
        try:
            project = project or api.create_project().json()["id"]
            job_id = str(api.create_job(project).json()["id"])
            if api.confirm_upload(job_id, "s3://chaos/job.mp4").ok:
                acknowledged.confirmed.append(job_id)
                answer = api.run(job_id)
                if answer.ok and answer.json()["status"] == "AUDIO_EXTRACTING":
                    acknowledged.accepted.append(job_id)
        except (requests.RequestException, KeyError):
            stop.wait(0.02)


def one_round(directory: Path, fsync: Fsync, power_cut: bool) -> Counter[str]:
    """Run one round; return how much was acknowledged and how much of it was lost."""
    redis = RedisServer(directory / "redis", append_only=True, appendfsync=fsync)
    acknowledged, stop = Acknowledged(), threading.Event()
    with redis, StubOrchestrator() as stub:
        settings = {**SETTINGS, "TAKEONE_ORCHESTRATOR_URL": stub.url}
        with Stack(directory, settings=settings, redis=redis) as stack:
            aof = AofSizes(aof_of(redis))
            threads = [
                threading.Thread(target=load, args=(stack, stop, acknowledged), daemon=True)
                for _ in range(CLIENTS)
            ]
            for thread in threads:
                thread.start()
            time.sleep(LOAD_SECONDS)
            killed_at = time.monotonic()
            redis.kill()
            aof.stop()
            stop.set()
            for thread in threads:
                thread.join(20)
            if power_cut:
                aof.truncate_to(killed_at - POWER_CUT_SECONDS)
            redis.start()
            return _count(redis, stack, stub, acknowledged)


def _count(
    redis: RedisServer, stack: Stack, stub: StubOrchestrator, acknowledged: Acknowledged
) -> Counter[str]:
    confirmed, accepted = acknowledged.confirmed, acknowledged.accepted
    counted = Counter({"confirmed": len(confirmed), "accepted": len(accepted)})
    with redis.client() as client:
        counted["jobs lost"] = sum(not client.exists(keys.job(job_id)) for job_id in confirmed)
        counted["claims lost"] = sum(not client.exists(keys.claim(job_id)) for job_id in accepted)
    api = ApiClient(stack.api_url)
    wait_until(lambda: api.call("GET", "/readyz").ok, 10, "the service is ready again")
    for job_id in accepted:
        api.run(job_id)
    posts = Counter(request.job_id for request in stub.requests)
    counted["sent twice"] = sum(posts[job_id] > 1 for job_id in accepted)
    return counted


def main() -> int:
    treat_sigterm_as_ctrl_c()
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.durability")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    columns = ["confirmed", "accepted", "jobs lost", "claims lost", "sent twice"]
    table = Table("appendfsync", "what happened", "rounds", *columns)
    for fsync, power_cut in CASES:
        total: Counter[str] = Counter()
        for _ in range(rounds):
            with tempfile.TemporaryDirectory(prefix="takeone-durability-") as directory:
                total += one_round(Path(directory), fsync, power_cut)
        event = "kill -9, and the last second cut off" if power_cut else "kill -9"
        table.add_row(fsync, event, str(rounds), *(str(total[name]) for name in columns))
    Console(width=120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
