"""The pause of dispatching in the whole fleet."""

from datetime import UTC, datetime

from redis import Redis
from redis.client import Pipeline

from domain.pause import Pause
from store import keys
from store.client import redis_errors


class PauseStore:
    """Begins, ends and reads the pause. Every method raises `StoreUnavailable`.

    The pause's key exists exactly while it is on: a commit that begins a post checks for it.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client

    def latest(self) -> Pause | None:
        """The pause that is on, else the one that ended last; None if there never was one."""
        with redis_errors("MGET"):
            current, last = self._client.mget(keys.PAUSE, keys.LAST_PAUSE)
        return _current(current) if current else _readable(last)

    def current(self) -> Pause | None:
        """The pause that is on; None if none is."""
        latest = self.latest()
        return latest if latest and latest.is_on else None

    def begin(self, by: str, reason: str, now: datetime) -> Pause:
        """Pause dispatching; return the pause that is on, which is an earlier one if there was one."""
        pause = Pause(paused_at=now, by=by, reason=reason)
        with redis_errors("SET"):
            is_new = self._client.set(keys.PAUSE, pause.model_dump_json(), nx=True)
        return pause if is_new else self.latest() or pause

    def end(self, by: str, now: datetime, reason: str | None = None) -> Pause | None:
        """Resume dispatching; return the pause that this ended, None if none was on."""
        resumed = {"resumed_at": now, "resumed_by": by, "resumed_because": reason}

        def write(pipeline: Pipeline) -> Pause | None:
            raw = pipeline.get(keys.PAUSE)
            pipeline.multi()
            if not raw:
                return None
            ended = _current(raw).model_copy(update=resumed)
            pipeline.set(keys.LAST_PAUSE, ended.model_dump_json())
            pipeline.delete(keys.PAUSE)
            return ended

        with redis_errors("WATCH GET SET DEL"):
            ended: Pause | None = self._client.transaction(
                write, keys.PAUSE, value_from_callable=True
            )
        return ended


def _readable(raw: bytes | None) -> Pause | None:
    try:
        return Pause.model_validate_json(raw) if raw else None
    except ValueError:
        return None


def _current(raw: bytes) -> Pause:
    # A pause that this release cannot read is on all the same, and can be ended.
    epoch = datetime.fromtimestamp(0, UTC)
    return _readable(raw) or Pause(paused_at=epoch, by="unknown", reason="not readable")
