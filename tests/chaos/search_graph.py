"""The graph that `tests.chaos.linearize` searches: all orders of what happened to one job.

An operation takes effect at some moment between its request and its answer; one without an answer at some
moment after its request, or never. A run or retry takes effect when it is admitted, and is answered later.
The service's own steps (accepted, refused, lost, ...) may happen whenever the orchestrator's record allows it.

A path visits the answers in order of time, and changes the job's state only where the next answer may need it
(just-in-time linearization: Wing and Gong, 1993; Lowe, "Testing for linearizability", 2017). Operations that
change no state need no choice: each open request keeps the outcomes it may have seen so far. So reads,
joiners and replays do not grow the graph, however many overlap.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from tests.chaos.history import Operation
from tests.chaos.model import begin, is_correct, may_begin, may_join
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
    fail_send,
    settle,
)

# The progress of an operation. A frozen set: no effect yet; the outcomes it may be waiting for. EXPLAINED: its
# answer is correct without an effect of its own, but it may still have one. A Waiting: it took effect, and its
# answer must become correct. DONE: nothing is left to explain.
EXPLAINED, DONE = "explained", "done"
Progress = frozenset[Waiting] | Waiting | str
_OPEN: frozenset[Waiting] = frozenset()


@dataclass(frozen=True)
class Post:
    """A dispatch that the orchestrator read, and the status of its complete answer (None: no such answer).

    A query that found the dispatch counts as one; `ended_badly`: the engine reported that its run failed.
    """

    dispatch: str
    at: float
    status: int | None
    ended_badly: bool = False


class Configuration(NamedTuple):
    """A node: the number of answers visited, the progress of each operation, and the job's state.

    `recorded` counts the steps that were taken of a recorded order.
    """

    answered: int
    progress: tuple[Progress, ...]
    state: State
    recorded: int


# The step's name (as on the trail), and the progress of the operations and the job's state after it.
Step = tuple[str, list[Progress], State]


class Graph:
    """All orders that the contract's model allows.

    `recorded`, if given, restricts the steps to these, in this order; each is a set of possible names.
    """

    def __init__(
        self,
        operations: Sequence[Operation],
        posts: Sequence[Post],
        idempotent: bool,
        recorded: Sequence[frozenset[str]] | None = None,
        queryable: bool = False,
    ) -> None:
        answered = sorted(
            (op for op in operations if not op.is_ambiguous), key=lambda op: (op.end, op.start)
        )
        unanswered = sorted((op for op in operations if op.is_ambiguous), key=lambda op: op.start)
        self.operations = [*answered, *unanswered]
        self._ends = [op.end or 0.0 for op in answered]
        self._posts, self._idempotent, self._recorded = posts, idempotent, recorded
        self._queryable = queryable

    def first(self) -> Configuration:
        """Return the start: the job when its upload was confirmed."""
        return self._closed(
            Configuration(
                0, tuple(_OPEN for _ in self.operations), State(queryable=self._queryable), 0
            )
        )

    def is_end(self, current: Configuration) -> bool:
        return current.answered == len(self._ends)

    def unexplained(self, current: Configuration) -> list[Operation]:
        """Return the operations whose answers are not explained yet, the next one first."""
        return [
            operation
            for operation, progress in zip(self.operations, current.progress, strict=True)
            if not operation.is_ambiguous and progress not in (DONE, EXPLAINED)
        ]

    def following(self, current: Configuration) -> Iterator[Configuration]:
        """Yield the nodes that one step leads to; none at an end."""
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
        """Yield all steps that may change the job's state before the next answer."""
        answered, progress, state, _ = current
        until, optional, tried = self._ends[answered], list[Step](), set[object]()
        for nth, operation in enumerate(self.operations):
            if operation.start > until or not _may_take_effect(progress[nth]):
                continue
            if not operation.is_ambiguous:
                yield from self._effects(current, nth)
            elif self._recorded is not None or _asked(operation) not in tried:
                # Unanswered operations with equal requests are interchangeable, except in a recorded order.
                tried.add(_asked(operation))
                optional += self._effects(current, nth)
        for name, after in self._service_steps(state, until):
            yield name, list(progress), after
        yield from optional

    def _effects(self, current: Configuration, nth: int) -> Iterator[Step]:
        _, progress, state, _ = current
        operation = self.operations[nth]
        for after, pending in begin(state, operation):
            if after == state:
                continue
            if pending is None or operation.is_ambiguous:
                yield _step_name(operation), _with(progress, nth, DONE), after
            elif may_begin(operation):
                # Only a 202 distinguishes the caller that made the claim from those that joined it.
                waiting = pending._replace(is_first=operation.status == 202)
                yield _step_name(operation), _with(progress, nth, waiting), after

    def _service_steps(self, state: State, until: float) -> Iterator[tuple[str, State]]:
        claim = state.claim
        if claim is None:
            return
        if claim.phase == SENT:
            dead = fail_by_engine(state) if self._run_ended_badly(claim.dispatch, until) else None
            if dead is not None:
                yield "run_failed", dead
            return
        yield from self._answered_steps(state, claim, until)
        if claim.phase == FLIGHT:
            yield "unknown", settle(state, UNKNOWN)
        if state.status == "CANCELLED":
            yield "cancelled", fail_send(state, "cancelled")
        if not claim.resent:
            yield "not_started", fail_send(state, "not_started")
        if claim.phase == UNKNOWN and self._idempotent:
            # With the same epoch: waiting callers cannot see the difference.
            yield "resent", state._replace(claim=claim._replace(phase=FLIGHT, resent=True))

    def _answered_steps(
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
            refusals = {REFUSAL_REASONS.get(status, REFUSED) for status in answers if status >= 300}
            for reason in refusals:
                yield "refused", fail_send(state, reason)._replace(refusals=state.refusals + 1)

    def _run_ended_badly(self, dispatch: str, until: float) -> bool:
        ended = (post for post in self._posts if post.ended_badly and post.at <= until)
        return any(post.dispatch == dispatch for post in ended)

    def _refusals(self, until: float) -> int:
        return sum(post.at <= until and (post.status or 0) >= 300 for post in self._posts)

    def _closed(self, current: Configuration) -> Configuration:
        """Return the configuration after everything that follows from it without a choice."""
        answered, progress, state = current.answered, list(current.progress), current.state
        while answered < len(self._ends):
            until = self._ends[answered]
            for nth in range(answered, len(self._ends)):
                if self.operations[nth].start <= until:
                    progress[nth] = self._observed(progress[nth], state, self.operations[nth])
            if progress[answered] != DONE:
                break
            answered += 1
        state = _renumber_epochs(progress, state)
        return current._replace(answered=answered, progress=tuple(progress), state=state)

    def _observed(self, progress: Progress, state: State, operation: Operation) -> Progress:
        """Return the progress of an operation after it has seen this state."""
        if isinstance(progress, str):
            return progress
        if isinstance(progress, Waiting):
            return DONE if is_correct(state, progress, operation) else progress
        pending = set(progress)
        for after, waiting in begin(state, operation):
            if after == state and waiting is None:
                return self._after_explanation(operation)
            if after == state and waiting is not None and may_join(operation):
                pending.add(waiting)
        if any(is_correct(state, waiting, operation) for waiting in pending):
            return self._after_explanation(operation)
        # A later epoch covers the earlier ones: the last release was tried above, and both will see the next.
        latest = max((waiting.epoch for waiting in pending), default=0)
        return frozenset(waiting for waiting in pending if waiting.epoch == latest)

    def _after_explanation(self, operation: Operation) -> Progress:
        return EXPLAINED if may_begin(operation) else DONE


class RelaxedGraph(Graph):
    """The same graph without the most expensive choice: which operation makes each claim.

    An open run or retry whose answer does not prove a claim may make any number of claims. So this graph is
    small; a node without a path to an end here has none in the full graph; and the fewest claims to an end
    are a good heuristic.
    """

    def relax(self, strict: Configuration) -> Configuration:
        """Return this graph's node for a node of the full graph."""
        progress = tuple(
            _OPEN if operation.is_ambiguous and _claims_freely(operation) else before
            for before, operation in zip(strict.progress, self.operations, strict=True)
        )
        return self._closed(strict._replace(progress=progress))

    def _steps(self, current: Configuration) -> Iterator[Step]:
        yield from super()._steps(current)
        until, tried = self._ends[current.answered], set[object]()
        for nth, operation in enumerate(self.operations):
            is_open = nth >= current.answered and operation.start <= until
            if is_open and _claims_freely(operation) and _asked(operation) not in tried:
                tried.add(_asked(operation))
                unanswered = replace(operation, status=None, end=None, body={})
                for after, _ in begin(current.state, unanswered):
                    if after != current.state:
                        yield _step_name(operation), list(current.progress), after

    def _effects(self, current: Configuration, nth: int) -> Iterator[Step]:
        if not _claims_freely(self.operations[nth]):
            yield from super()._effects(current, nth)


def _claims_freely(operation: Operation) -> bool:
    if operation.is_ambiguous:
        return operation.kind in ("run", "retry")
    return may_begin(operation) and operation.status != 202


def _may_take_effect(progress: Progress) -> bool:
    return progress == EXPLAINED or isinstance(progress, frozenset)


def _asked(operation: Operation) -> tuple[object, ...]:
    request = {name: value for name, value in operation.request.items() if name != "request_id"}
    return operation.kind, *sorted(request.items(), key=str)


def _step_name(operation: Operation) -> str:
    """Return an operation's correlation id, by which the trail names it."""
    return str(operation.request.get("event_id") or operation.request["request_id"])


def _renumber_epochs(progress: list[Progress], state: State) -> State:
    """Renumber epochs relative to the last release, in `progress` too; drop the release if it is not needed.

    Rules only compare an epoch with that release, so that states without an observable difference become
    equal.
    """
    latest = state.released.epoch if state.released else 0
    for nth, item in enumerate(progress):
        if isinstance(item, Waiting):
            progress[nth] = _renumbered(item, latest)
        elif isinstance(item, frozenset) and item:
            progress[nth] = frozenset(_renumbered(waiting, latest) for waiting in item)
    claim, released = state.claim, state.released
    if claim is not None:
        is_needed = any(_waits_for_epoch_0(item) for item in progress)
        claim = claim._replace(epoch=int(claim.epoch > latest or not is_needed))
        released = released if is_needed else None
    if released is not None:
        released = released._replace(epoch=0)
    earlier = tuple(claim._replace(epoch=0) for claim in state.earlier)
    return state._replace(claim=claim, released=released, earlier=earlier)


def _renumbered(waiting: Waiting, latest: int) -> Waiting:
    return waiting._replace(epoch=int(waiting.epoch > latest))


def _waits_for_epoch_0(progress: Progress) -> bool:
    if isinstance(progress, Waiting):
        return progress.epoch == 0
    return isinstance(progress, frozenset) and any(waiting.epoch == 0 for waiting in progress)


def _with(progress: Sequence[Progress], nth: int, value: Progress) -> list[Progress]:
    return [*progress[:nth], value, *progress[nth + 1 :]]
