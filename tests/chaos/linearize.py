"""Searches for an order of everything that happened to a job which explains every answer.

The order that the job's own trail recorded is tried first. Where it explains too little, all orders
are searched (`tests.chaos.search_graph`), those first that need the fewest claims.
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

# A history of 40 operations takes some thousands.
MOST_CONFIGURATIONS = 200_000

# What a line of the trail that names no request is called as a step of the search.
_BY_ITSELF = {
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
    """Whether an order was found; else the operations that the longest try could not explain.

    `as_recorded`: the trail's own order explains the answers. `undecided`: the search was given up.
    `configurations` counts all that was looked at.
    """

    explained: bool
    as_recorded: bool = False
    undecided: bool = False
    stuck_at: tuple[str, ...] = ()
    configurations: int = 0


def explain(
    operations: Sequence[Operation],
    posts: Sequence[Post],
    deduplicates: bool,
    trail: Sequence[dict[str, Any]] = (),
    asks: bool = False,
) -> Verdict:
    """Search for an order that explains the operations on one job, the last read included.

    The trail only says where to look first: its order has to explain the answers by the same rules.
    """
    recorded = Graph(operations, posts, deduplicates, list(recorded_steps(trail)), asks)
    as_recorded = _search(recorded, lambda _: 0)
    if as_recorded.explained:
        return replace(as_recorded, as_recorded=True)
    costs = _Costs(RelaxedGraph(operations, posts, deduplicates, asks=asks))
    graph = Graph(operations, posts, deduplicates, asks=asks)
    found = (
        Verdict(False, stuck_at=costs.stuck_at())
        if costs(graph.first()) == inf
        else _search(graph, costs)
    )
    looked_at = as_recorded.configurations + found.configurations + len(costs.known)
    return replace(found, configurations=looked_at)


def recorded_steps(trail: Sequence[dict[str, Any]]) -> Iterator[frozenset[str]]:
    """The steps of a job's trail, as they were committed: of each, the names that it may have."""
    for event in trail:
        kind, actor = event["event_type"], event["actor_type"]
        if kind in _BY_ITSELF:
            yield _BY_ITSELF[kind]
        elif kind == "dispatch.resent" and actor == "system":
            yield frozenset({"resent"})
        elif kind in ("dispatch.claimed", "dispatch.resent", "job.cancelled") or (
            kind == "job.status_changed" and actor == "orchestrator"
        ):
            yield frozenset({event["correlation_id"] or ""})


def _search(graph: Graph, cost: Callable[[Configuration], float]) -> Verdict:
    """Depth first, the cheapest first; no node is looked at twice, and none of infinite cost."""
    furthest = first = graph.first()
    seen, stack = {first}, [first]
    while stack:
        current = stack.pop()
        if graph.is_end(current):
            return Verdict(True, configurations=len(seen))
        furthest = max(furthest, current, key=lambda each: each.answered)
        if len(seen) > MOST_CONFIGURATIONS:
            return Verdict(False, undecided=True, configurations=len(seen))
        ahead = [each for each in dict.fromkeys(graph.following(current)) if each not in seen]
        seen.update(ahead)
        # The last pushed is tried first.
        stack += sorted((each for each in ahead if cost(each) < inf), key=cost)[::-1]
    return Verdict(False, stuck_at=_stuck_at(graph, furthest), configurations=len(seen))


def _stuck_at(graph: Graph, furthest: Configuration) -> tuple[str, ...]:
    unexplained = (str(operation) for operation in graph.unexplained(furthest)[:3])
    return f"in state {furthest.state}", *unexplained


class _Costs:
    """How many claims it takes at least from a node to an end: infinite where there is no way.

    Read off the relaxed graph, each part of which is explored once. `known` has a cost for each of
    its nodes.
    """

    def __init__(self, relaxed: RelaxedGraph) -> None:
        self._relaxed = relaxed
        self.known: dict[Configuration, float] = {}

    def __call__(self, strict: Configuration) -> float:
        first = self._relaxed.of(strict)
        if first not in self.known:
            self._explore(first)
        return self.known[first]

    def stuck_at(self) -> tuple[str, ...]:
        """What the longest way could not explain."""
        return _stuck_at(self._relaxed, max(self.known, key=lambda each: each.answered))

    def _explore(self, first: Configuration) -> None:
        found, known_ends = {first: None}, dict[Configuration, float]()
        before = defaultdict[Configuration, list[Configuration]](list)
        waiting = [first]
        while waiting:
            if len(self.known) + len(found) > MOST_CONFIGURATIONS:
                self.known |= dict.fromkeys(found, 0.0)  # too many to know: none is ruled out
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
    """Dijkstra's algorithm, from the ends backwards."""
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
