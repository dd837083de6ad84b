"""Jobs and their claims: read together, and changed together if neither has changed since."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from redis import Redis

from domain.audit import AuditEvent
from domain.claim import FencingToken, Phase
from domain.errors import ResourceNotFound
from domain.lifecycle import is_at_rest
from domain.record import Decision, Record, TaskKind
from store import codec, keys
from store.client import execute, load_script, redis_errors
from store.errors import DispatchingPaused, StoreContended
from store.indexes import INDEXES, DueIndex, times_in_indexes
from store.lists import change_entry, create_listed, lists_of_job, state_entry
from store.pauses import PauseStore

Result = TypeVar("Result")

_MOST_TRIES = 100
_PAUSED = 2


class Outbox(Protocol):
    """How a message reaches a worker: `tasks.outbox` has two ways."""

    def message(
        self, task: TaskKind, token: FencingToken, user: str, *, past_pause: bool
    ) -> tuple[list[str], bytes] | Callable[[], None]:
        """The queues and the message to push within the commit; or, if that cannot reach them, what sends it
        afterwards, which raises `QueueUnavailable`.

        `past_pause`: workers must get the message although dispatching is paused.
        """


class JobStore:
    """Reads and changes jobs; each attempt is one round trip.

    `retention` is how long a job is kept once a change has left it at rest; None: for ever.
    Every method raises `StoreUnavailable`, and `RecordUnreadable` for a record of a later release.
    """

    def __init__(self, client: Redis, outbox: Outbox, retention: timedelta | None = None) -> None:
        self._client = client
        self._outbox = outbox
        self._milliseconds = str(retention // timedelta(milliseconds=1)) if retention else ""
        self._commit = load_script(client, "commit")
        self._delete = load_script(client, "delete")
        self._put = load_script(client, "put")
        self._trail = load_script(client, "trail")
        self._channel = keys.changes_channel(client)
        self.due_index = DueIndex(client)
        self.pauses = PauseStore(client)

    def load(self, job_id: str, event_id: str | None = None) -> Record | None:
        """Read a job with its claim and, if `event_id` is given, the callback applied under it before."""
        names, seen = (keys.job(job_id), keys.claim(job_id)), None
        if event_id is None:
            with redis_errors("MGET"):
                job, claim = self._client.mget(names)
        else:
            pipeline = self._client.pipeline(transaction=False)
            pipeline.mget(names).hget(keys.callbacks(job_id), event_id)
            (job, claim), seen = execute(pipeline, "MGET HGET")
        return None if job is None else codec.load_record(job_id, job, claim or b"", seen)

    def get(self, job_id: str, event_id: str | None = None) -> Record:
        """Read as `load` does. Raises `ResourceNotFound` if there is no such job."""
        record = self.load(job_id, event_id)
        if record is None:
            raise ResourceNotFound
        return record

    def update(
        self,
        job_id: str,
        rule: Callable[[Record], Decision[Result]],
        *,
        event_id: str | None = None,
        known: Record | None = None,
        before_write: Callable[[], None] | None = None,
    ) -> Decision[Result]:
        """Read the record, apply the rule and commit; start again if the record has changed meanwhile.

        Returns the decision with the record as stored. `known` is the record as last read: if it is still
        current, the read is saved. `before_write` is called once, before the first attempt to write, and may
        prevent it by raising. Raises `ResourceNotFound` if there is no such job, what `rule` raises,
        `StoreContended`, `DispatchingPaused`, and `QueueUnavailable` if the change was committed but its
        message could not be sent.
        """
        for _ in range(_MOST_TRIES):
            is_guess, record, known = known is not None, known or self.get(job_id, event_id), None
            decision = rule(record)
            if is_guess and not decision.changed:  # no commit would find out that `known` is old
                continue
            if decision.changed and before_write is not None:
                before_write()
                before_write = None
            stored = self._write(record, decision) if decision.changed else record
            if stored is not None:
                if decision.error is not None:
                    raise decision.error
                return replace(decision, record=stored)
        raise StoreContended(job_id)

    def create(self, decision: Decision[None], marker_seconds: int = 0) -> bool:
        """Store a new job and list it; whether it is new. Nothing is written if its project is gone.

        `marker_seconds`, and what it raises: see `create_listed`.
        """
        event = codec.dump_event(*decision.events)
        return create_listed(self._put, decision.record.job, event, marker_seconds)

    def trail(self, job_id: str, start: int, limit: int) -> tuple[list[AuditEvent], int, int]:
        """Up to `limit` events of a trail from position `start` on (below 0: from its end).

        Also returns the position to continue at, and that of the trail's end. Positions count from the first
        event, even once that is no longer kept. Events that this release does not know are left out.
        """
        first, end, lines = self._trail(
            [keys.trail(job_id), keys.callbacks(job_id)], [start, limit]
        )
        events = [event for event in map(codec.load_event, lines) if event is not None]
        return events, first + len(lines), end

    def _write(self, before: Record, decision: Decision[Any]) -> Record | None:
        """Commit the decision; the record as stored, or None if it is no longer as in `before`."""
        if decision.deletes:
            entries = lists_of_job(before.job) | dict.fromkeys(INDEXES, before.job.id)
            names = [*_names(before.job.id), *entries]
            return before if self._delete(names, [*before.revision, *entries.values()]) else None
        after = _with_revision(before, decision.record)
        owner, task = after.job.owner, decision.task
        past_pause = task not in (None, TaskKind.DISPATCH) and bool(self.pauses.current())
        message: tuple[list[str], bytes] | Callable[[], None] = [], b""
        if task is not None:
            message = self._outbox.message(task, after.token, owner, past_pause=past_pause)
        queues, body = ([], b"") if callable(message) else message
        names = [
            *_names(after.job.id), *INDEXES, keys.PAUSE, keys.user_changes(owner),
            keys.jobs_in(before.job.status), keys.jobs_in(after.job.status), *queues,
        ]  # fmt: skip
        committed = self._commit(names, self._arguments(before, after, decision, body))
        if committed == _PAUSED:
            raise DispatchingPaused
        if not committed:
            return None
        if callable(message):
            message()
        return after

    def _arguments(
        self, before: Record, after: Record, decision: Decision[Any], message: bytes
    ) -> list[str | bytes | float]:
        (old_job, old_claim), (new_job, new_claim) = before.revision, after.revision
        event_id, applied = decision.callback or ("", ())
        times = times_in_indexes(after)
        # A caller who waits for a dispatch is not woken while it is merely under way.
        is_settled = after.claim is None or after.claim.phase in (Phase.SENT, Phase.UNKNOWN)
        is_news = is_settled or after.job is not before.job
        return [
            old_job,
            old_claim,
            new_job if new_job != old_job else b"",
            (new_claim or b"-") if new_claim != old_claim else b"",
            after.job.id,
            *(times[index].timestamp() if index in times else b"" for index in INDEXES),
            self._channel if is_news else b"",
            event_id,
            " ".join(applied),
            message,
            b"1" if decision.unless_paused else b"",
            change_entry(before.job),
            change_entry(after.job),
            state_entry(before.job),
            state_entry(after.job),
            self._milliseconds if is_at_rest(after) else b"",
            *(codec.dump_event(event) for event in decision.events),
        ]


def _names(job_id: str) -> list[str]:
    return [keys.job(job_id), keys.claim(job_id), keys.trail(job_id), keys.callbacks(job_id)]


def _with_revision(before: Record, after: Record) -> Record:
    """The record as the commit will leave it: unchanged parts keep the bytes that they were read from."""
    old_job, old_claim = before.revision
    job = old_job if after.job is before.job else codec.dump(after.job)
    claim = old_claim
    if after.claim is not before.claim:
        claim = codec.dump(after.claim) if after.claim else b""
    return replace(after, revision=(job, claim), seen=None)
