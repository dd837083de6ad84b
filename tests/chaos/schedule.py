"""The schedule of the faults, decided by the seed before anything runs."""

import re
from collections import defaultdict
from dataclasses import dataclass
from random import Random

from tests.chaos.weather import COMPILER

FIRST_FAULT_SECONDS = 3.0
LAST_FAULT_SECONDS = 1.0
MEAN_PAUSE_SECONDS = 0.75
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

_LOGS = ("web1.log", "web2.log", "worker1.log", "worker2.log")
_CLOCKS = tuple(f"{name}.clock" for name in (*_PROCESSES[:5],))

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
    # A NAT or a load balancer that forgot its connections: nothing comes through them any more, and no end.
    "forget": (_LINKS, (0.5, 3.0)),
    # An HTTP proxy in the way that answers by itself.
    "gateway_page": (("clients->web1", "clients->web2", *_LINKS[-2:]), (0.3, 2.0)),
    # Who takes the log lines is gone, or does not read.
    "log_gone": (_LOGS, (0.5, 3.0)),
    "log_stall": (_LOGS, (0.5, 3.0)),
    # A process's clock is ahead or behind for a while; each is a little wrong all the time.
    "clock_ahead": (_CLOCKS, (1.0, 4.0)),
    "clock_behind": (_CLOCKS, (1.0, 4.0)),
    "later_record": (("store",), (0.0, 0.0)),
    "malformed_message": (("queues",), (0.0, 0.0)),
    "stranger": (("control",), (0.0, 0.0)),
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
        return f"{self.kind} {re.sub(r'[12](?=$|[.])', '', self.target)}"


def all_names() -> set[str]:
    """Every fault that a long enough run fires."""
    return {
        Fault(0, kind, target, 0).name
        for kind, (targets, _) in _KINDS.items()
        if COMPILER or not kind.startswith("clock")
        for target in targets
    }


def schedule(seed: int, seconds: float) -> list[Fault]:
    """The faults of a run, in order. Each target has one fault at a time; others may overlap.

    Kinds are drawn like cards, so that each comes up before any comes up again. Clocks are left alone where
    there is no C compiler.
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
    return [each for each in faults if COMPILER or not each.kind.startswith("clock")]


def _occupied(target: str) -> tuple[str, ...]:
    if target == "broker":
        return ("broker", "worker1", "worker2")
    if target == "control":
        return ("control", "redis", "worker->redis", "worker1", "worker2")
    return (target, "redis") if target in ("store", "queues") else (target,)


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
