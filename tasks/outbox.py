"""How the service hands a dispatch to the workers. The only part of `tasks` that the API imports."""

from collections.abc import Callable
from functools import partial
from hashlib import sha256
from random import choice
from threading import BoundedSemaphore

from domain.claim import FencingToken
from domain.record import TaskKind
from settings import Settings
from store.errors import QueueUnavailable
from store.jobs import Outbox
from tasks import message
from tasks.queues import FOLLOW_UPS, dispatch_queue_names, is_redis, queue_keys

_SLOT_SECONDS = 0.5
_ONE_RETRY = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}


class TransactionalOutbox:
    """For the store's Redis as the broker: one commit writes the claim and pushes the message, or neither."""

    def __init__(self, queues: list[str]) -> None:
        self._queues = queues

    def message(
        self, task: TaskKind, token: FencingToken, user: str, *, past_pause: bool
    ) -> tuple[list[str], bytes]:
        """The user's two queues, of which the commit takes the shorter one, and the message."""
        queues = [FOLLOW_UPS] if past_pause else user_queues(user, self._queues)
        body = message.encode(task, message.task_id(task, token), token, queues[0])
        return queue_keys(queues), body


class BrokerOutbox:
    """For another server as the broker: the message is sent after the commit.

    The number of concurrent sends is limited here. Celery would let any number wait for its connections,
    without a timeout, while a hung broker holds them.
    """

    def __init__(self, settings: Settings) -> None:
        from tasks.app import app  # imports Celery, which only this outbox needs

        self._queues = dispatch_queue_names(settings)
        self._send_task = app.send_task
        self._slots = BoundedSemaphore(app.conf.broker_pool_limit)
        # RabbitMQ's broken connections are only found by using them. If both tries succeed, the second
        # message meets a claim that has moved on.
        self._is_retried = not is_redis(settings)

    def message(
        self, task: TaskKind, token: FencingToken, user: str, *, past_pause: bool
    ) -> Callable[[], None]:
        """What sends the message after the commit."""
        queues = [FOLLOW_UPS] if past_pause else user_queues(user, self._queues)
        return partial(self._publish, task, token, choice(queues))  # noqa: S311 - spreads load

    def _publish(self, task: TaskKind, token: FencingToken, queue: str) -> None:
        if not self._slots.acquire(timeout=_SLOT_SECONDS):
            raise QueueUnavailable(token)
        try:
            self._send_task(
                message.task_name(task),
                args=(token.job_id, token.dispatch_id, token.epoch),
                task_id=message.task_id(task, token),
                queue=queue,
                retry=self._is_retried,
                retry_policy=_ONE_RETRY,
                headers=message.own_headers(),
            )
        except Exception as error:  # a dead broker raises far more than kombu's OperationalError
            raise QueueUnavailable(token) from error
        finally:
            self._slots.release()


def make_outbox(settings: Settings) -> Outbox:
    """The outbox for these settings. Does not connect."""
    if settings.broker_is_store:
        return TransactionalOutbox(dispatch_queue_names(settings))
    return BrokerOutbox(settings)


def user_queues(user: str, queues: list[str]) -> list[str]:
    """The two queues of a user, always the same: all jobs of one user are in these and no others."""
    if len(queues) == 1:
        return queues
    digest = int.from_bytes(sha256(user.encode()).digest()[:8], "big")
    first = digest % len(queues)
    step = 1 + digest // len(queues) % (len(queues) - 1)
    return [queues[first], queues[(first + step) % len(queues)]]
