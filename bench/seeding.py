"""Jobs stored directly in Redis: creating them over HTTP is not measured.

One job is encoded as the store does it, under a placeholder id; every other job is a copy of those bytes
under its own id. A million jobs take seconds.
"""

import socket
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from uuid import uuid4

import redis

from devstack.ports import HOST
from domain.claim import DispatchPolicy
from domain.job import Job, Project
from domain.lifecycle import confirm_upload, create_job
from domain.record import Change
from store import codec, keys, lists

PLACEHOLDER = "00000000-0000-4000-8000-000000000000"
VIDEO_URI = "s3://studio/interviews/2026/interview-with-a-farmer.mp4"
# Confirming an upload needs no property of the orchestrator, and no lease.
_POLICY = DispatchPolicy(timedelta(0), timedelta(0), unknown_hold=None)

_BATCH = 1_000
_next_number = count(1)


class SeedingFailedError(Exception):
    """Redis did not accept a command."""


def ids(number: int) -> Iterator[str]:
    """Ids of the service's form, unique within this process."""
    return (f"5eed0000-0000-4000-8000-{index:012x}" for index in islice(_next_number, number))


def make_project(client: redis.Redis, owner: str) -> str:
    """Store a project, as `ProjectStore.create` does, and return its id."""
    project = Project(id=str(uuid4()), name="Bench", owner=owner, created_at=datetime.now(UTC))
    client.set(keys.project(project.id), codec.dump(project))
    for name, place in lists.lists_of_project(project).items():
        client.zadd(name, {place: 0})
    return project.id


def uploaded_job(project_id: str, owner: str) -> bytes:
    """The commands that store a job whose upload is confirmed, under the placeholder id."""
    now = datetime.now(UTC)
    created = create_job(PLACEHOLDER, project_id, owner, now, str(uuid4()))
    change = Change(created.record, now, _POLICY, str(uuid4()))
    confirmed = confirm_upload(change, VIDEO_URI)
    lines = [codec.dump_event(event) for event in (*created.events, *confirmed.events)]
    return (
        command("SET", keys.job(PLACEHOLDER), codec.dump(confirmed.record.job))
        + command("RPUSH", keys.trail(PLACEHOLDER), *lines)
        + _list(confirmed.record.job)
    )


def _list(job: Job) -> bytes:
    return b"".join(
        command("ZADD", name, "0", place) for name, place in lists.lists_of_job(job).items()
    )


def copy_of_job(port: int, job_id: str) -> bytes:
    """The commands that store a copy of a job as it is now, under the placeholder id."""
    with redis.Redis(HOST, port) as client:
        job, claim = client.mget(keys.job(job_id), keys.claim(job_id))
        lines = client.lrange(keys.trail(job_id), 0, -1)
        seen = client.hgetall(keys.callbacks(job_id))
    commands = command("SET", keys.job(job_id), job) + command("SET", keys.claim(job_id), claim)
    commands += command("RPUSH", keys.trail(job_id), *lines)
    for event_id, digest in seen.items():
        commands += command("HSET", keys.callbacks(job_id), event_id, digest)
    commands += _list(codec.load_record(job_id, job, claim).job)
    return commands.replace(job_id.encode(), PLACEHOLDER.encode())


def command(*words: str | bytes) -> bytes:
    """One command in Redis' own protocol."""
    encoded = [word.encode() if isinstance(word, str) else word for word in words]
    parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded]
    return b"*%d\r\n" % len(parts) + b"".join(parts)


def store_copies(port: int, template: bytes, job_ids: Iterable[str]) -> None:
    """Send a copy of `template` for each id. Raises `SeedingFailedError`."""
    placeholder, replies = PLACEHOLDER.encode(), template.count(b"\r\n*") + 1
    with socket.create_connection((HOST, port), timeout=30) as sock:
        rest = iter(job_ids)
        while batch := list(islice(rest, _BATCH)):
            copies = (template.replace(placeholder, job_id.encode()) for job_id in batch)
            sock.sendall(b"".join(copies))
            _await_replies(sock, replies * len(batch))


def _await_replies(sock: socket.socket, missing: int) -> None:
    while missing > 0:
        data = sock.recv(1 << 20)
        if not data or data.startswith(b"-") or b"\n-" in data:
            raise SeedingFailedError(data[:200].decode(errors="replace") or "connection closed")
        missing -= data.count(b"\n")
