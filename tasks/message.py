"""The message that a worker gets: Celery's documented protocol 2, in kombu's envelope for Redis.

Written here, and not by `apply_async`, where it is pushed by the very script that makes the claim
(spec/decisions/0006). A test holds it to what kombu and Celery make and read.
"""

import os
import socket
from dataclasses import dataclass

import orjson

import tracing
from domain.dispatch_steps import Token

DISPATCH_TASK = "takeone.dispatch"
TELL_CANCELLED_TASK = "takeone.tell_cancelled"

_EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_ORIGIN = f"takeone@{os.getpid()}@{socket.gethostname()}"


@dataclass(frozen=True, slots=True)
class Received:
    """A message of ours as a worker reads it; `traceparent` is there if it was traced."""

    task: str
    task_id: str
    token: Token
    shown_arguments: str
    traceparent: str | None


def decode(message: bytes) -> Received | None:
    """Read a message that `encode` wrote; None if it is anything else."""
    try:
        whole = orjson.loads(message)
        headers = whole["headers"]
        (job_id, dispatch_id, epoch), _, _ = orjson.loads(whole["body"])
        return Received(
            headers["task"],
            headers["id"],
            Token(job_id, dispatch_id, epoch),
            headers["argsrepr"],
            headers.get(tracing.TRACEPARENT),
        )
    except (ValueError, TypeError, KeyError):
        return None


def encode(task: str, task_id: str, token: Token, queue: str) -> bytes:
    """The message for one task about one claim. It carries ids and nothing else."""
    arguments = [token.job_id, token.dispatch_id, token.epoch]
    envelope = {
        "body": orjson.dumps([arguments, {}, _EMBED]).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": _headers(task, task_id, str(tuple(arguments))),
        "properties": {
            "correlation_id": task_id,
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            # Only has to be unique where messages are acknowledged, which is not here.
            "delivery_tag": f"{task_id}.{token.epoch}",
        },
    }
    return orjson.dumps(envelope)


def _headers(task: str, task_id: str, shown_arguments: str) -> dict[str, object]:
    return {
        "lang": "py",
        "task": task,
        "id": task_id,
        "root_id": task_id,
        "parent_id": None,
        "group": None,
        "shadow": None,
        "eta": None,
        "expires": None,
        "retries": 0,
        "timelimit": [None, None],
        "argsrepr": shown_arguments,
        "kwargsrepr": "{}",
        "origin": _ORIGIN,
        "ignore_result": True,
        **tracing.headers(),
    }
