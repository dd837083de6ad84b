"""The invariants. Each function checks one step and returns the names of those that it breaks."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from domain.claim import Claim, ClaimEvent, DispatchKind, Phase
from domain.job_fsm import TRANSITIONS, JobStatus
from domain.record import Record

if TYPE_CHECKING:
    from tests.model.rules import Step, Token

NOTHING: tuple[str, ...] = ()
_TERMINAL = (JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELLED)


def of_a_post(stored: Record, token: "Token", posts: Any) -> tuple[str, ...]:
    """At most one POST can start an execution, plus one for each that was permitted.

    And no process posts a dispatch that another one holds by now.
    """
    claim = stored.claim
    late = claim is not None and claim.dispatch_id == token.dispatch_id
    return (
        *_if(posts.surplus > 1, "at most one POST can start an execution"),
        *_if(late and _token(claim) != tuple(token), "no worker posts what another holds by now"),
    )


def of_a_begin(stored: Record) -> tuple[str, ...]:
    """A cancelled job is not dispatched."""
    return _if(stored.job.status is JobStatus.CANCELLED, "a cancelled job is not begun")


def of_an_answer(
    stored: Record, token: "Token", event: ClaimEvent, step: "Step | None"
) -> tuple[str, ...]:
    """An acceptance is never ignored."""
    claim = stored.claim
    is_open = claim is not None and claim.in_flight and claim.dispatch_id == token.dispatch_id
    lost = is_open and event is ClaimEvent.ACCEPTED and step is None
    return _if(lost, "an acceptance counts under any epoch")


def of_another_try(stored: Record, token: "Token") -> tuple[str, ...]:
    """A worker that sent nothing tries again only for its own claim, and not for a cancelled job."""
    return (
        *_if(stored.job.status is JobStatus.CANCELLED, "a cancelled job is not tried again"),
        *_if(_token(stored.claim) != tuple(token), "no worker posts for another's claim"),
    )


def of_a_decision(read: Record, step: "Step") -> tuple[str, ...]:
    """Every change of state is a step of the FSM, or the first step of a retry."""
    status: JobStatus | None = read.job.status
    for before, after in step.moves:
        if before is not status or not _may_move(read, before, after):
            return ("every change of state is a step of the FSM",)
        status = after
    return NOTHING


def _may_move(read: Record, before: JobStatus | None, after: JobStatus) -> bool:
    if before is None or before is after or after in TRANSITIONS[before]:
        return True
    terms = read.latest_claim.retry if read.latest_claim else None
    may_resume = before is JobStatus.FAILED and terms is not None
    return may_resume and after in TRANSITIONS[terms.resume_from_status]


def of_an_end(stored: Record) -> tuple[str, ...]:
    """No job expires while something may still happen to it."""
    claim = stored.claim
    is_settled = claim is None or claim.phase is Phase.SENT
    awaits_resume = claim and claim.retry and not claim.resumed and not claim.is_dead
    is_over = stored.job.status in _TERMINAL and is_settled and not awaits_resume
    return _if(not is_over, "no job expires that is not at rest")


def of_a_commit(
    stored: Record, read: Record, new: Record, token: "Token | None", request: str
) -> tuple[str, ...]:
    """No process moves another's claim, nothing leaves a terminal state, and epochs only grow."""
    changes_claim = new.claim != read.claim
    not_as_read = _identity(stored.claim) != _identity(read.claim)
    is_others = token is not None and _token(stored.claim) != tuple(token)
    # Proof that a dispatch arrived counts under its id, whatever the epoch.
    if token is not None and stored.claim is not None and _becomes_sent(read, new):
        is_others = stored.claim.dispatch_id != token.dispatch_id
    return (
        *_if(changes_claim and (not_as_read or is_others), "no process moves another's claim"),
        *_if(_leaves_terminal(stored, new), "nothing leaves a terminal state"),
        *_if(_is_lower(stored, new), "epochs only grow"),
    )


def _leaves_terminal(stored: Record, new: Record) -> bool:
    before, after = stored.job.status, new.job.status
    if before is after or before not in _TERMINAL:
        return False
    resumed = new.claim is not None and new.claim.resumed
    return before is not JobStatus.FAILED or not resumed


def _is_lower(stored: Record, new: Record) -> bool:
    if new.claim is None or stored.latest_claim is None:
        return False
    again = new.claim.epoch == stored.latest_claim.epoch and stored.claim is None
    revived = again and new.claim.phase is Phase.SENT
    return new.claim.epoch < stored.latest_claim.epoch or (again and not revived)


def of_an_engines_answer(read: Record, new: Record, posts: Mapping[str, Any]) -> tuple[str, ...]:
    """A dispatch is found only if it was executed, and dead only if its own run has ended badly."""
    claim = new.claim
    concluded = claim is not None and claim.is_dead and not (read.claim and read.claim.is_dead)
    truth = posts.get(claim.dispatch_id) if claim else None
    is_found = _becomes_sent(read, new)
    return (
        *_if(concluded and not (truth and truth.ended), "no live run is called dead"),
        *_if(is_found and not (truth and truth.executed), "what is found was executed"),
    )


def of_the_posts(
    read: Record, new: Record, posts: Mapping[str, Any], request: str
) -> tuple[str, ...]:
    """The record agrees with what was posted."""
    freed = read.claim is not None and new.claim is None
    claim = read.claim if freed else new.claim
    if claim is None or claim.dispatch_id not in posts:
        begun, surplus = False, 0
    else:
        begun, surplus = posts[claim.dispatch_id].begun, posts[claim.dispatch_id].surplus
    # After a day a cancelled job's claim may be given up: nothing can start it again.
    abandoned = new.job.status is JobStatus.CANCELLED and read.job.status is JobStatus.CANCELLED
    proved = request.startswith("callback") and _becomes_sent(read, new)
    is_retry = claim is not None and claim.kind is DispatchKind.RETRY
    return (
        *_if(freed and surplus > 0 and not abandoned, "no claim is freed that may be running"),
        *_if(proved and is_retry and not begun, "no retry is proved that was not begun"),
    )


def _becomes_sent(read: Record, new: Record) -> bool:
    was = read.claim is not None and read.claim.phase is Phase.SENT
    return new.claim is not None and new.claim.phase is Phase.SENT and not was


def permitted_dispatch(read: Record, new: Record, due: bool, request: str) -> str | None:
    """The dispatch that may now be posted once more: its hold is over, or an operator has settled it.

    `due`: whether the hold was over when the request read the record.
    """
    before, after = read.claim, new.claim
    if before is None:
        return None
    if request.startswith("operator"):
        return before.dispatch_id if after is None else None
    resent = after is not None and before.phase is Phase.UNKNOWN and after.epoch > before.epoch
    asked = request.startswith(("run", "retry"))
    return before.dispatch_id if resent and asked and due else None


def _token(claim: Claim | None) -> tuple[str, int] | None:
    return (claim.dispatch_id, claim.epoch) if claim else None


def _identity(claim: Claim | None) -> tuple[str, int, Phase] | None:
    return (claim.dispatch_id, claim.epoch, claim.phase) if claim else None


def _if(broken: bool, name: str) -> tuple[str, ...]:
    return (name,) if broken else NOTHING
