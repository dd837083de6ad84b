"""The job's states, and the check that every change of state passes.

A test compares the table with `spec/domain/job_fsm.md`: change both.
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

# The workflow works on the first draft.
DRAFTING_STATUSES = frozenset(
    {_S.AUDIO_EXTRACTING, _S.AUDIO_READY, _S.TRANSCRIBING, _S.TRANSCRIPT_READY, _S.GENERATING}
)

# Each state's own steps. FAILED and CANCELLED are added below, because they follow a rule.
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


def _allowed_from(status: JobStatus) -> tuple[JobStatus, ...]:
    if status in TERMINAL_STATUSES:
        return ()
    targets = _STEPS[status] | {_S.CANCELLED}
    if status not in (_S.CREATED, _S.UPLOADING, _S.UPLOADED):
        targets |= {_S.FAILED}
    return tuple(target for target in JobStatus if target in targets)


TRANSITIONS: Mapping[JobStatus, tuple[JobStatus, ...]] = MappingProxyType(
    {status: _allowed_from(status) for status in JobStatus}
)


def ensure_transition(current: JobStatus, attempted: JobStatus) -> None:
    """Raise `forbidden_step` unless a job may go from `current` to `attempted`."""
    if attempted not in TRANSITIONS[current]:
        raise forbidden_step(current, attempted)


def forbidden_step(
    current: JobStatus, attempted: JobStatus
) -> FsmTerminalImmutable | FsmTransitionInvalid:
    """The error for a step that is not allowed: `FsmTerminalImmutable` if `current` is terminal."""
    kind = FsmTerminalImmutable if current in TERMINAL_STATUSES else FsmTransitionInvalid
    return kind(current, attempted, list(TRANSITIONS[current]))
