"""The message to a worker: Celery's documented protocol 2, in kombu's envelope for Redis.

It is encoded here, not by `apply_async`, because the script that writes the claim pushes it
(spec/decisions/0006). A test compares it with what kombu and Celery write and read. It states its form, as
records do (spec/decisions/0019).
"""

import os
import socket
from typing import Final

import orjson

from domain.claim import FencingToken
from domain.record import TaskKind
from observability import tracing

#: The form of this release's messages. One that states no form has form 0.
FORM: Final = 1
FORM_HEADER: Final = "form"

_EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_ORIGIN = f"takeone@{os.getpid()}@{socket.gethostname()}"


def task_name(task: TaskKind) -> str:
    """The task's name in Celery."""
    return f"takeone.{task}"


def task_id(task: TaskKind, token: FencingToken) -> str:
    """The Celery task id; of a dispatch it is the dispatch id, under which operators look for it."""
    if task is TaskKind.DISPATCH:
        return token.dispatch_id
    prefix = "cancel" if task is TaskKind.TELL_CANCELLED else "ask"
    return f"{prefix}-{token.job_id}"


def encode(task: TaskKind, message_id: str, token: FencingToken, queue: str) -> bytes:
    """The message for a task about a claim. It holds ids only."""
    arguments = [token.job_id, token.dispatch_id, token.epoch]
    envelope = {
        "body": orjson.dumps([arguments, {}, _EMBED]).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": task_name(task),
            "id": message_id,
            "root_id": message_id,
            **dict.fromkeys(("parent_id", "group", "shadow", "eta", "expires")),
            "retries": 0,
            "timelimit": [None, None],
            "argsrepr": str(tuple(arguments)),
            "kwargsrepr": "{}",
            "origin": _ORIGIN,
            "ignore_result": True,
            **own_headers(),
        },
        "properties": {
            "correlation_id": message_id,
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            # It need not be unique, because messages are not acknowledged.
            "delivery_tag": f"{message_id}.{token.epoch}",
        },
    }
    return orjson.dumps(envelope)


def own_headers() -> dict[str, object]:
    """The headers that we add to Celery's: the form and, if tracing is on, the trace."""
    return {FORM_HEADER: FORM, **tracing.headers()}


def is_known(form: object) -> bool:
    """Whether this release can read messages of this form: its own, or the one before."""
    return form in (FORM - 1, FORM)
