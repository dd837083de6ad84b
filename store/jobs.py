"""Jobs and their claims: read together, changed together, and only if neither has changed since."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

from redis import Redis

from domain.audit import AuditEvent
from domain.claim import FencingToken, Phase
from domain.errors import ResourceNotFound
from domain.lifecycle import is_at_rest
from domain.record import Decision, Record, TaskKind
from store import codec, keys
from store.client import execute, redis_errors
from store.due_index import INDEXES, DueIndex, scores
from store.errors import DispatchingPaused, StoreContended
from store.lists import ListedRecords, change_entry, lists_of_job, state_entry
from store.pauses import PauseStore

Result = TypeVar("Result")

_COMMIT = Path(__file__).with_name("commit.lua").read_text()
_DELETE = Path(__file__).with_name("delete.lua").read_text()
_TRAIL = Path(__file__).with_name("trail.lua").read_text()
_MOST_TRIES = 100
_PAUSED = 2


class Outbox(Protocol):
    """How a message reaches a worker. `tasks.outbox` has the two ways there are."""

    def message(
        self, task: TaskKind, token: FencingToken, user: str, *, past_pause: bool
    ) -> tuple[list[str], bytes] | None:
        """The queues and the message to push within the commit; None if the commit cannot reach them.

        `past_pause`: workers must get it although dispatching is paused.
        """

    def publish(self, task: TaskKind, token: FencingToken, user: str, *, past_pause: bool) -> None:
        """Send the message after the commit. Raises `QueueUnavailable`."""


class JobStore:
    """Loads and changes jobs, each try in one round trip. Times are the caller's.

    `retention` is how long a job is kept from the change on that left it at rest; None: for ever.
    Every method raises `StoreUnavailable`, and `RecordUnreadable` for a record of a later release.
    """

    def __init__(self, client: Redis, outbox: Outbox, retention: timedelta | None = None) -> None:
        self._client = client
        self._outbox = outbox
        self._milliseconds = str(retention // timedelta(milliseconds=1)) if retention else ""
        self._commit = client.register_script(_COMMIT)
        self._delete = client.register_script(_DELETE)
        self._trail = client.register_script(_TRAIL)
        self._listed = ListedRecords(client)
        self._channel = keys.changes_channel(client)
        self.index = DueIndex(client)
        self.pauses = PauseStore(client)

    def load(self, job_id: str, event_id: str | None = None) -> Record | None:
        """Read a job with its claim and, if asked, what callback `event_id` brought before."""
        names, seen = (keys.job(job_id), keys.claim(job_id)), None
        if event_id is None:
            with redis_errors("MGET"):
                job, claim = self._client.mget(names)
        else:
            pipeline = self._client.pipeline(transaction=False)
            pipeline.mget(names).hget(keys.callbacks(job_id), event_id)
            (job, claim), seen = execute(pipeline, "MGET HGET")
        if job is None:
            return None
        return codec.load_record(job_id, job, claim or b"", seen)

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
        """Read the record, ask the rule, commit; again from the start if the record has changed since.

        Returns the decision, its record as it now stands. `known` is the record as the caller believes it
        to stand: if that is right, it need not be read. `before_write` is called once, before the first try to
        write: what it raises refuses the change. Raises `ResourceNotFound` if there is no such job,
        whatever `rule` raises, `StoreContended`, `DispatchingPaused`, and `QueueUnavailable` if the change was
        committed but its message could not be sent.
        """
        for _ in range(_MOST_TRIES):
            is_guess, record, known = known is not None, known or self.get(job_id, event_id), None
            decision = rule(record)
            if is_guess and not decision.changed:
                continue
            if decision.changed and before_write is not None:
                before_write()
                before_write = None
            stands = self._write(record, decision) if decision.changed else record
            if stands is not None:
                if decision.error is not None:
                    raise decision.error
                return replace(decision, record=stands)
        raise StoreContended(job_id)

    def create(self, decision: Decision[None], marker_seconds: int = 0) -> bool:
        """Write a new job and list it; whether it is new. Nothing is written where its project is gone.

        `marker_seconds`, and what it raises: see `ListedRecords.put`.
        """
        job, (event,) = decision.record.job, decision.events
        return self._listed.put(
            keys.job(job.id), job.id, lists_of_job(job), record=codec.dump_job(job),
            owner=job.owner, project_id=job.project_id, parent=keys.project(job.project_id),
            marker_seconds=marker_seconds, first_event=codec.dump_event(event),
        )  # fmt: skip

    def let_expire(self, job_id: str) -> bool:
        """Let a job's time run if it is at rest; whether it is. For one that rests since retention was none.

        Raises `ResourceNotFound`, and `StoreContended`.
        """
        return self.update(
            job_id, lambda record: Decision(None, record, is_at_rest(record))
        ).changed

    def delete(
        self,
        job_id: str,
        rule: Callable[[Record], None],
        before_write: Callable[[], None] | None = None,
    ) -> None:
        """Delete a job and all that is kept of it, unless `rule` refuses by raising.

        `before_write`: see `update`. Raises `ResourceNotFound` if there is no such job, and `StoreContended`.
        """
        for _ in range(_MOST_TRIES):
            record = self.get(job_id)
            rule(record)
            if before_write is not None:
                before_write()
                before_write = None
            places = lists_of_job(record.job) | dict.fromkeys(INDEXES, job_id)
            with redis_errors("EVALSHA"):
                if self._delete([*_names(job_id), *places], [*record.revision, *places.values()]):
                    return
        raise StoreContended(job_id)

    def trail(self, job_id: str, start: int, limit: int) -> tuple[list[AuditEvent], int, int]:
        """Read `limit` events of a trail from place `start` (below 0: from its end), where to go on, its end.

        Both are told also if there are no events yet. Places count from the trail's first event, also once
        that is not kept any more. Events that this release does not know are left out.
        """
        names = [keys.trail(job_id), keys.callbacks(job_id)]
        with redis_errors("EVALSHA"):
            first, end, lines = self._trail(names, [start, limit])
        events = [event for event in map(codec.load_event, lines) if event is not None]
        return events, first + len(lines), end

    def _write(self, before: Record, decision: Decision[Any]) -> Record | None:
        """Write the decision if the record is still as `before` has it; None if it is not."""
        after = _with_revision(before, decision.record)
        message: tuple[list[str], bytes] | None = None
        past_pause = decision.task not in (None, TaskKind.DISPATCH) and bool(self.pauses.current())
        if decision.task is not None:
            message = self._outbox.message(
                decision.task, after.token, after.job.owner, past_pause=past_pause
            )
        job_id = after.job.id
        names = [*_names(job_id), *INDEXES, keys.PAUSE, keys.user_changes(after.job.owner)]
        names += [keys.jobs_in(before.job.status), keys.jobs_in(after.job.status)]
        names += message[0] if message else []
        with redis_errors("EVALSHA"):
            committed = self._commit(names, self._arguments(before, after, decision, message))
        if committed == _PAUSED:
            raise DispatchingPaused
        if not committed:
            return None
        if decision.task is not None and message is None:
            self._outbox.publish(decision.task, after.token, after.job.owner, past_pause=past_pause)
        return after

    def _arguments(
        self,
        before: Record,
        after: Record,
        decision: Decision[Any],
        message: tuple[list[str], bytes] | None,
    ) -> list[str | bytes]:
        old_job, old_claim = before.revision
        new_job, new_claim = after.revision
        event_id, applied = decision.callback or ("", None)
        return [
            old_job,
            old_claim,
            new_job if new_job != old_job else b"",
            (new_claim or b"-") if new_claim != old_claim else b"",
            after.job.id,
            *scores(after),
            self._channel if _is_news(before, after) else b"",
            event_id,
            codec.dump_applied(applied) if applied else b"",
            message[1] if message else b"",
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
    """The record as the commit will leave it: what did not change keeps the bytes it was read from."""
    old_job, old_claim = before.revision
    job = old_job if after.job is before.job else codec.dump_job(after.job)
    claim = old_claim if after.claim is before.claim else codec.dump_claim(after.claim)
    return replace(after, revision=(job, claim), seen=None)


def _is_news(before: Record, after: Record) -> bool:
    # A caller who waits for a dispatch is not woken while it is merely on its way.
    is_settled = after.claim is None or after.claim.phase in (Phase.SENT, Phase.UNKNOWN)
    return is_settled or after.job is not before.job
