"""The message that a worker gets: Celery's documented protocol 2, in kombu's envelope for Redis.

Written here, and not by `apply_async`, where it is pushed by the very script that makes the claim
(spec/decisions/0006). A test holds it to what kombu and Celery make and read. It states its form, as a record
does (spec/decisions/0019).
"""

import os
import socket
from contextlib import suppress
from typing import Final

import orjson

from domain.claim import FencingToken
from observability import tracing

DISPATCH_TASK = "takeone.dispatch"
TELL_CANCELLED_TASK = "takeone.tell_cancelled"
ASK_TASK = "takeone.ask"

#: The form of what this release sends. A message that states none is of the form before the first, 0.
FORM: Final = 1
FORM_HEADER: Final = "form"

_EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_ORIGIN = f"takeone@{os.getpid()}@{socket.gethostname()}"


def encode(task: str, task_id: str, token: FencingToken, queue: str) -> bytes:
    """The message for one task about one claim. It carries ids and nothing else."""
    arguments = [token.job_id, token.dispatch_id, token.epoch]
    envelope = {
        "body": orjson.dumps([arguments, {}, _EMBED]).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": task,
            "id": task_id,
            "root_id": task_id,
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


def own_headers() -> dict[str, object]:
    """What a message has beyond Celery's headers: its form and, if it is traced, the trace."""
    return {FORM_HEADER: FORM, **tracing.headers()}


def is_known(form: object) -> bool:
    """Whether this release reads messages of that form: its own, and the one before."""
    return form in (FORM - 1, FORM)


def is_later(message: bytes) -> bool:
    """Whether it is a message of ours of a form that only a later release knows."""
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        headers = orjson.loads(message)["headers"]
        form = headers.get(FORM_HEADER)
        return headers["task"].startswith("takeone.") and type(form) is int and form > FORM
    return False
