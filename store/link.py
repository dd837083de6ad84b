"""The one way to Redis: a bounded set of kept-alive connections, and one round trip a call."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path
from queue import Empty, LifoQueue
from typing import Any

from hiredis import pack_command
from redis.exceptions import NoScriptError, RedisError, ResponseError

from store.connecting import Command, Connection
from store.errors import StoreUnavailable

# Error replies of a Redis that is up but cannot serve as our primary right now.
_NOT_SERVING = (
    "LOADING", "READONLY", "MASTERDOWN", "MISCONF", "OOM", "BUSY", "CLUSTERDOWN", "NOREPLICAS",
    "UNBLOCKED", "TRYAGAIN", "NOAUTH", "WRONGPASS",
)  # fmt: skip
_IDLE_CHECK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, sent by its SHA1 and loaded only where the server does not know it yet."""

    source: str
    sha: str

    @classmethod
    def load(cls, path: Path) -> "Script":
        """Read the script that lies at `path`."""
        source = path.read_text()
        return cls(source, sha1(source.encode(), usedforsecurity=False).hexdigest())

    def command(self, keys: Sequence[str], args: Sequence[Any]) -> Command:
        """The command that runs it."""
        return ("EVALSHA", self.sha, len(keys), *keys, *args)


@dataclass(slots=True)
class _Slot:
    connection: Connection
    used_at: float


class Link:
    """A bounded set of connections, shared by the threads of a process.

    A caller waits at most `timeout_seconds` for a free connection, and as long again for each reply.
    """

    def __init__(
        self, make_connection: Callable[[], Connection], size: int, timeout_seconds: float
    ) -> None:
        self._make_connection = make_connection
        self._timeout = timeout_seconds
        self._free: LifoQueue[_Slot | None] = LifoQueue()
        for _ in range(size):
            self._free.put(None)

    def call(self, *commands: Command) -> list[Any]:
        """Send the commands in one round trip and return their replies, in order.

        The commands are not a transaction. Raises `StoreUnavailable`; any of the commands may then
        have been carried out.
        """
        return [_checked(reply) for reply in self._replies(commands)]

    def _replies(self, commands: Sequence[Command]) -> list[Any]:
        slot = self._take()
        try:
            replies = self._exchange(slot.connection, commands)
        except (RedisError, OSError) as error:
            self._drop(slot)
            raise StoreUnavailable(type(error).__name__) from error
        except BaseException:
            # An exception between the request and its reply: the next user would read this one's.
            self._drop(slot)
            raise
        slot.used_at = time.monotonic()
        self._free.put(slot)
        return replies

    def run(
        self, script: Script, keys: Sequence[str], args: Sequence[Any], *before: Command
    ) -> Any:
        """Run `before` and then the script, in one round trip, and return what the script returned.

        Raises `StoreUnavailable`. A script of `before` that the server does not know is passed over.
        """
        command = script.command(keys, args)
        *others, reply = self._replies((*before, command))
        for other in others:
            if not isinstance(other, NoScriptError):
                _checked(other)
        if isinstance(reply, NoScriptError):
            reply = self._replies((("SCRIPT", "LOAD", script.source), command))[-1]
        return _checked(reply)

    def close(self) -> None:
        """Close the connections that are not in use."""
        with suppress(Empty):
            while True:
                slot = self._free.get_nowait()
                if slot is not None:
                    slot.connection.disconnect()

    def _take(self) -> _Slot:
        try:
            slot = self._free.get(timeout=self._timeout)
        except Empty:
            raise StoreUnavailable("no free connection") from None
        if slot is not None and not _went_stale(slot):
            return slot
        try:
            connection = self._make_connection()
            connection.connect()
        except (RedisError, OSError) as error:
            self._free.put(None)
            raise StoreUnavailable(type(error).__name__) from error
        return _Slot(connection, time.monotonic())

    def _drop(self, slot: _Slot) -> None:
        with suppress(RedisError, OSError):
            slot.connection.disconnect()
        self._free.put(None)

    @staticmethod
    def _exchange(connection: Connection, commands: Sequence[Command]) -> list[Any]:
        packed = b"".join([pack_command(tuple(command)) for command in commands])
        connection.send_packed_command([packed], False)
        return [_read(connection) for _ in commands]


def _read(connection: Connection) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


def _checked(reply: Any) -> Any:
    if not isinstance(reply, ResponseError):
        return reply
    if isinstance(reply, NoScriptError):
        raise reply
    if str(reply).startswith(_NOT_SERVING) or type(reply).__name__ in _NOT_SERVING_TYPES:
        raise StoreUnavailable(type(reply).__name__) from reply
    raise reply


# redis-py strips the prefix of these replies and says it by the class.
_NOT_SERVING_TYPES = frozenset(
    {"ReadOnlyError", "BusyLoadingError", "OutOfMemoryError", "MasterDownError", "ClusterDownError",
     "NoPermissionError", "AuthenticationError", "AuthenticationWrongNumberOfArgsError"}
)  # fmt: skip


def _went_stale(slot: _Slot) -> bool:
    # A connection that has lain idle may have been closed by a Redis that was restarted. One in steady
    # use is not asked: the check costs a system call, and the next command would tell.
    if time.monotonic() - slot.used_at < _IDLE_CHECK_SECONDS:
        return False
    try:
        if not slot.connection.can_read():
            return False
    except (RedisError, OSError):
        pass
    with suppress(RedisError, OSError):
        slot.connection.disconnect()
    return True
