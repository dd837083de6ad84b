"""How the service hands a dispatch to the workers. The only part of `tasks` that the API imports."""

from collections.abc import Callable
from hashlib import sha256
from random import choice
from threading import BoundedSemaphore
from typing import Any

from domain.claim import FencingToken
from domain.record import TaskKind
from settings import Settings
from store.errors import QueueUnavailable
from store.jobs import Outbox
from tasks import message
from tasks.queues import FOLLOW_UPS, dispatch_queue_names, is_redis, queue_keys

_SLOT_SECONDS = 0.5
_ONCE_MORE = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}
_TASKS = {
    TaskKind.DISPATCH: message.DISPATCH_TASK,
    TaskKind.TELL_CANCELLED: message.TELL_CANCELLED_TASK,
    TaskKind.ASK: message.ASK_TASK,
}


class TransactionalOutbox:
    """The broker is the store's own Redis: the message is pushed in the commit that makes the claim.

    There is then no moment in which one stands without the other.
    """

    def __init__(self, queues: list[str]) -> None:
        self._queues = queues

    def message(
        self, task: TaskKind, token: FencingToken, user: str, *, past_pause: bool
    ) -> tuple[list[str], bytes]:
        """Two queues that this user may use (the commit takes the shorter), and the message."""
        mine = [FOLLOW_UPS] if past_pause else user_queues(user, self._queues)
        body = message.encode(_TASKS[task], task_id(task, token), token, mine[0])
        return queue_keys(mine), body

    def publish(self, task: TaskKind, token: FencingToken, user: str, *, past_pause: bool) -> None:
        """Never needed: every message rides."""
        raise NotImplementedError


class BrokerOutbox:
    """The broker is another server: the message is sent once the claim stands.

    `publish_slots` messages may be on their way at once. Celery would let any number queue up for its
    connections, without a limit of time, behind those that a hung broker holds. `second_try` is for
    a broker whose broken connections are found by using them; should both tries land, the second
    message meets a claim that has moved on.
    """

    def __init__(
        self,
        queues: list[str],
        send_task: Callable[..., Any],
        publish_slots: int,
        second_try: bool = False,
    ) -> None:
        self._queues, self._send_task, self._second_try = queues, send_task, second_try
        self._slots = BoundedSemaphore(publish_slots)

    def message(self, *_: Any, **__: Any) -> None:
        """Nothing rides: the commit cannot reach the broker."""

    def publish(self, task: TaskKind, token: FencingToken, user: str, *, past_pause: bool) -> None:
        """Send the message. Raises `QueueUnavailable`."""
        queues = [FOLLOW_UPS] if past_pause else user_queues(user, self._queues)
        if not self._slots.acquire(timeout=_SLOT_SECONDS):
            raise QueueUnavailable(token)
        try:
            self._send_task(
                _TASKS[task],
                args=(token.job_id, token.dispatch_id, token.epoch),
                task_id=task_id(task, token),
                queue=choice(queues),  # noqa: S311 - spreads load
                retry=self._second_try,
                retry_policy=_ONCE_MORE,
                headers=message.own_headers(),
            )
        except Exception as error:  # a dead broker raises far more than kombu's OperationalError
            raise QueueUnavailable(token) from error
        finally:
            self._slots.release()


def task_id(task: TaskKind, token: FencingToken) -> str:
    """The Celery task id: a dispatch's own id, so that operators find it by what callers see."""
    if task is TaskKind.DISPATCH:
        return token.dispatch_id
    prefix = "cancel" if task is TaskKind.TELL_CANCELLED else "ask"
    return f"{prefix}-{token.job_id}"


def user_queues(user: str, queues: list[str]) -> list[str]:
    """The user's two queues, always the same: many jobs of one user fill these and no others."""
    if len(queues) == 1:
        return queues
    digest = int.from_bytes(sha256(user.encode()).digest()[:8], "big")
    first = digest % len(queues)
    step = 1 + digest // len(queues) % (len(queues) - 1)
    return [queues[first], queues[(first + step) % len(queues)]]


def make_outbox(settings: Settings) -> Outbox:
    """The outbox that these settings ask for. Connects to nothing."""
    if settings.broker_is_store:
        return TransactionalOutbox(dispatch_queue_names(settings))
    from tasks.app import app  # Celery is only needed, and only imported, where it sends

    slots = app.conf.broker_pool_limit
    return BrokerOutbox(
        dispatch_queue_names(settings), app.send_task, slots, second_try=not is_redis(settings)
    )
