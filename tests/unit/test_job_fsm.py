"""The states: every pair of them, compared with the contract's table (spec/domain/job_fsm.md)."""

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
ROWS = re.findall(r"^\| ([A-Z_]+) \| ([A-Z_, ]+|—) \|$", SPEC.read_text(), re.MULTILINE)
CONTRACT = {status: () if steps == "—" else tuple(steps.split(", ")) for status, steps in ROWS}
PAIRS = list(itertools.product(JobStatus, JobStatus))


def test_the_states_are_those_of_the_contract_in_their_order() -> None:
    assert list(JobStatus) == list(CONTRACT)
    assert {"DONE", "FAILED", "CANCELLED"} == TERMINAL_STATUSES
    running = {"AUDIO_EXTRACTING", "TRANSCRIBING", "GENERATING", "REGENERATING", "EXPORTING"}
    assert running == RUNNING_STATUSES


def test_the_specification_has_the_same_table() -> None:
    assert dict(TRANSITIONS) == CONTRACT


@pytest.mark.parametrize(("current", "attempted"), PAIRS)
def test_a_step_is_allowed_exactly_where_the_contract_has_it(
    current: JobStatus, attempted: JobStatus
) -> None:
    allowed = CONTRACT[current]
    if attempted in allowed:
        ensure_transition(current, attempted)
        return
    kind = FsmTerminalImmutable if current in TERMINAL_STATUSES else FsmTransitionInvalid
    with pytest.raises(kind) as refused:
        ensure_transition(current, attempted)
    assert refused.value.details == {
        "current_status": current,
        "attempted_status": attempted,
        "allowed_next_statuses": list(allowed),
    }
