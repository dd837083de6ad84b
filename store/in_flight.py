"""The index of claims whose outcome is open: what the sweep looks at, and what an operator lists.

Two sorted sets of job ids: claims in flight by when they are due, unknown outcomes by age. An entry is
written before the claim it points to: a crash in between leaves an entry without a claim, which the
sweep drops, and never a claim that nobody looks at again. An entry is dropped after the claim is
settled, and only if it is still the entry of that claim.
"""

from collections import deque
from datetime import datetime, timedelta
from pathlib import Path

from domain.claim import Claim, Phase
from store import keys
from store.connecting import Command
from store.link import Link, Script

_DROP = Script.load(Path(__file__).with_name("drop.lua"))

Entry = tuple[str, str, float]  # index, job id, score


class InFlightIndex:
    """Writes and reads the index. What is to be dropped is sent along with the next command."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._dropping: deque[Entry] = deque()

    @staticmethod
    def additions(job_id: str, before: Claim | None, after: Claim | None) -> list[Command]:
        """The commands to send before a commit that takes a claim from `before` to `after`."""
        if after is None or after is before or not after.in_flight:
            return []
        commands: list[Command] = []
        if after.lease_until is not None:
            # Without a time (an unknown outcome that is held for ever) it is for no sweep to move.
            commands.append(("ZADD", keys.IN_FLIGHT, _due(after.lease_until), job_id))
        if after.phase is Phase.UNKNOWN:
            commands.append(("ZADD", keys.UNKNOWN, _since(after), job_id))
        return commands

    def settled(self, job_id: str, before: Claim | None, after: Claim | None) -> None:
        """Remember to drop the entries that a commit has made stale."""
        if before is None or after is before:
            return
        if before.phase is Phase.UNKNOWN and (after is None or after.phase is not Phase.UNKNOWN):
            self._dropping.append((keys.UNKNOWN, job_id, _since(before)))
        if before.lease_until is not None and (after is None or not after.in_flight):
            self._dropping.append((keys.IN_FLIGHT, job_id, _due(before.lease_until)))

    def drops(self) -> list[Command]:
        """The commands that drop what is to be dropped by now. If they are lost, the sweep does it."""
        entries: dict[str, list[str | float]] = {}
        while self._dropping:
            index, job_id, score = self._dropping.popleft()
            entries.setdefault(index, []).extend((job_id, repr(score)))
        return [_DROP.command([index], pairs) for index, pairs in entries.items()]

    def flush(self) -> None:
        """Drop now what is to be dropped."""
        commands = self.drops()
        if commands:
            self._link.call(("SCRIPT", "LOAD", _DROP.source), *commands)

    def due(self, now: datetime, limit: int) -> list[tuple[str, float]]:
        """The jobs whose claims are due, the longest overdue first, each with its entry's score."""
        (flat,) = self._link.call(
            ("ZRANGEBYSCORE", keys.IN_FLIGHT, "-inf", repr(now.timestamp()),
             "WITHSCORES", "LIMIT", 0, limit)
        )  # fmt: skip
        return _pairs(flat)

    def some_unknown(self, count: int) -> list[tuple[str, float]]:
        """Up to `count` entries of the list of unknown outcomes, picked at random, with their scores."""
        (flat,) = self._link.call(("ZRANDMEMBER", keys.UNKNOWN, count, "WITHSCORES"))
        return _pairs(flat)

    def look_again_at(self, job_id: str, due: datetime) -> None:
        """Correct an entry whose time was not its claim's."""
        self._link.call(("ZADD", keys.IN_FLIGHT, "XX", _due(due), job_id))

    def drop(self, job_id: str, score: float) -> None:
        """Drop an entry that points to no claim in flight, or to one that no sweep may move."""
        self._dropping.append((keys.IN_FLIGHT, job_id, score))
        self.flush()

    def unlist(self, job_id: str, score: float) -> None:
        """Take off the list of unknown outcomes what is no longer unknown."""
        self._dropping.append((keys.UNKNOWN, job_id, score))
        self.flush()

    def unknown(self, start: int, limit: int) -> list[str]:
        """The jobs whose dispatch has an unknown outcome, the oldest first."""
        return self._range(keys.UNKNOWN, start, limit)

    def in_flight(self, start: int, limit: int) -> list[str]:
        """All jobs with a claim in flight, the first due first."""
        return self._range(keys.IN_FLIGHT, start, limit)

    def _range(self, index: str, start: int, limit: int) -> list[str]:
        (ids,) = self._link.call(("ZRANGE", index, start, start + limit - 1))
        return [each.decode() for each in ids]

    def sizes(self) -> tuple[int, int]:
        """How many claims are in flight, and how many of all have an unknown outcome."""
        in_flight, unknown = self._link.call(("ZCARD", keys.IN_FLIGHT), ("ZCARD", keys.UNKNOWN))
        return in_flight, unknown

    def take_turn(self, sweeper: str, turn: timedelta) -> bool:
        """Whether this sweeper may sweep now; nobody else may for as long as `turn`.

        Two that sweep at once do no harm (every step is compare-and-set): this only saves work.
        """
        milliseconds = max(1, int(turn.total_seconds() * 1000))
        (taken,) = self._link.call(("SET", keys.SWEEP_LOCK, sweeper, "NX", "PX", milliseconds))
        return taken is not None


def _pairs(flat: list[bytes]) -> list[tuple[str, float]]:
    return [(flat[i].decode(), float(flat[i + 1])) for i in range(0, len(flat), 2)]


def _due(moment: datetime) -> float:
    return moment.timestamp()


def _since(claim: Claim) -> float:
    # Of the send that is unknown, and so another for each epoch: a late drop of an earlier entry of the
    # same dispatch must not hit the later one.
    return (claim.sent_at or claim.claimed_at).timestamp()
