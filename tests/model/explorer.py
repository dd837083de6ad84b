"""Breadth first through every state of a scenario.

The first way to a broken invariant is then a shortest one.
"""

import gc
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.model.ways_out import WaysOut
from tests.model.world import Scenario, State, World


@dataclass
class Exploration:
    """What was found: how much there was to see, and the shortest way to each broken invariant."""

    scenario: str
    states: int = 0
    steps: int = 0
    depth: int = 0
    seconds: float = 0.0
    broken: dict[str, list[str]] = field(default_factory=dict)
    happened: set[str] = field(default_factory=set)

    def story(self) -> str:
        """Each broken invariant with the steps that lead to it."""
        return "\n".join(
            f"{name}, after {len(path)} steps:\n  " + "\n  ".join(path)
            for name, path in self.broken.items()
        )


def explore(scenario: Scenario, *, first_only: bool = False) -> Exploration:
    """Visit every state; stop at the first broken invariant if that is all that is asked for."""
    with _without_looking_for_cycles():
        return _explore(scenario, first_only)


@contextmanager
def _without_looking_for_cycles() -> Iterator[None]:
    # States are many and refer to none that came later: looking at them again and again costs a sixth.
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _explore(scenario: Scenario, first_only: bool) -> Exploration:
    world = World(scenario)
    ways_out = WaysOut(world.rules)
    found, began = Exploration(scenario.name), time.process_time()
    first = world.first_state()
    came_from: dict[State, tuple[State, str] | None] = {first: None}
    ahead = deque([(first, 0)])
    while ahead and not (first_only and found.broken):
        state, found.depth = ahead.popleft()
        for name in ways_out.broken(state):
            found.broken.setdefault(name, _path(came_from, state))
        for step in world.next_states(state):
            found.steps += 1
            found.happened.add(step.name)
            for name in step.broken:
                found.broken.setdefault(name, [*_path(came_from, state), step.name])
            if step.state not in came_from and not step.broken:
                came_from[step.state] = (state, step.name)
                ahead.append((step.state, found.depth + 1))
    found.states, found.seconds = len(came_from), time.process_time() - began
    return found


def _path(came_from: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    path = []
    link = came_from[state]
    while link is not None:
        state, name = link
        path.append(name)
        link = came_from[state]
    return path[::-1]
