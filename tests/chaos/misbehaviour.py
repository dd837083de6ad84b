"""How the orchestrator treats each job, each post and each execution: decided by the seed alone.

Jobs are known by their number, which the harness puts into the `video_uri`, so that the same seed
treats the same job alike in every run.
"""

import re
from dataclasses import dataclass
from random import Random

DEDUPLICATES = "honours Idempotency-Key"
NAMES_EXECUTIONS = "sends execution_id"

STEPS = [
    ("AUDIO_EXTRACTING", None),
    ("AUDIO_READY", "audio_uri"),
    ("TRANSCRIBING", None),
    ("TRANSCRIPT_READY", "transcript_uri"),
    ("GENERATING", None),
    ("DRAFT_READY", "draft_uri"),
]

# How a post is answered, how often, and whether it is executed. See `orchestrator.answer`.
ANSWERS = {
    "accept": (30, True),
    "accept_slowly": (8, True),
    "call_back_first": (8, True),
    "fork": (8, True),
    "refuse": (8, False),
    "fail": (4, False),
    "fail_but_execute": (4, True),
    "reset": (4, False),
    "reset_but_execute": (4, True),
    "hang": (3, False),
    "hang_but_execute": (3, True),
    "gateway_timeout": (3, False),
    "gateway_timeout_but_execute": (3, True),
    "break_off": (3, True),
    # A 1xx is no answer yet.
    "interim": (8, True),
    # A gateway gives up on the engine, and hands the request on a few seconds later.
    "held": (5, False),
}
REFUSALS = (400, 404, 409, 429)
# How an engine that can be asked answers a question, and how often.
ASKS = {"true": 60, "slowly": 10, "reset": 10, "gateway": 10, "foreign_404": 10}
RESETS_BEFORE_READING = 0.04
# How many executions die after they were accepted, and report nothing more.
DEATHS = 0.07


@dataclass(frozen=True)
class Fate:
    """What becomes of one execution."""

    step_seconds: float
    fails_after: str | None
    dies_before: str | None
    doubles_callbacks: bool


def number_of(video_uri: str) -> int:
    """The job's number, out of its video_uri."""
    found = re.search(r"/job-(\d+)\.", video_uri)
    if found is None:
        raise ValueError("not a video_uri of the harness")
    return int(found.group(1))


def video_uri(number: int) -> str:
    """The video_uri that tells a job's number."""
    return f"s3://chaos/job-{number}.mp4"


def mode_of(seed: int, number: int, all_deduplicate: bool) -> str:
    """Which promise the orchestrator keeps for a job."""
    if all_deduplicate:
        return DEDUPLICATES
    return Random(f"{seed}:mode:{number}").choice([DEDUPLICATES, NAMES_EXECUTIONS])


def answer_of(seed: int, number: int, dispatch_id: str, nth_post: int, mode: str) -> str:
    """How the nth post of a dispatch is answered.

    Where executions have no names, one webhook is never forked: nothing could tell the two apart.
    And a retry is not both executed and called failed: its follower, under another
    client_request_id and so another key, could not be told from it either.
    """
    is_retry = dispatch_id.startswith("retry-")
    allowed = dict(ANSWERS)
    if mode == DEDUPLICATES:
        del allowed["fork"]
        if is_retry:
            del allowed["fail_but_execute"]
    rng = Random(f"{seed}:answer:{number}:{dispatch_id[-16:] if is_retry else 'run'}:{nth_post}")
    return rng.choices(list(allowed), [weight for weight, _ in allowed.values()])[0]


def fate_of(seed: int, number: int, is_retry: bool, nth_execution: int) -> Fate:
    """What becomes of a job's nth execution."""
    rng = Random(f"{seed}:fate:{number}:{is_retry}:{nth_execution}")
    fails = rng.random() < (0.3 if is_retry else 0.45)
    return Fate(
        step_seconds=rng.uniform(0.05, 0.4),
        fails_after=rng.choice(STEPS[:-1])[0] if fails else None,
        doubles_callbacks=rng.random() < 0.25,
        dies_before=rng.choice(STEPS[:5])[0] if rng.random() < DEATHS else None,
    )


def ask_of(seed: int, dispatch_id: str, nth_ask: int) -> str:
    """How the nth question about a dispatch is answered."""
    rng = Random(f"{seed}:ask:{dispatch_id[-16:]}:{nth_ask}")
    return rng.choices(list(ASKS), list(ASKS.values()))[0]


def steps_from(resume_from: str | None) -> list[tuple[str, str | None]]:
    """The steps of a run, or those after a retry's checkpoint."""
    names = [name for name, _ in STEPS]
    first = names.index(resume_from) + 1 if resume_from in names else 0
    return STEPS[first:] or [("EDITING", None)]
