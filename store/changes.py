"""The feed of changes: one subscription a process wakes every thread that waits for a job.

A hint is published by the commit itself and carries what was committed, so it is as true as a read. But
it can be lost: who waits reads the record now and then anyway.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue

from redis.exceptions import RedisError

from store import keys
from store.connecting import Connection
from store.snapshot import Snapshot

_READ_SECONDS = 1.0
_RECONNECT_SECONDS = 0.2


def hint(snapshot: Snapshot) -> bytes:
    """What is published of a change. Neither part has a line feed in it: both are compact JSON."""
    return b"\n".join((snapshot.record.job.id.encode(), snapshot.job, snapshot.claim))


class Watch:
    """One waiter's place. The feed leaves the latest hint here; the waiter takes it."""

    def __init__(self) -> None:
        self._hints: SimpleQueue[bytes | None] = SimpleQueue()

    def leave(self, hinted: bytes | None) -> None:
        """Wake the waiter; without a hint he has to read for himself."""
        self._hints.put(hinted)

    def wait(self, seconds: float) -> Snapshot | None:
        """Wait for a change; return the record as it then stood, None if that has to be read."""
        hinted = None
        with suppress(Empty):
            hinted = self._hints.get(timeout=seconds)
            while True:  # only the latest counts
                hinted = self._hints.get_nowait()
        if hinted is None:
            return None
        _, job, claim = hinted.split(b"\n")
        return Snapshot.of(job, claim)


class ChangeFeed:
    """Waiting places for changes of jobs. The subscription starts with the first waiter."""

    def __init__(self, make_connection: Callable[[], Connection]) -> None:
        self._make_connection = make_connection
        self._watches: dict[str, set[Watch]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    @contextmanager
    def watching(self, job_id: str) -> Iterator[Watch]:
        """A place where the job's changes from now on are left."""
        watch = Watch()
        with self._lock:
            self._watches.setdefault(job_id, set()).add(watch)
            self._ensure_started()
        try:
            yield watch
        finally:
            with self._lock:
                watches = self._watches[job_id]
                watches.discard(watch)
                if not watches:
                    del self._watches[job_id]

    def close(self) -> None:
        """End the subscription."""
        self._closed.set()

    def _ensure_started(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._listen, name="changes", daemon=True)
            self._thread.start()

    def _listen(self) -> None:
        while not self._closed.is_set():
            with suppress(RedisError, OSError):
                self._read(self._make_connection())
            # What was published meanwhile is lost to us: let everybody read for himself.
            self._wake_all()
            self._closed.wait(_RECONNECT_SECONDS)

    def _read(self, connection: Connection) -> None:
        connection.connect()
        try:
            subscribe = connection.pack_command("SUBSCRIBE", keys.CHANGES_CHANNEL)
            connection.send_packed_command(subscribe, False)
            while not self._closed.is_set():
                if connection.can_read(timeout=_READ_SECONDS):
                    kind, _, hinted = connection.read_response()
                    if kind == b"message":
                        self._wake(hinted)
                    else:
                        self._wake_all()  # subscribed: what came before this moment was missed
        finally:
            with suppress(RedisError, OSError):
                connection.disconnect()

    def _wake(self, hinted: bytes) -> None:
        job_id = hinted[: hinted.index(b"\n")].decode()
        if job_id not in self._watches:
            return
        with self._lock:
            for watch in self._watches.get(job_id, ()):
                watch.leave(hinted)

    def _wake_all(self) -> None:
        with self._lock:
            for watches in self._watches.values():
                for watch in watches:
                    watch.leave(None)
