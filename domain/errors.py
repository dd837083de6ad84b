"""Everything that a rule can answer instead of a result: one class a code, one line of meaning each.

`code` is the contract's error code and `details` what the contract shows with it. Which HTTP status
a code has is the API's business (`api/errors.py`).
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any


class TakeOneError(Exception):
    """A refusal with a code of the contract. `message` is for people and holds no caller's data."""

    code = ""
    message = ""

    def __init__(self, **details: Any) -> None:
        super().__init__(self.code)
        self.details = details


class Unauthorized(TakeOneError):
    """The caller is not known: the credentials are missing or wrong."""

    code = "UNAUTHORIZED"
    message = "Valid credentials are required."


class Forbidden(TakeOneError):
    """The caller is known, and has not the role that the route asks for."""

    code = "FORBIDDEN"

    def __init__(self, role: str) -> None:
        super().__init__()
        self.message = f"The {role} role is required."


class ResourceNotFound(TakeOneError):
    """Not there, or not the caller's: the two must be indistinguishable, so it never has details."""

    code = "RESOURCE_NOT_FOUND"
    message = "No such resource."

    def __init__(self) -> None:
        super().__init__()


class FsmTransitionInvalid(TakeOneError):
    """The job's state does not allow this step now."""

    code = "FSM_TRANSITION_INVALID"
    message = "The job's state does not allow this step."

    def __init__(self, current: str, attempted: str, allowed: Iterable[str]) -> None:
        super().__init__(
            current_status=current,
            attempted_status=attempted,
            allowed_next_statuses=list(allowed),
        )


class FsmTerminalImmutable(TakeOneError):
    """The job has ended: nothing leaves a terminal state."""

    code = "FSM_TERMINAL_IMMUTABLE"
    message = "The job has ended and does not change any more."

    def __init__(self, current: str, attempted: str) -> None:
        super().__init__(
            current_status=current, attempted_status=attempted, allowed_next_statuses=[]
        )


class VideoUriConflict(TakeOneError):
    """The upload was already confirmed with another URI."""

    code = "VIDEO_URI_CONFLICT"
    message = "The upload was already confirmed with another video_uri."

    def __init__(self, current: str, submitted: str) -> None:
        super().__init__(current_video_uri=current, submitted_video_uri=submitted)


class RetryNotAllowedState(TakeOneError):
    """Only a failed job can be retried, and not without end."""

    code = "RETRY_NOT_ALLOWED_STATE"
    message = "Only a failed job can be retried."

    def __init__(self, current: str, attempted: str, message: str | None = None) -> None:
        super().__init__(current_status=current, attempted_status=attempted)
        self.message = message or self.message


class JobAlreadyRunning(TakeOneError):
    """The job is being worked on, or a dispatch of it is in flight."""

    code = "JOB_ALREADY_RUNNING"
    message = "The job is already running."

    def __init__(self, current: str) -> None:
        super().__init__(current_status=current)


class CannotBeAsked(TakeOneError):
    """No engine can be asked about this job's dispatch: none can be, or a worker holds it, or there is none."""

    code = "CANNOT_BE_ASKED"
    message = "There is no dispatch that the orchestrator can be asked about."


class NothingToSettle(TakeOneError):
    """The job's dispatch is not an operator's to settle so, or not any more."""

    code = "NOTHING_TO_SETTLE"
    message = "There is nothing to settle."


class ClientRequestMismatch(TakeOneError):
    """The same client_request_id came with another body."""

    code = "CLIENT_REQUEST_MISMATCH"
    message = "This client_request_id was already used with another body."


class IdempotencyKeyMismatch(TakeOneError):
    """The same Idempotency-Key came with another body, or made a record that is gone by now."""

    code = "IDEMPOTENCY_KEY_MISMATCH"
    message = "This Idempotency-Key was used with another body, or for what was deleted since."


class NotTerminal(TakeOneError):
    """Only a job that has ended can be deleted."""

    code = "NOT_TERMINAL"
    message = "The job has not ended."

    def __init__(self, current: str) -> None:
        super().__init__(current_status=current)


class EventIdPayloadMismatch(TakeOneError):
    """The same event_id came with another payload."""

    code = "EVENT_ID_PAYLOAD_MISMATCH"
    message = "This event_id was already used with another payload."

    def __init__(self, event_id: str) -> None:
        super().__init__(event_id=event_id)


class ManifestFull(TakeOneError):
    """The artifacts would grow past what a job may hold. `bound` is "bytes", "keys" or "exports"."""

    code = "MANIFEST_FULL"
    message = "The job's manifest is full."

    def __init__(self, bound: str, most: int) -> None:
        super().__init__(bound=bound, most=most)


class CallbackOutOfOrder(TakeOneError):
    """A later callback has already been applied."""

    code = "CALLBACK_OUT_OF_ORDER"
    message = "A later callback was already applied."

    def __init__(self, latest: datetime, current: str, attempted: str) -> None:
        super().__init__(
            latest_applied_occurred_at=latest, current_status=current, attempted_status=attempted
        )


class ExecutionSuperseded(TakeOneError):
    """Another execution of this dispatch came first and is the one that counts: stop."""

    code = "EXECUTION_SUPERSEDED"
    message = "Another execution of this dispatch was first; stop this one."

    def __init__(self, kept_execution_id: str | None) -> None:
        super().__init__(execution_id=kept_execution_id)


class OrchestratorDispatchFailed(TakeOneError):
    """The orchestrator did not accept the dispatch, or it is not known whether it did.

    `retry_after` is whole seconds until another try makes sense.
    """

    code = "ORCHESTRATOR_DISPATCH_FAILED"
    message = "The workflow could not be started."

    def __init__(self, reason: str, retry_after: int = 1, message: str | None = None) -> None:
        super().__init__(reason=reason)
        self.retry_after = retry_after
        self.message = message or self.message


class ServiceUnavailable(TakeOneError):
    """A part that the service cannot do without does not answer. `retry_after` in seconds."""

    code = "SERVICE_UNAVAILABLE"
    message = "The service cannot serve this right now."

    def __init__(self, retry_after: int = 1) -> None:
        super().__init__()
        self.retry_after = retry_after


class RateLimited(TakeOneError):
    """The caller's own limit is used up. `retry_after` in seconds."""

    code = "RATE_LIMITED"
    message = "Too many requests."

    def __init__(self, retry_after: int = 1) -> None:
        super().__init__()
        self.retry_after = retry_after
