"""The graph that `tests.chaos.linearize` searches: all orders of what happened to one job.

An operation takes effect somewhere between its request and its answer; one without an answer
somewhere after its request, or never. A run or retry takes effect when it is let in, and is answered
later. What the service did by itself (accepted, refused, lost, ...) may happen whenever the
orchestrator's record allows it.

A path goes through the answers in the order of time, and changes the job's state only where the next
answer may need it (just-in-time linearization: Wing and Gong, 1993; Lowe, "Testing for
linearizability", 2017). What changes no state is no choice: each open request keeps what it may have
seen so far. So readers, joiners and replays add nothing to the graph, however many overlap.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from tests.chaos.history import Operation
from tests.chaos.model import begin, is_true, may_begin, may_join
from tests.chaos.state import (
    FLIGHT,
    REFUSAL_REASONS,
    REFUSED,
    SENT,
    UNKNOWN,
    Claim,
    State,
    Waiting,
    fail_by_engine,
    give_back,
    settle,
)

# How far an operation is. A frozen set: it took no effect yet; what it may be waiting for. EXPLAINED:
# its answer is true without an effect of its own, and it may still have one. A Waiting: it took
# effect, and its answer has to come true. DONE: nothing is left.
EXPLAINED, DONE = "explained", "done"
Progress = frozenset[Waiting] | Waiting | str
_OPEN: frozenset[Waiting] = frozenset()


@dataclass(frozen=True)
class Post:
    """A dispatch that the orchestrator read, and the whole answer that it gave (None: none).

    An ask that found it is one too: `ended_badly` if that is what the engine said.
    """

    dispatch: str
    at: float
    status: int | None
    ended_badly: bool = False


class Configuration(NamedTuple):
    """A node: how many answers lie behind, how far each operation is, and the job's state.

    `recorded` counts the steps taken of a recorded order.
    """

    answered: int
    progress: tuple[Progress, ...]
    state: State
    recorded: int


# What it is called (by the trail, too), how far the operations are after it, and the job's state.
Step = tuple[str, list[Progress], State]


class Graph:
    """All orders that the contract's model allows.

    `recorded` allows these steps alone, in this order: of each, the names that it may have.
    """

    def __init__(
        self,
        operations: Sequence[Operation],
        posts: Sequence[Post],
        deduplicates: bool,
        recorded: Sequence[frozenset[str]] | None = None,
        asks: bool = False,
    ) -> None:
        answered = sorted(
            (op for op in operations if not op.is_either), key=lambda op: (op.end, op.start)
        )
        unanswered = sorted((op for op in operations if op.is_either), key=lambda op: op.start)
        self.operations = [*answered, *unanswered]
        self._ends = [op.end or 0.0 for op in answered]
        self._posts, self._deduplicates, self._recorded = posts, deduplicates, recorded
        self._asks = asks

    def first(self) -> Configuration:
        """The job as it was when its upload was confirmed."""
        return self._closed(
            Configuration(0, tuple(_OPEN for _ in self.operations), State(asks=self._asks), 0)
        )

    def is_end(self, current: Configuration) -> bool:
        """Whether every answer is explained."""
        return current.answered == len(self._ends)

    def unexplained(self, current: Configuration) -> list[Operation]:
        """The answers that are not, the next one first."""
        return [
            operation
            for operation, progress in zip(self.operations, current.progress, strict=True)
            if not operation.is_either and progress not in (DONE, EXPLAINED)
        ]

    def following(self, current: Configuration) -> Iterator[Configuration]:
        """The nodes that one step leads to. None if every answer is explained."""
        if self.is_end(current):
            return
        nth = current.answered
        if current.progress[nth] == EXPLAINED:
            done = tuple(_with(current.progress, nth, DONE))
            yield self._closed(current._replace(progress=done))
        recorded = current.recorded + (self._recorded is not None)
        for name, progress, state in self._steps(current):
            if self._is_allowed(name, current.recorded):
                yield self._closed(Configuration(nth, tuple(progress), state, recorded))

    def _is_allowed(self, name: str, taken: int) -> bool:
        if self._recorded is None:
            return True
        return taken < len(self._recorded) and name in self._recorded[taken]

    def _steps(self, current: Configuration) -> Iterator[Step]:
        """All that may change the job's state before the next answer."""
        answered, progress, state, _ = current
        until, optional, tried = self._ends[answered], list[Step](), set[object]()
        for nth, operation in enumerate(self.operations):
            if operation.start > until or not _may_still_act(progress[nth]):
                continue
            if not operation.is_either:
                yield from self._effects(current, nth)
            elif self._recorded is not None or _asked(operation) not in tried:
                # Unanswered ones that ask for the same are interchangeable, but the record names one.
                tried.add(_asked(operation))
                optional += self._effects(current, nth)
        for name, after in self._by_itself(state, until):
            yield name, list(progress), after
        yield from optional

    def _effects(self, current: Configuration, nth: int) -> Iterator[Step]:
        _, progress, state, _ = current
        operation = self.operations[nth]
        for after, awaited in begin(state, operation):
            if after == state:
                continue
            if awaited is None or operation.is_either:
                yield _name_of(operation), _with(progress, nth, DONE), after
            elif may_begin(operation):
                # Only a 202 tells the one who made the claim from those who joined it.
                waiting = awaited._replace(is_first=operation.status == 202)
                yield _name_of(operation), _with(progress, nth, waiting), after

    def _by_itself(self, state: State, until: float) -> Iterator[tuple[str, State]]:
        claim = state.claim
        if claim is None:
            return
        if claim.phase == SENT:
            dead = fail_by_engine(state) if self._is_said_dead(claim.dispatch, until) else None
            if dead is not None:
                yield "run_failed", dead
            return
        yield from self._by_an_answer(state, claim, until)
        if claim.phase == FLIGHT:
            yield "unknown", settle(state, UNKNOWN)
        if state.status == "CANCELLED":
            yield "cancelled", give_back(state, "cancelled")
        if not claim.resent:
            yield "not_started", give_back(state, "not_started")
        if claim.phase == UNKNOWN and self._deduplicates:
            # Under the same epoch here: who waits cannot tell.
            yield "resent", state._replace(claim=claim._replace(phase=FLIGHT, resent=True))

    def _by_an_answer(
        self, state: State, claim: Claim, until: float
    ) -> Iterator[tuple[str, State]]:
        answers = [
            post.status
            for post in self._posts
            if post.dispatch == claim.dispatch and post.at <= until and post.status is not None
        ]
        if any(status < 300 for status in answers):
            yield "accepted", settle(state, SENT)
        if state.refusals < self._refusals(until) and not claim.resent:
            for reason in {REFUSAL_REASONS.get(each, REFUSED) for each in answers if each >= 300}:
                yield "refused", give_back(state, reason)._replace(refusals=state.refusals + 1)

    def _is_said_dead(self, dispatch: str, until: float) -> bool:
        said = (post for post in self._posts if post.ended_badly and post.at <= until)
        return any(post.dispatch == dispatch for post in said)

    def _refusals(self, until: float) -> int:
        return sum(post.at <= until and (post.status or 0) >= 300 for post in self._posts)

    def _closed(self, current: Configuration) -> Configuration:
        """The configuration after all that follows from it without a choice."""
        answered, progress, state = current.answered, list(current.progress), current.state
        while answered < len(self._ends):
            until = self._ends[answered]
            for nth in range(answered, len(self._ends)):
                if self.operations[nth].start <= until:
                    progress[nth] = self._observed(progress[nth], state, self.operations[nth])
            if progress[answered] != DONE:
                break
            answered += 1
        state = _rebase(progress, state)
        return current._replace(answered=answered, progress=tuple(progress), state=state)

    def _observed(self, progress: Progress, state: State, operation: Operation) -> Progress:
        """How far an operation is, having seen this state."""
        if isinstance(progress, str):
            return progress
        if isinstance(progress, Waiting):
            return DONE if is_true(state, progress, operation) else progress
        awaited = set(progress)
        for after, waiting in begin(state, operation):
            if after == state and waiting is None:
                return self._explained(operation)
            if after == state and waiting is not None and may_join(operation):
                awaited.add(waiting)
        if any(is_true(state, waiting, operation) for waiting in awaited):
            return self._explained(operation)
        # Who joined later sees all that who joined before may still see: what the last release says
        # was tried above, and the next one is both's.
        latest = max((waiting.epoch for waiting in awaited), default=0)
        return frozenset(waiting for waiting in awaited if waiting.epoch == latest)

    def _explained(self, operation: Operation) -> Progress:
        return EXPLAINED if may_begin(operation) else DONE


