"""Searches for an order of everything that happened to a job which explains every answer.

An operation takes effect somewhere between its request and its answer; one without an answer
somewhere after its request, or never. A run or retry takes effect when it is let in, and is answered
later. What the service did by itself (accepted, refused, lost, ...) may happen whenever the
orchestrator's record allows it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.chaos.history import Operation
from tests.chaos.model import begin, is_true
from tests.chaos.state import FLIGHT, SENT, UNKNOWN, State, Waiting, release, settle

MOST_NODES = 300_000
_PENDING, _DONE = "pending", "done"
_NEVER = float("inf")


@dataclass(frozen=True)
class Post:
    """A dispatch that the orchestrator read, and the whole answer that it gave (None: none)."""

    dispatch: str
    at: float
    status: int | None


@dataclass(frozen=True)
class Verdict:
    """Whether an order was found; else the operations that the longest try could not explain."""

    explained: bool
    undecided: bool = False
    stuck_at: tuple[str, ...] = ()
    nodes: int = 0


Progress = tuple[str | Waiting, ...]
Node = tuple[Progress, State]


class _Search:
    def __init__(self, operations: list[Operation], posts: list[Post], deduplicates: bool) -> None:
        self._operations = sorted(operations, key=lambda op: (op.end or _NEVER, op.start))
        self._required = [not op.is_either for op in self._operations]
        self._posts, self._deduplicates = posts, deduplicates

    def run(self) -> Verdict:
        first: Node = (tuple(_PENDING for _ in self._operations), State())
        seen, stack, best, best_state = {first}, [first], -1, first
        while stack:
            node = stack.pop()
            done = sum(
                each == _DONE and required
                for each, required in zip(node[0], self._required, strict=True)
            )
            if done == sum(self._required):
                return Verdict(True, nodes=len(seen))
            if done > best:
                best, best_state = done, node
            if len(seen) > MOST_NODES:
                return Verdict(False, undecided=True, nodes=len(seen))
            # The last pushed is tried first: operations in the order of their answers.
            for following in reversed(list(self._following(node))):
                if following not in seen:
                    seen.add(following)
                    stack.append(following)
        return Verdict(False, stuck_at=self._next_of(best_state), nodes=len(seen))

    def _next_of(self, node: Node) -> tuple[str, ...]:
        progress, state = node
        open_ones = [
            str(op)
            for op, each, required in zip(self._operations, progress, self._required, strict=True)
            if required and each != _DONE
        ]
        return (f"in state {state}", *open_ones[:3])

    def _horizon(self, progress: Progress) -> float:
        """No later than the first answer that is still to be explained."""
        for operation, each in zip(self._operations, progress, strict=True):
            if each != _DONE and operation.end is not None:
                return operation.end
        return _NEVER

    def _following(self, node: Node) -> Iterator[Node]:
        progress, state = node
        horizon = self._horizon(progress)
        either: list[Node] = []
        tried = set()
        for nth, operation in enumerate(self._operations):
            if progress[nth] == _DONE or operation.start > horizon:
                continue
            if self._required[nth]:
                yield from self._steps(node, nth, operation)
            elif (alike := _alike(operation)) not in tried:
                tried.add(alike)
                either += self._effects(node, nth, operation)
        yield from ((progress, after) for after in self._by_itself(state, horizon))
        yield from either

    def _steps(self, node: Node, nth: int, operation: Operation) -> Iterator[Node]:
        progress, state = node
        waiting = progress[nth]
        if isinstance(waiting, Waiting):
            if is_true(state, waiting, operation):
                yield _with(progress, nth, _DONE), state
            return
        for after, awaited in begin(state, operation):
            if awaited is not None and is_true(after, awaited, operation):
                yield _with(progress, nth, _DONE), after
            yield _with(progress, nth, awaited or _DONE), after

    @staticmethod
    def _effects(node: Node, nth: int, operation: Operation) -> Iterator[Node]:
        progress, state = node
        for after, _ in begin(state, operation):
            if after != state:
                yield _with(progress, nth, _DONE), after

    def _by_itself(self, state: State, horizon: float) -> Iterator[State]:
        claim = state.claim
        if claim is None or claim.phase == SENT:
            return
        mine = [post for post in self._posts if post.dispatch == claim.dispatch]
        told = [post.status for post in mine if post.at <= horizon and post.status is not None]
        if any(status < 300 for status in told):
            yield settle(state, SENT)
        if any(status >= 300 for status in told) and state.refusals < self._refusals(horizon):
            yield release(state, "refused")._replace(refusals=state.refusals + 1)
        if claim.phase == FLIGHT:
            yield settle(state, UNKNOWN)
        if state.status == "CANCELLED":
            yield release(state, "cancelled")
        yield release(state, "not_started")
        if claim.phase == UNKNOWN and self._deduplicates:
            # Under the same epoch here, so that the search ends; who waits cannot tell.
            yield state._replace(claim=claim._replace(phase=FLIGHT, resent=True))

    def _refusals(self, horizon: float) -> int:
        return sum(post.at <= horizon and (post.status or 0) >= 300 for post in self._posts)


def _with(progress: Progress, nth: int, value: str | Waiting) -> Progress:
    return (*progress[:nth], value, *progress[nth + 1 :])


def _alike(operation: Operation) -> tuple[object, ...]:
    """Operations without an answer that ask for the same are interchangeable."""
    asked = {name: value for name, value in operation.asked.items() if name != "request_id"}
    return operation.kind, *sorted(asked.items(), key=str)


def explain(operations: list[Operation], posts: list[Post], deduplicates: bool) -> Verdict:
    """Search for an order that explains the operations on one job, the last read included."""
    return _Search(operations, posts, deduplicates).run()
