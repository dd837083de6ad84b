"""The job's states and the one gate that every change of state goes through.

The table is held to `spec/domain/job_fsm.md` by a test; change both or neither.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from domain.errors import FsmTerminalImmutable, FsmTransitionInvalid


class JobStatus(StrEnum):
    """Every state a job can be in, in the order of its life."""

    CREATED = "CREATED"
    UPLOADING = "UPLOADING"
    UPLOADED = "UPLOADED"
    AUDIO_EXTRACTING = "AUDIO_EXTRACTING"
    AUDIO_READY = "AUDIO_READY"
    TRANSCRIBING = "TRANSCRIBING"
    TRANSCRIPT_READY = "TRANSCRIPT_READY"
    GENERATING = "GENERATING"
    DRAFT_READY = "DRAFT_READY"
    EDITING = "EDITING"
    REGENERATING = "REGENERATING"
    EXPORTING = "EXPORTING"
    DONE = "DONE"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


_S = JobStatus

TERMINAL_STATUSES = frozenset({_S.DONE, _S.FAILED, _S.CANCELLED})
RUNNING_STATUSES = frozenset(
    {_S.AUDIO_EXTRACTING, _S.TRANSCRIBING, _S.GENERATING, _S.REGENERATING, _S.EXPORTING}
)

# Where the workflow works on the first draft.
DRAFTING_STATUSES = frozenset(
    {_S.AUDIO_EXTRACTING, _S.AUDIO_READY, _S.TRANSCRIBING, _S.TRANSCRIPT_READY, _S.GENERATING}
)

# Each state's own steps; FAILED and CANCELLED are added below, because they follow a rule.
_STEPS: dict[JobStatus, set[JobStatus]] = {
    _S.CREATED: {_S.UPLOADING, _S.UPLOADED},
    _S.UPLOADING: {_S.UPLOADED},
    _S.UPLOADED: {_S.AUDIO_EXTRACTING},
    _S.AUDIO_EXTRACTING: {_S.AUDIO_READY, _S.AUDIO_EXTRACTING},
    _S.AUDIO_READY: {_S.TRANSCRIBING},
    _S.TRANSCRIBING: {_S.TRANSCRIPT_READY, _S.TRANSCRIBING},
    _S.TRANSCRIPT_READY: {_S.GENERATING},
    _S.GENERATING: {_S.DRAFT_READY, _S.GENERATING},
    _S.DRAFT_READY: {_S.EDITING},
    _S.EDITING: {_S.REGENERATING, _S.EXPORTING},
    _S.REGENERATING: {_S.EDITING},
    _S.EXPORTING: {_S.DONE, _S.EDITING},
}
_CAN_FAIL = frozenset(_STEPS) - {_S.CREATED, _S.UPLOADING, _S.UPLOADED}


def _allowed_from(status: JobStatus) -> tuple[JobStatus, ...]:
    if status in TERMINAL_STATUSES:
        return ()
    targets = _STEPS[status] | {_S.CANCELLED}
    if status in _CAN_FAIL:
        targets |= {_S.FAILED}
    return tuple(candidate for candidate in JobStatus if candidate in targets)


TRANSITIONS: Mapping[JobStatus, tuple[JobStatus, ...]] = MappingProxyType(
    {status: _allowed_from(status) for status in JobStatus}
)


def ensure_transition(current: JobStatus, attempted: JobStatus) -> JobStatus:
    """Return `attempted` if a job may go there from `current`.

    Raises `FsmTerminalImmutable` if `current` is terminal and `FsmTransitionInvalid` for any other
    forbidden step.
    """
    ensure_not_terminal(current, attempted)
    allowed = TRANSITIONS[current]
    if attempted not in allowed:
        raise FsmTransitionInvalid(current, attempted, list(allowed))
    return attempted


def ensure_not_terminal(current: JobStatus, attempted: JobStatus) -> None:
    """Raise `FsmTerminalImmutable` if nothing may leave `current`."""
    if current in TERMINAL_STATUSES:
        raise FsmTerminalImmutable(current, attempted, [])
