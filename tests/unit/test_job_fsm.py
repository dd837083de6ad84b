"""The states: every pair of them, compared with the contract's table."""

import itertools
import re
from pathlib import Path

import pytest

from domain.errors import FsmTerminalImmutable, FsmTransitionInvalid
from domain.job_fsm import (
    RUNNING_STATUSES,
    TERMINAL_STATUSES,
    TRANSITIONS,
    JobStatus,
    ensure_transition,
)

SPEC = Path(__file__).parents[2] / "spec" / "domain" / "job_fsm.md"
OWN_STEPS = """
CREATED -> UPLOADING UPLOADED
UPLOADING -> UPLOADED
UPLOADED -> AUDIO_EXTRACTING
AUDIO_EXTRACTING -> AUDIO_READY AUDIO_EXTRACTING
AUDIO_READY -> TRANSCRIBING
TRANSCRIBING -> TRANSCRIPT_READY TRANSCRIBING
TRANSCRIPT_READY -> GENERATING
GENERATING -> DRAFT_READY GENERATING
DRAFT_READY -> EDITING
EDITING -> REGENERATING EXPORTING
REGENERATING -> EDITING
EXPORTING -> DONE EDITING
"""
CONTRACT = {
    words[0]: {*words[2:], "CANCELLED"} for words in map(str.split, OWN_STEPS.strip().splitlines())
}
for _status in list(CONTRACT)[list(CONTRACT).index("AUDIO_EXTRACTING") :]:
    CONTRACT[_status].add("FAILED")
PAIRS = list(itertools.product(JobStatus, JobStatus))


def test_the_states_are_in_the_order_of_a_jobs_life() -> None:
    assert list(JobStatus) == [*CONTRACT, "DONE", "FAILED", "CANCELLED"]
    assert {"DONE", "FAILED", "CANCELLED"} == TERMINAL_STATUSES
    running = {"AUDIO_EXTRACTING", "TRANSCRIBING", "GENERATING", "REGENERATING", "EXPORTING"}
    assert running == RUNNING_STATUSES


@pytest.mark.parametrize(("current", "attempted"), PAIRS)
def test_a_step_is_allowed_exactly_where_the_contract_has_it(
    current: JobStatus, attempted: JobStatus
) -> None:
    allowed = CONTRACT.get(current, set())
    if attempted in allowed:
        ensure_transition(current, attempted)
        return
    kind = FsmTerminalImmutable if current in TERMINAL_STATUSES else FsmTransitionInvalid
    with pytest.raises(kind) as refused:
        ensure_transition(current, attempted)
    assert refused.value.details == {
        "current_status": current,
        "attempted_status": attempted,
        "allowed_next_statuses": [status for status in JobStatus if status in allowed],
    }


def test_the_specification_has_the_same_table() -> None:
    rows = re.findall(r"^\| ([A-Z_]+) \| ([A-Z_, ]+|—) \|$", SPEC.read_text(), re.MULTILINE)
    written = {name: () if to == "—" else tuple(to.split(", ")) for name, to in rows}
    assert written == {status.value: tuple(TRANSITIONS[status]) for status in JobStatus}
