"""Writes to the store and the broker that are not this release's: by a later release, or by other programs."""

import json
import time
from uuid import uuid4

from celery import Celery

from store import keys
from tasks import queues
from tests.chaos.world import World

_MALFORMED = (
    b"x",
    b"[]",
    b'{"body": 1, "headers": {}, "properties": {}}',
    b'{"body": "", "content-type": "application/json", "headers": {"task": "os.system"}, "properties": {}}',
)
# Workers may be starting or stopped.
_TRIES, _REPLY_SECONDS = 4, 1.0
# Commands of Celery's remote control.
_COMMANDS = (
    ("rate_limit", {"task_name": "takeone.dispatch", "rate_limit": "1/h"}),
    ("cancel_consumer", {"queue": "takeone.dispatch.0"}),
    ("pool_shrink", {"n": 99}),
)


def put_later_record(world: World) -> None:
    """Store a job in a format that only a later release can read, and index it for the sweep."""
    job_id, now = str(uuid4()), time.time()
    later = json.dumps({"form": 99, "id": job_id, "status": "DREAMING", "phase": "DREAMT"})
    with world.redis.client() as redis:
        pipeline = redis.pipeline(transaction=True)
        pipeline.set(keys.job(job_id), later)
        pipeline.set(keys.claim(job_id), later)
        for index in (keys.DUE, keys.IN_FLIGHT, keys.UNKNOWN, keys.SILENT):
            pipeline.zadd(index, {job_id: now})
        pipeline.execute()


def send_malformed_messages(world: World) -> None:
    """Put malformed messages into every queue."""
    with world.redis.client() as redis:
        for key in queues.queue_keys(queues.queue_names(world.settings)):
            redis.lpush(key, *_MALFORMED)


def command_workers(world: World) -> None:
    """Send commands that would stop or change every worker; raise RuntimeError if none refuses to stop."""
    with Celery("intruder", broker=world.redis.url, set_as_current=False) as intruder:
        intruder.conf.broker_transport_options = {"global_keyprefix": queues.KEY_PREFIX}
        for command, arguments in _COMMANDS:
            intruder.control.broadcast(command, arguments=arguments)
        for _ in range(_TRIES):
            replies = intruder.control.broadcast(
                "shutdown", reply=True, timeout=_REPLY_SECONDS, limit=1
            )
            if any("error" in answer for reply in replies for answer in reply.values()):
                return
    raise RuntimeError("no worker refused an intruder's shutdown")


INTRUSIONS = {
    "store": put_later_record,
    "queues": send_malformed_messages,
    "control": command_workers,
}
