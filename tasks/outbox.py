"""How the service hands a dispatch to the workers. The only part of `tasks` that the API imports."""

from collections.abc import Callable
from hashlib import sha256
from random import choice
from threading import BoundedSemaphore
from typing import Any

import tracing
from domain.change import Errand
from domain.dispatch_steps import Token
from settings import Settings
from store.errors import StoreError
from store.jobs import Outbox
from tasks import message
from tasks.broker import is_redis, lanes, queue_keys

_PLACE_SECONDS = 0.5


class QueueUnavailable(StoreError):
    """The broker did not take the message, or did not say so. It may have landed all the same.

    `token` is of the claim that the message was for.
    """

    def __init__(self, token: Token) -> None:
        super().__init__("the broker did not take the message")
        self.token = token


_ONCE_MORE = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}
_TASKS = {
    Errand.DISPATCH: message.DISPATCH_TASK,
    Errand.TELL_CANCELLED: message.TELL_CANCELLED_TASK,
}


class RidingOutbox:
    """The broker is the store's own Redis: the message is pushed in the commit that makes the claim.

    There is then no moment in which one stands without the other.
    """

    def __init__(self, all_lanes: list[str]) -> None:
        self._lanes = all_lanes

    def riding(self, errand: Errand, token: Token, user: str) -> tuple[list[str], bytes]:
        """Two lanes that this user may use (the commit takes the shorter), and the message."""
        mine = user_lanes(user, self._lanes)
        body = message.encode(_TASKS[errand], task_id(errand, token), token, mine[0])
        return queue_keys(mine), body

    def publish(self, errand: Errand, token: Token, user: str) -> None:
        """Never needed: every message rides."""
        raise NotImplementedError


class BrokerOutbox:
    """The broker is another server: the message is sent once the claim stands.

    `places` messages may be on their way at once. Celery would let any number queue up for its
    connections, without a limit of time, behind those that a hung broker holds. `second_try` is for
    a broker whose broken connections are found by using them; should both tries land, the second
    message meets a claim that has moved on.
    """

    def __init__(
        self,
        all_lanes: list[str],
        send_task: Callable[..., Any],
        places: int,
        second_try: bool = False,
    ) -> None:
        self._lanes = all_lanes
        self._send_task = send_task
        self._second_try = second_try
        self._places = BoundedSemaphore(places)

    def riding(self, errand: Errand, token: Token, user: str) -> None:  # noqa: ARG002
        """Nothing rides: the commit cannot reach the broker."""
        return

    def publish(self, errand: Errand, token: Token, user: str) -> None:
        """Send the message. Raises `QueueUnavailable`."""
        if not self._places.acquire(timeout=_PLACE_SECONDS):
            raise QueueUnavailable(token)
        try:
            self._send(errand, token, user)
        finally:
            self._places.release()

    def _send(self, errand: Errand, token: Token, user: str) -> None:
        arguments = (token.job_id, token.dispatch_id, token.epoch)
        try:
            self._send_task(
                _TASKS[errand],
                args=arguments,
                task_id=task_id(errand, token),
                queue=choice(user_lanes(user, self._lanes)),  # noqa: S311 - spreads load
                retry=self._second_try,
                retry_policy=_ONCE_MORE,
                headers=tracing.headers(),
            )
        except Exception as error:  # a dead broker raises far more than kombu's OperationalError
            raise QueueUnavailable(token) from error


def task_id(errand: Errand, token: Token) -> str:
    """The Celery task id: a dispatch's own id, so that operators find it by what callers see."""
    if errand is Errand.DISPATCH:
        return token.dispatch_id
    return f"cancel-{token.job_id}"


def user_lanes(user: str, all_lanes: list[str]) -> list[str]:
    """The user's two lanes, always the same: whoever floods, floods these and no others."""
    if len(all_lanes) == 1:
        return all_lanes
    digest = int.from_bytes(sha256(user.encode()).digest()[:8], "big")
    first = digest % len(all_lanes)
    step = 1 + digest // len(all_lanes) % (len(all_lanes) - 1)
    return [all_lanes[first], all_lanes[(first + step) % len(all_lanes)]]


def make_outbox(settings: Settings) -> Outbox:
    """The outbox that these settings ask for. Connects to nothing."""
    if settings.broker_is_store:
        return RidingOutbox(lanes(settings))
    from tasks.app import app  # Celery is only needed, and only imported, where it sends

    places = app.conf.broker_pool_limit
    return BrokerOutbox(lanes(settings), app.send_task, places, second_try=not is_redis(settings))
