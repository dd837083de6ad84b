"""What strangers do to the store and the broker: a later release, and who may write there and should not."""

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
# Workers may be starting, or stand still.
_TRIES, _REPLY_SECONDS = 4, 1.0
# Each as Celery's own remote control sends it.
_COMMANDS = (
    ("rate_limit", {"task_name": "takeone.dispatch", "rate_limit": "1/h"}),
    ("cancel_consumer", {"queue": "takeone.dispatch.0"}),
    ("pool_shrink", {"n": 99}),
)


def put_later_record(world: World) -> None:
    """A job in a form that only a later release knows, which the sweep is to look at."""
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
    """Messages that are none, in every queue."""
    with world.redis.client() as redis:
        for key in queues.queue_keys(queues.queue_names(world.settings)):
            redis.lpush(key, *_MALFORMED)


def command_workers(world: World) -> None:
    """Commands that would end or change every worker. Raises `RuntimeError` if none refused its end."""
    stranger = Celery("stranger", broker=world.redis.url, set_as_current=False)
    stranger.conf.broker_transport_options = {"global_keyprefix": queues.KEY_PREFIX}
    for command, arguments in _COMMANDS:
        stranger.control.broadcast(command, arguments=arguments)
    for _ in range(_TRIES):
        replies = stranger.control.broadcast(
            "shutdown", reply=True, timeout=_REPLY_SECONDS, limit=1
        )
        if any("error" in answer for reply in replies for answer in reply.values()):
            break
    else:
        raise RuntimeError("no worker refused a stranger's shutdown")
    stranger.close()


DEEDS = {
    "store": put_later_record,
    "queues": send_malformed_messages,
    "control": command_workers,
}
