"""How the orchestrator treats each job, post and execution: a function of the seed alone.

Jobs are identified by a number in the `video_uri`, so that one seed treats job N alike in every run.
"""

import re
from dataclasses import dataclass
from random import Random

HONOURS_KEY = "honours Idempotency-Key"
SENDS_EXECUTION_ID = "sends execution_id"

STEPS = [
    ("AUDIO_EXTRACTING", None),
    ("AUDIO_READY", "audio_uri"),
    ("TRANSCRIBING", None),
    ("TRANSCRIPT_READY", "transcript_uri"),
    ("GENERATING", None),
    ("DRAFT_READY", "draft_uri"),
]

# By how a post is answered: its weight, and whether the post is executed.
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
    # A 1xx comes before the final answer.
    "interim": (8, True),
    # A gateway times out, and forwards the request a few seconds later.
    "held": (5, False),
}
REFUSALS = (400, 404, 409, 429)
# By how a query is answered, where the engine can be queried: its weight.
QUERY_ANSWERS = {"true": 60, "slowly": 10, "reset": 10, "gateway": 10, "foreign_404": 10}
RESETS_BEFORE_READING = 0.04
# The share of executions that die after they were accepted, without another callback.
DEATHS = 0.07


@dataclass(frozen=True)
class Fate:
    """How one execution proceeds: seconds per step, and the statuses at which it fails or dies."""

    step_seconds: float
    fails_after: str | None
    dies_before: str | None
    doubles_callbacks: bool


def number_of(video_uri: str) -> int:
    """Return the job's number from its video_uri; raise ValueError if it has none."""
    found = re.search(r"/job-(\d+)\.", video_uri)
    if found is None:
        raise ValueError("not a video_uri of the harness")
    return int(found.group(1))


def video_uri(number: int) -> str:
    return f"s3://chaos/job-{number}.mp4"


def mode_of(seed: int, number: int, all_idempotent: bool) -> str:
    """Return which of its two promises the orchestrator keeps for a job."""
    if all_idempotent:
        return HONOURS_KEY
    return Random(f"{seed}:mode:{number}").choice([HONOURS_KEY, SENDS_EXECUTION_ID])


def answer_of(seed: int, number: int, dispatch_id: str, nth_post: int, mode: str) -> str:
    """Return how the nth post of a dispatch is answered: a key of ANSWERS.

    Without execution ids, no post starts two executions, since nothing would tell them apart. Nor is a retry
    executed and answered with a failure: the next retry, under another key, would look the same.
    """
    is_retry = dispatch_id.startswith("retry-")
    allowed = dict(ANSWERS)
    if mode == HONOURS_KEY:
        del allowed["fork"]
        if is_retry:
            del allowed["fail_but_execute"]
    rng = Random(f"{seed}:answer:{number}:{dispatch_id[-16:] if is_retry else 'run'}:{nth_post}")
    return rng.choices(list(allowed), [weight for weight, _ in allowed.values()])[0]


def fate_of(seed: int, number: int, is_retry: bool, nth_execution: int) -> Fate:
    """Return how a job's nth execution proceeds."""
    rng = Random(f"{seed}:fate:{number}:{is_retry}:{nth_execution}")
    fails = rng.random() < (0.3 if is_retry else 0.45)
    return Fate(
        step_seconds=rng.uniform(0.05, 0.4),
        fails_after=rng.choice(STEPS[:-1])[0] if fails else None,
        doubles_callbacks=rng.random() < 0.25,
        dies_before=rng.choice(STEPS[:5])[0] if rng.random() < DEATHS else None,
    )


def query_answer_of(seed: int, dispatch_id: str, nth_query: int) -> str:
    """Return how the nth query about a dispatch is answered: a key of QUERY_ANSWERS."""
    rng = Random(f"{seed}:ask:{dispatch_id[-16:]}:{nth_query}")
    return rng.choices(list(QUERY_ANSWERS), list(QUERY_ANSWERS.values()))[0]


def steps_from(resume_from: str | None) -> list[tuple[str, str | None]]:
    """Return the steps of a run, or those after a retry's checkpoint."""
    names = [name for name, _ in STEPS]
    first = names.index(resume_from) + 1 if resume_from in names else 0
    return STEPS[first:] or [("EDITING", None)]
