"""The notifier: one Redis subscription per process wakes the threads that wait for a job to change.

A notification is only a topic: a job's id, or `keys.user_changes` for all jobs of a user (not for new ones).
It can be lost, late or forged, so a waiter that is woken reads the record, and reads it now and then anyway.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import structlog
from redis import Redis
from redis.exceptions import RedisError

from store import keys

log = structlog.get_logger("store")

# How long the connection may be silent before Redis is asked, and then until another one is made.
_SILENT_SECONDS = 2.0
_RECONNECT_SECONDS = 0.2


class Subscription(threading.Event):
    """One waiter: set when its topic may have changed since its last wait."""

    def wait_for_change(self, seconds: float) -> None:
        """Return when the topic may have changed since the last wait, or after `seconds`."""
        self.wait(seconds)
        self.clear()


class Notifier:
    """The subscriptions of a process. It connects at the first one."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._channel = keys.changes_channel(client)
        self._subscriptions: dict[str, set[Subscription]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextmanager
    def subscribe(self, topic: str) -> Iterator[Subscription]:
        """A subscription to the changes of `topic` from now on."""
        subscription = Subscription()
        with self._lock:
            self._subscriptions.setdefault(topic, set()).add(subscription)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)
                self._thread.start()
        try:
            yield subscription
        finally:
            with self._lock:
                others = self._subscriptions[topic]
                others.discard(subscription)
                if not others:
                    del self._subscriptions[topic]

    def _run(self) -> None:
        while True:
            try:
                self._listen()
            except (RedisError, OSError):
                pass  # the store is away: waiters poll the record
            except Exception:
                with suppress(Exception):
                    log.error("notifier.failed", exc_info=True)
            # Notifications published meanwhile are lost.
            self.wake_all()
            time.sleep(_RECONNECT_SECONDS)

    def _listen(self) -> None:
        with self._client.pubsub() as pubsub:
            pubsub.subscribe(self._channel)
            is_asked = False
            while True:
                message = pubsub.get_message(timeout=_SILENT_SECONDS)
                if message is None:
                    # A Redis that hangs or has lost its network does not end its connections.
                    if is_asked:
                        return
                    pubsub.ping()
                elif message["type"] == "message":
                    self._notify(message["data"].decode(errors="replace"))
                elif message["type"] == "subscribe":
                    self.wake_all()  # earlier notifications were missed
                is_asked = message is None

    def _notify(self, topic: str) -> None:
        with self._lock:
            for subscription in self._subscriptions.get(topic, ()):
                subscription.set()

    def wake_all(self) -> None:
        """Let every waiter read again."""
        for topic in list(self._subscriptions):  # it changes meanwhile
            self._notify(topic)
