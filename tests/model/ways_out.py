"""No claim is stuck: even with every process dead and every message lost, each state has a way out."""

from collections import deque
from collections.abc import Iterator

from domain.claim import ClaimEvent, Phase, RunState
from domain.job_fsm import JobStatus
from tests.model.rules import Rules, Step, Token
from tests.model.world import State

_BY_PEOPLE = ("run", "retry a", "operator settled_sent", "operator settled_release")


class WaysOut:
    """Searches from a record to a settled one, by new processes that do not fail."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._known: dict[tuple[int, bool], bool] = {}

    def broken(self, state: State) -> tuple[str, ...]:
        """The invariant that breaks if all processes die now: a way out is missing."""
        claim = self._rules.records[state.record].claim
        if claim is None:
            return ()
        if claim.phase in (Phase.CLAIMED, Phase.SENDING):
            found = self._exists(state.record, people=False)
            return () if found else ("the sweep finds every claim that no process works on",)
        return () if self._exists(state.record, people=True) else ("no claim is stuck",)

    def _exists(self, record: int, *, people: bool) -> bool:
        key = (record, people)
        if key not in self._known:
            self._known[key] = self._search(record, people)
        return self._known[key]

    def _search(self, record: int, people: bool) -> bool:
        is_out = self._is_settled if people else self._is_settled_or_unknown
        seen, ahead = {record}, deque([record])
        while ahead:
            current = ahead.popleft()
            if is_out(current):
                return True
            for after in self._next(current, people):
                if after not in seen:
                    seen.add(after)
                    ahead.append(after)
        return False

    def _next(self, record: int, people: bool) -> Iterator[int]:
        yield self._rules.later(record)
        yield from self._followed(self._rules.sweep(record))
        if self._rules.may_be_asked(record):
            yield from self._followed(self._rules.answered(record, record, RunState.RUNNING))
        if people:
            for request in _BY_PEOPLE:
                yield from self._followed(self._rules.ask(record, request))

    def _followed(self, step: Step | None) -> Iterator[int]:
        if step is None:
            return
        yield step.after
        if step.message is not None:
            yield from self._posted(step.after, step.message)

    def _posted(self, record: int, token: Token) -> Iterator[int]:
        if begun := self._rules.begin(record, token, 0):
            settled = self._rules.settle(begun.after, token, ClaimEvent.ACCEPTED)
            if settled is not None:
                yield settled.after

    def _is_settled_or_unknown(self, record: int) -> bool:
        claim = self._rules.records[record].claim
        return claim is None or claim.phase in (Phase.SENT, Phase.UNKNOWN)

    def _is_settled(self, record: int) -> bool:
        job, claim = self._rules.records[record].job, self._rules.records[record].claim
        if claim is None:
            return True
        awaits_resume = claim.awaits_resume and job.status is JobStatus.FAILED
        return claim.phase is Phase.SENT and not awaits_resume
