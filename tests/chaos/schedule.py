"""The schedule of faults, derived from the seed before anything runs."""

import re
from collections import defaultdict
from dataclasses import dataclass
from random import Random

from tests.chaos.logs_and_clocks import COMPILER

FIRST_FAULT_SECONDS = 3.0
LAST_FAULT_SECONDS = 1.0
# Uniform, not exponential: a minute must have enough faults under every seed.
LONGEST_PAUSE_SECONDS = 1.5
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

# By kind of fault: its targets, and the range of its duration in seconds.
_KINDS = {
    "kill": (_PROCESSES, (0.2, 1.5)),
    "kill_child": (("web1", "web2"), (0.0, 0.0)),
    "stop": (_PROCESSES, (0.3, 2.5)),
    # Longer than both leases: of a claim, and of a worker that is sending.
    "stop_past_lease": (("worker1", "worker2"), (7.8, 8.8)),
    "cut": (_LINKS, (0.0, 0.0)),
    "refuse": (_LINKS, (0.3, 2.0)),
    "hang": (_LINKS, (0.3, 3.0)),
    "lose_answers": (_LINKS, (0.1, 0.8)),
    # As when a NAT or load balancer drops its connection table: no data, and no FIN or RST.
    "forget": (_LINKS, (0.5, 3.0)),
    # An HTTP proxy in between answers with its own error page.
    "gateway_page": (("clients->web1", "clients->web2", *_LINKS[-2:]), (0.3, 2.0)),
    # The reader of the log pipe closes it, or stops reading.
    "log_gone": (_LOGS, (0.5, 3.0)),
    "log_stall": (_LOGS, (0.5, 3.0)),
    # A process's clock jumps for a while, in addition to its constant offset.
    "clock_ahead": (_CLOCKS, (1.0, 4.0)),
    "clock_behind": (_CLOCKS, (1.0, 4.0)),
    "later_record": (("store",), (0.0, 0.0)),
    "malformed_message": (("queues",), (0.0, 0.0)),
    "remote_control": (("control",), (0.0, 0.0)),
    # The workers are stopped first, so that the queues have messages.
    "empty_queues": (("broker",), (0.4, 1.0)),
}


@dataclass(frozen=True)
class Fault:
    """One fault: begins `at` seconds after the start of the run, and lasts for `lasts` seconds."""

    at: float
    kind: str
    target: str
    lasts: float

    @property
    def name(self) -> str:
        """Kind and target; web1 and web2 count as one target."""
        return f"{self.kind} {re.sub(r'[12](?=$|[.])', '', self.target)}"


def all_names() -> set[str]:
    """Return the name of every fault that a long enough run fires."""
    return {
        Fault(0, kind, target, 0).name
        for kind, (targets, _) in _KINDS.items()
        if COMPILER or not kind.startswith("clock")
        for target in targets
    }


def schedule(seed: int, seconds: float) -> list[Fault]:
    """Return the faults of a run, in order. A target has one fault at a time; different targets may overlap.

    Kinds are drawn like cards from a deck, so that each occurs before any repeats. Without a C compiler,
    clock faults are left out.
    """
    rng, faults, deck = Random(f"{seed}:faults"), list[Fault](), list[tuple[str, str]]()
    free_from: defaultdict[str, float] = defaultdict(float)
    at = FIRST_FAULT_SECONDS
    while at < seconds - LAST_FAULT_SECONDS:
        deck = deck or _shuffled_deck(rng)
        # What the first card needs is kept for it: some need several targets, free at the same time.
        first = set(_occupied(deck[0][1]))
        cards = [card for card in deck if card == deck[0] or first.isdisjoint(_occupied(card[1]))]
        card = next((card for card in cards if _are_free(card[1], free_from, at)), None)
        if card is not None:
            deck.remove(card)
            kind, target = card
            lasts = min(rng.uniform(*_KINDS[kind][1]), seconds - at)
            faults.append(Fault(round(at, 3), kind, target, round(lasts, 3)))
            for name in _occupied(target):
                free_from[name] = at + lasts + PAUSE_OF_A_TARGET_SECONDS
        at += rng.uniform(0, LONGEST_PAUSE_SECONDS)
    return [fault for fault in faults if COMPILER or not fault.kind.startswith("clock")]


def _occupied(target: str) -> tuple[str, ...]:
    if target == "broker":
        return ("broker", "worker1", "worker2")
    if target == "control":
        return ("control", "redis", "worker->redis", "worker1", "worker2")
    return (target, "redis") if target in ("store", "queues") else (target,)


def _are_free(target: str, free_from: dict[str, float], at: float) -> bool:
    return all(free_from[name] <= at for name in _occupied(target))


def _shuffled_deck(rng: Random) -> list[tuple[str, str]]:
    by_name = {}
    for kind, (targets, _) in _KINDS.items():
        for target in rng.sample(targets, len(targets)):
            by_name[Fault(0, kind, target, 0).name] = (kind, target)
    deck = list(by_name.values()) + [("empty_queues", "broker")] * 3
    rng.shuffle(deck)
    return deck
