"""Search for an order of everything that happened to a job which explains every answer.

The order of the job's trail is tried first. If it does not explain all answers, all orders are searched
(`tests.chaos.search_graph`), beginning with those that need the fewest claims.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import Any

from tests.chaos.history import Operation
from tests.chaos.search_graph import Configuration, Graph, Post, RelaxedGraph
from tests.chaos.state import FLIGHT

# A history of 40 operations takes a few thousand.
MOST_CONFIGURATIONS = 200_000

# The search's names for trail events that name no request.
_SERVICE_STEPS = {
    "dispatch.accepted": frozenset({"accepted"}),
    "dispatch.found": frozenset({"accepted"}),
    "orchestrator.run_failed": frozenset({"run_failed"}),
    "dispatch.refused": frozenset({"refused"}),
    "dispatch.not_started": frozenset({"not_started"}),
    "dispatch.unknown": frozenset({"unknown"}),
    "dispatch.released": frozenset({"cancelled", "not_started"}),
}


@dataclass(frozen=True)
class Verdict:
    """Whether an order was found; otherwise the operations that the longest attempt could not explain.

    `as_recorded`: the trail's own order explains the answers. `undecided`: the search reached its limit.
    `configurations`: how many nodes were visited.
    """

    explained: bool
    as_recorded: bool = False
    undecided: bool = False
    stuck_at: tuple[str, ...] = ()
    configurations: int = 0


def explain(
    operations: Sequence[Operation],
    posts: Sequence[Post],
    idempotent: bool,
    trail: Sequence[dict[str, Any]] = (),
    queryable: bool = False,
) -> Verdict:
    """Search for an order that explains all operations on one job.

    The trail is only a hint where to look first: its order has to explain the answers by the same rules.
    """
    recorded = Graph(operations, posts, idempotent, list(recorded_steps(trail)), queryable)
    as_recorded = _search(recorded, lambda _: 0)
    if as_recorded.explained:
        return replace(as_recorded, as_recorded=True)
    costs = _Costs(RelaxedGraph(operations, posts, idempotent, queryable=queryable))
    graph = Graph(operations, posts, idempotent, queryable=queryable)
    found = (
        Verdict(False, stuck_at=costs.stuck_at())
        if costs(graph.first()) == inf
        else _search(graph, costs)
    )
    visited = as_recorded.configurations + found.configurations + len(costs.known)
    return replace(found, configurations=visited)


def recorded_steps(trail: Sequence[dict[str, Any]]) -> Iterator[frozenset[str]]:
    """Yield the steps of a job's trail in the order of commit, each as the set of its possible names."""
    for event in trail:
        kind, actor = event["event_type"], event["actor_type"]
        if kind in _SERVICE_STEPS:
            yield _SERVICE_STEPS[kind]
        elif kind == "dispatch.resent" and actor == "system":
            yield frozenset({"resent"})
        elif kind in ("dispatch.claimed", "dispatch.resent", "job.cancelled") or (
            kind == "job.status_changed" and actor == "orchestrator"
        ):
            yield frozenset({event["correlation_id"] or ""})


def _search(graph: Graph, cost: Callable[[Configuration], float]) -> Verdict:
    """Search depth first and cheapest first; visit no node twice, and none of infinite cost."""
    furthest = first = graph.first()
    seen, stack = {first}, [first]
    while stack:
        current = stack.pop()
        if graph.is_end(current):
            return Verdict(True, configurations=len(seen))
        furthest = max(furthest, current, key=lambda node: node.answered)
        if len(seen) > MOST_CONFIGURATIONS:
            return Verdict(False, undecided=True, configurations=len(seen))
        ahead = [node for node in dict.fromkeys(graph.following(current)) if node not in seen]
        seen.update(ahead)
        # The last pushed is tried first.
        stack += sorted((node for node in ahead if cost(node) < inf), key=cost)[::-1]
    return Verdict(False, stuck_at=_stuck_at(graph, furthest), configurations=len(seen))


def _stuck_at(graph: Graph, furthest: Configuration) -> tuple[str, ...]:
    unexplained = (str(operation) for operation in graph.unexplained(furthest)[:3])
    return f"in state {furthest.state}", *unexplained


class _Costs:
    """A lower bound for the number of claims from a node to an end; infinite if no end can be reached.

    Computed on the relaxed graph, each part of which is explored once. `known` maps its nodes to costs.
    """

    def __init__(self, relaxed: RelaxedGraph) -> None:
        self._relaxed = relaxed
        self.known: dict[Configuration, float] = {}

    def __call__(self, strict: Configuration) -> float:
        first = self._relaxed.relax(strict)
        if first not in self.known:
            self._explore(first)
        return self.known[first]

    def stuck_at(self) -> tuple[str, ...]:
        """Return what the longest path could not explain."""
        return _stuck_at(self._relaxed, max(self.known, key=lambda node: node.answered))

    def _explore(self, first: Configuration) -> None:
        found, known_ends = {first: None}, dict[Configuration, float]()
        before = defaultdict[Configuration, list[Configuration]](list)
        waiting = [first]
        while waiting:
            if len(self.known) + len(found) > MOST_CONFIGURATIONS:
                self.known |= dict.fromkeys(found, 0.0)  # too many to explore: rule none out
                return
            current = waiting.pop()
            if self._relaxed.is_end(current):
                known_ends[current] = 0
            for following in self._relaxed.following(current):
                before[following].append(current)
                if following in self.known:
                    known_ends[following] = self.known[following]
                elif following not in found:
                    found[following] = None
                    waiting.append(following)
        self.known |= dict.fromkeys(found, inf) | _distances(known_ends, before)


def _distances(
    ends: dict[Configuration, float], before: dict[Configuration, list[Configuration]]
) -> dict[Configuration, float]:
    """Dijkstra's algorithm, backwards from the ends."""
    distances: dict[Configuration, float] = {}
    queue = [(cost, nth, end) for nth, (end, cost) in enumerate(ends.items())]
    heapify(queue)
    order = count(len(queue))
    while queue:
        cost, _, current = heappop(queue)
        if current in distances:
            continue
        distances[current] = cost
        for earlier in before[current]:
            claims = _is_in_flight(current) and not _is_in_flight(earlier)
            heappush(queue, (cost + claims, next(order), earlier))
    return distances


def _is_in_flight(configuration: Configuration) -> bool:
    claim = configuration.state.claim
    return claim is not None and claim.phase == FLIGHT
