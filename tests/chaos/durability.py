"""Measures what a Redis that dies under load forgets of what was acknowledged.

    python -m tests.chaos.durability --rounds 5

Each round: clients make, confirm and run jobs; Redis is killed with SIGKILL in the middle of it and
started again from its AOF; then every acknowledged answer is looked up, and every job is run once
more. A power cut is simulated by also cutting off the AOF what was written in the last second, which
is what `appendfsync everysec` may not have on the disk yet. With `always` there is nothing to cut: an
answer is sent after the fsync.
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
CASES: tuple[tuple[Fsync, bool], ...] = (
    ("always", False),
    ("everysec", False),
    ("everysec", True),
)


@dataclass
class Acknowledged:
    """What clients were told: jobs that were confirmed, and those of them whose run was accepted."""

    confirmed: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)


class AofWatch:
    """Knows how long the AOF was a while ago."""

    def __init__(self, path: Path) -> None:
        self._path, self._sizes = path, list[tuple[float, int]]()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            self._sizes.append((time.monotonic(), self._path.stat().st_size))

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join()

    def cut_off_since(self, until: float) -> None:
        """Cut off what was written after a moment of `time.monotonic()`."""
        size = max((size for at, size in self._sizes if at <= until), default=0)
        with self._path.open("r+b") as file:
            file.truncate(size)


def aof_of(redis: RedisServer) -> Path:
    """The file that Redis appends to: in a folder of several from Redis 7 on."""
    found = [path for path in redis.data_dir.rglob("appendonly.aof*") if path.is_file()]
    written = [path for path in found if path.suffix == ".aof" and ".base." not in path.name]
    return max(written, key=lambda path: path.stat().st_mtime)


def load(stack: Stack, stop: threading.Event, told: Acknowledged) -> None:
    """One client: makes, confirms and runs jobs until it is stopped."""
    api = ApiClient(stack.api_url, timeout_seconds=5)
    project = None
    while not stop.is_set():
        try:
            project = project or api.create_project().json()["id"]
            job_id = str(api.create_job(project).json()["id"])
            if api.confirm_upload(job_id, "s3://chaos/job.mp4").ok:
                told.confirmed.append(job_id)
                answer = api.run(job_id)
                if answer.ok and answer.json()["status"] == "AUDIO_EXTRACTING":
                    told.accepted.append(job_id)
        except (requests.RequestException, KeyError):
            stop.wait(0.02)


def one_round(directory: Path, fsync: Fsync, power_cut: bool) -> Counter[str]:
    """Load, kill, start again; return what was acknowledged and what is left of it."""
    redis = RedisServer(directory / "redis", append_only=True, appendfsync=fsync)
    told, stop = Acknowledged(), threading.Event()
    with redis, StubOrchestrator() as stub:
        settings = {**SETTINGS, "TAKEONE_ORCHESTRATOR_URL": stub.url}
        with Stack(directory, settings=settings, redis=redis) as stack:
            watch = AofWatch(aof_of(redis))
            threads = [
                threading.Thread(target=load, args=(stack, stop, told), daemon=True)
                for _ in range(CLIENTS)
            ]
            for thread in threads:
                thread.start()
            time.sleep(LOAD_SECONDS)  # the load itself; nothing is waited for
            killed_at = time.monotonic()
            redis.kill()
            watch.stop()
            stop.set()
            for thread in threads:
                thread.join(20)
            if power_cut:
                watch.cut_off_since(killed_at - POWER_CUT_SECONDS)
            redis.start()
            return _count(redis, stack, stub, told)


def _count(
    redis: RedisServer, stack: Stack, stub: StubOrchestrator, told: Acknowledged
) -> Counter[str]:
    counted = Counter({"confirmed": len(told.confirmed), "accepted": len(told.accepted)})
    with redis.client() as client:
        counted["jobs lost"] = sum(not client.exists(keys.job(each)) for each in told.confirmed)
        counted["claims lost"] = sum(not client.exists(keys.claim(each)) for each in told.accepted)
    api = ApiClient(stack.api_url)
    wait_until(lambda: api.call("GET", "/readyz").ok, 10, "the service is ready again")
    for job_id in told.accepted:
        api.run(job_id)
    posts = Counter(request.job_id for request in stub.requests)
    counted["sent twice"] = sum(posts[each] > 1 for each in told.accepted)
    return counted


def main() -> int:
    """Measure every case and print the table."""
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
