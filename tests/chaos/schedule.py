"""The schedule of the faults, decided by the seed before anything runs."""

from collections import defaultdict
from dataclasses import dataclass
from random import Random

FIRST_FAULT_SECONDS = 3.0
LAST_FAULT_SECONDS = 1.0
MEAN_PAUSE_SECONDS = 1.1
PAUSE_OF_A_TARGET_SECONDS = 1.0

_PROCESSES = ("web1", "web2", "worker1", "worker2", "orchestrator", "redis")
_LINKS = (
    "clients->web1",
    "clients->web2",
    "web->redis",
    "worker->redis",
    "worker->orchestrator",
    "orchestrator->web",
)

# How a fault begins, how it ends, and how long it lasts (seconds). Cuts are over at once.
_KINDS = {
    "kill": (_PROCESSES, (0.2, 1.5)),
    "kill_child": (("web1", "web2"), (0.0, 0.0)),
    "stop": (_PROCESSES, (0.3, 2.5)),
    # Longer than a claim's lease, and than that of a worker which is sending.
    "stop_past_lease": (("worker1", "worker2"), (7.8, 8.8)),
    "cut": (_LINKS, (0.0, 0.0)),
    "refuse": (_LINKS, (0.3, 2.0)),
    "hang": (_LINKS, (0.3, 3.0)),
    "lose_answers": (_LINKS, (0.1, 0.8)),
    # While the workers stand still, so that there is something in them.
    "empty_queues": (("broker",), (0.4, 1.0)),
}


@dataclass(frozen=True)
class Fault:
    """One fault: from `at`, in seconds of the run, for `lasts` seconds."""

    at: float
    kind: str
    target: str
    lasts: float

    @property
    def name(self) -> str:
        """Kind and target, as they are counted: two web processes are one target."""
        return f"{self.kind} {self.target.rstrip('12')}"


def all_names() -> set[str]:
    """Every fault that a long enough run fires."""
    return {
        Fault(0, kind, target, 0).name
        for kind, (targets, _) in _KINDS.items()
        for target in targets
    }


def schedule(seed: int, seconds: float) -> list[Fault]:
    """The faults of a run, in order. Each target has one fault at a time; others may overlap.

    Kinds are drawn like cards, so that each comes up before any comes up again.
    """
    rng, faults, deck = Random(f"{seed}:faults"), list[Fault](), list[tuple[str, str]]()
    free_from: defaultdict[str, float] = defaultdict(float)
    at = FIRST_FAULT_SECONDS
    while at < seconds - LAST_FAULT_SECONDS:
        deck = deck or _shuffled_deck(rng)
        card = next((card for card in deck if _are_free(card[1], free_from, at)), None)
        if card is not None:
            deck.remove(card)
            kind, target = card
            lasts = min(rng.uniform(*_KINDS[kind][1]), seconds - at)
            faults.append(Fault(round(at, 3), kind, target, round(lasts, 3)))
            for each in _occupied(target):
                free_from[each] = at + lasts + PAUSE_OF_A_TARGET_SECONDS
        at += rng.expovariate(1 / MEAN_PAUSE_SECONDS)
    return faults


def _occupied(target: str) -> tuple[str, ...]:
    return ("broker", "worker1", "worker2") if target == "broker" else (target,)


def _are_free(target: str, free_from: dict[str, float], at: float) -> bool:
    return all(free_from[each] <= at for each in _occupied(target))


def _shuffled_deck(rng: Random) -> list[tuple[str, str]]:
    by_name = {}
    for kind, (targets, _) in _KINDS.items():
        for target in rng.sample(targets, len(targets)):
            by_name[Fault(0, kind, target, 0).name] = (kind, target)
    deck = list(by_name.values()) + [("empty_queues", "broker")] * 3
    rng.shuffle(deck)
    return deck