class RelaxedGraph(Graph):
    """The same graph without the one thing that is hard to choose: who makes each claim.

    A run or retry that is open, and whose answer leaves it open, may make as many claims as it likes
    and need not answer for them. So this graph is small; what has no path in it has none at all; and
    the fewest claims to an end are a good guess at the way.
    """

    def of(self, strict: Configuration) -> Configuration:
        """The node that a node of the whole graph is here."""
        progress = tuple(
            _OPEN if operation.is_either and _claims_freely(operation) else each
            for each, operation in zip(strict.progress, self.operations, strict=True)
        )
        return self._closed(strict._replace(progress=progress))

    def _steps(self, current: Configuration) -> Iterator[Step]:
        yield from super()._steps(current)
        until, tried = self._ends[current.answered], set[object]()
        for nth, operation in enumerate(self.operations):
            is_open = nth >= current.answered and operation.start <= until
            if is_open and _claims_freely(operation) and _asked(operation) not in tried:
                tried.add(_asked(operation))
                anyone = replace(operation, status=None, end=None, body={})
                for after, _ in begin(current.state, anyone):
                    if after != current.state:
                        yield _name_of(operation), list(current.progress), after

    def _effects(self, current: Configuration, nth: int) -> Iterator[Step]:
        if not _claims_freely(self.operations[nth]):
            yield from super()._effects(current, nth)


