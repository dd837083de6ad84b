"""Visits every state of a scenario breadth first, so that the way to a broken invariant is a shortest one."""

import gc
import time
from collections import deque
from dataclasses import dataclass, field

from tests.model.ways_out import WaysOut
from tests.model.world import Scenario, State, World


@dataclass
class Exploration:
    """The size of a scenario, the names of its steps, and a shortest way to each broken invariant."""

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
    """Visit every state, or stop at the first broken invariant if `first_only`."""
    gc.disable()  # There are many states and no cycles. The collector would take a sixth of the time.
    try:
        return _explore(scenario, first_only)
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
    while (link := came_from[state]) is not None:
        state, name = link
        path.append(name)
    return path[::-1]
