"""Jobs and their claims: read together, changed together, and only if nobody was quicker."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from domain.change import Change, Decision, Errand, Record
from domain.claim import Phase
from domain.dispatch_steps import Token
from domain.trail import TrailEvent
from store import changes, codec, keys
from store.connecting import Command
from store.errors import StoreContended
from store.in_flight import InFlightIndex
from store.link import Link, Script
from store.snapshot import Snapshot

Answer = TypeVar("Answer")

_COMMIT = Script.load(Path(__file__).with_name("commit.lua"))
_MOST_TRIES = 100


class Outbox(Protocol):
    """How a message reaches a worker. `tasks.outbox` has the two ways there are."""

    def riding(self, errand: Errand, token: Token, user: str) -> tuple[list[str], bytes] | None:
        """The queues and the message to push within the commit itself; None if it cannot ride."""

    def publish(self, errand: Errand, token: Token, user: str) -> None:
        """Send the message after the commit. Raises `QueueUnavailable`."""


class JobStore:
    """Loads and changes jobs. Each method is one round trip a try; times are the caller's."""

    def __init__(self, link: Link, outbox: Outbox) -> None:
        self._link = link
        self._outbox = outbox
        self.index = InFlightIndex(link)

    def load(self, job_id: str, event_id: str | None = None) -> Snapshot | None:
        """Read a job with its claim and, if asked, what callback `event_id` brought before."""
        commands: list[Command] = [("MGET", keys.job(job_id), keys.claim(job_id))]
        if event_id is not None:
            commands.append(("HGET", keys.callbacks(job_id), event_id))
        (job, claim), *seen = self._link.call(*commands)
        if job is None:
            return None
        digest = seen[0].decode() if seen and seen[0] else None
        return Snapshot.of(job, claim or b"", digest)

    def change(
        self,
        job_id: str,
        decide: Callable[[Snapshot | None], Decision[Answer]],
        event_id: str | None = None,
    ) -> Answer:
        """Read, decide, commit; again from the start if somebody changed the record in between.

        Raises whatever `decide` raises, `StoreUnavailable`, `StoreContended`, and `QueueUnavailable`
        if the change was committed but its message could not be sent.
        """
        for _ in range(_MOST_TRIES):
            snapshot = self.load(job_id, event_id)
            decision = decide(snapshot)
            if decision.change is None or self.commit(snapshot, decision.change):
                if decision.error is not None:
                    raise decision.error
                return decision.answer
        raise StoreContended(job_id)

    def apply(
        self,
        job_id: str,
        rule: Callable[[Record], Change | None],
        known: Snapshot | None = None,
    ) -> Snapshot | None:
        """Apply a rule to a record; return it as it then stands, None if the rule changed nothing.

        `known` is how the caller knows the record to stand: if he is right, it need not be read.
        Raises what `change` raises.
        """
        for _ in range(_MOST_TRIES):
            snapshot, guessed, known = known or self.load(job_id), known is not None, None
            change = rule(snapshot.record) if snapshot else None
            if change is None and not guessed:
                return None
            after = self.commit(snapshot, change) if change else None
            if after is not None:
                return after
        raise StoreContended(job_id)

    def commit(self, before: Snapshot | None, change: Change, *first: Command) -> Snapshot | None:
        """Write the change if the record is still as `before` has it.

        Returns the record as it then stands, or None if it was not as it was read. `first` is sent
        along, and carried out in any case.
        """
        after = _written(before, change)
        old, new = before.record.claim if before else None, change.record.claim
        job_id = change.record.job.id
        ride = self._ride(change)
        committed = self._link.run(
            _COMMIT,
            _keys(job_id, ride),
            _arguments(before, after, change, ride),
            *first,
            *self.index.drops(),
            *self.index.additions(job_id, old, new),
        )
        if not committed:
            return None
        self.index.settled(job_id, old, new)
        if change.errand is not None and ride is None:
            self._outbox.publish(change.errand, _token(change), change.record.job.owner)
        return after

    def trail(self, job_id: str, start: int, limit: int) -> tuple[list[TrailEvent], bool]:
        """Read `limit` lines of a trail from line `start`, and whether there are more."""
        (lines,) = self._link.call(("LRANGE", keys.trail(job_id), start, start + limit))
        return [codec.load_event(line) for line in lines[:limit]], len(lines) > limit

    def _ride(self, change: Change) -> tuple[list[str], bytes] | None:
        if change.errand is None:
            return None
        return self._outbox.riding(change.errand, _token(change), change.record.job.owner)


def _written(before: Snapshot | None, change: Change) -> Snapshot:
    """The record as the commit will leave it: what did not change keeps the bytes it was read from."""
    job, claim = change.record.job, change.record.claim
    same_job = before is not None and job is before.record.job
    same_claim = before is not None and claim is before.record.claim
    return Snapshot(
        change.record,
        before.job if before and same_job else codec.dump(job),
        before.claim if before and same_claim else codec.dump(claim) if claim else b"",
    )


def _keys(job_id: str, ride: tuple[list[str], bytes] | None) -> list[str]:
    own = [keys.job(job_id), keys.claim(job_id), keys.trail(job_id), keys.callbacks(job_id)]
    return [*own, *(ride[0] if ride else [])]


def _arguments(
    before: Snapshot | None,
    after: Snapshot,
    change: Change,
    ride: tuple[list[str], bytes] | None,
) -> list[str | bytes]:
    old_job, old_claim = (before.job, before.claim) if before else (b"", b"")
    event_id, digest = change.callback or ("", "")
    return [
        old_job,
        old_claim,
        after.job if after.job is not old_job else b"",
        (after.claim or b"-") if after.claim != old_claim else b"",
        keys.CHANGES_CHANNEL,
        changes.hint(after) if before and _is_news(before, after) else b"",
        event_id,
        digest,
        ride[1] if ride else b"",
        *(codec.dump_event(event) for event in change.trail),
    ]


def _is_news(before: Snapshot, after: Snapshot) -> bool:
    # Whoever waits for a dispatch is not woken while it is merely on its way.
    claim = after.record.claim
    settled = claim is None or claim.phase in (Phase.SENT, Phase.UNKNOWN)
    return settled or after.job is not before.job


def _token(change: Change) -> Token:
    claim = change.record.shown_claim
    job_id = change.record.job.id
    return Token(job_id, claim.dispatch_id, claim.epoch) if claim else Token(job_id, "", 0)