def _claims_freely(operation: Operation) -> bool:
    if operation.is_either:
        return operation.kind in ("run", "retry")
    return may_begin(operation) and operation.status != 202


def _may_still_act(progress: Progress) -> bool:
    return progress == EXPLAINED or isinstance(progress, frozenset)


def _asked(operation: Operation) -> tuple[object, ...]:
    asked = {name: value for name, value in operation.asked.items() if name != "request_id"}
    return operation.kind, *sorted(asked.items(), key=str)


def _name_of(operation: Operation) -> str:
    """What the trail calls an operation: its correlation id."""
    return str(operation.asked.get("event_id") or operation.asked["request_id"])


def _rebase(progress: list[Progress], state: State) -> State:
    """Count epochs from the last release on, in `progress` too, and forget it where no answer asks.

    Only whether an epoch came after that release is ever asked, so that states that differ in no
    answer become one.
    """
    latest = state.released.epoch if state.released else 0
    for nth, each in enumerate(progress):
        if isinstance(each, Waiting):
            progress[nth] = _recounted(each, latest)
        elif isinstance(each, frozenset) and each:
            progress[nth] = frozenset(_recounted(waiting, latest) for waiting in each)
    claim, released = state.claim, state.released
    if claim is not None:
        is_asked = any(_waits_since_before(each) for each in progress)
        claim = claim._replace(epoch=int(claim.epoch > latest or not is_asked))
        released = released if is_asked else None
    if released is not None:
        released = released._replace(epoch=0)
    earlier = tuple(each._replace(epoch=0) for each in state.earlier)
    return state._replace(claim=claim, released=released, earlier=earlier)


def _recounted(waiting: Waiting, latest: int) -> Waiting:
    return waiting._replace(epoch=int(waiting.epoch > latest))


def _waits_since_before(progress: Progress) -> bool:
    if isinstance(progress, Waiting):
        return progress.epoch == 0
    return isinstance(progress, frozenset) and any(each.epoch == 0 for each in progress)


def _with(progress: Sequence[Progress], nth: int, value: Progress) -> list[Progress]:
    return [*progress[:nth], value, *progress[nth + 1 :]]
