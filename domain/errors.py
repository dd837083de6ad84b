"""The errors of the contract, one class for each code. `api/errors.py` has their HTTP status."""

from typing import Any


class TakeOneError(Exception):
    """An error with the contract's `code` and `details`. `message` is for people and has no caller's data.

    `shows` names the positional arguments, which become `details`. `retry_after`: whole seconds, or None.
    """

    code = ""
    message = ""
    shows: tuple[str, ...] = ()
    retry_after: int | None = None

    # `self` is positional-only because a caller's field may have that name.
    def __init__(self, /, *details: Any, **more: Any) -> None:
        super().__init__(self.code)
        self.details = dict(zip(self.shows, details, strict=True)) | more


class Unauthorized(TakeOneError):
    code = "UNAUTHORIZED"
    message = "Valid credentials are required."


class Forbidden(TakeOneError):
    """The caller is known, and may not do this. `message` says why."""

    code = "FORBIDDEN"

    def __init__(self, message: str) -> None:
        super().__init__()
        self.message = message


# The message while nothing may be created for a user, or in a project.
BEING_ERASED = "An erasure is under way; nothing can be created until it has ended."


class ResourceNotFound(TakeOneError):
    """It does not exist, or is not the caller's: the two must look the same, so there are no details."""

    code = "RESOURCE_NOT_FOUND"
    message = "No such resource."


class FsmTransitionInvalid(TakeOneError):
    code = "FSM_TRANSITION_INVALID"
    message = "The job's state does not allow this step."
    shows = ("current_status", "attempted_status", "allowed_next_statuses")


class FsmTerminalImmutable(TakeOneError):
    code = "FSM_TERMINAL_IMMUTABLE"
    message = "The job has ended, and this step is not possible any more."
    shows = FsmTransitionInvalid.shows


class VideoUriConflict(TakeOneError):
    code = "VIDEO_URI_CONFLICT"
    message = "The upload was already confirmed with another video_uri."
    shows = ("current_video_uri", "submitted_video_uri")


class RetryNotAllowedState(TakeOneError):
    code = "RETRY_NOT_ALLOWED_STATE"
    message = "Only a failed job can be retried."
    shows = ("current_status", "attempted_status")


class RetriedTooOften(RetryNotAllowedState):
    message = "This job has been retried as often as it may be."


class JobAlreadyRunning(TakeOneError):
    code = "JOB_ALREADY_RUNNING"
    message = "The job is already running."
    shows = ("current_status",)


class CannotBeAsked(TakeOneError):
    """There is no dispatch, a worker holds it, or its engine cannot be asked."""

    code = "CANNOT_BE_ASKED"
    message = "There is no dispatch that the orchestrator can be asked about."


class NothingToSettle(TakeOneError):
    code = "NOTHING_TO_SETTLE"
    message = "There is nothing to settle."


class ClientRequestMismatch(TakeOneError):
    code = "CLIENT_REQUEST_MISMATCH"
    message = "This client_request_id was already used with another body."


class IdempotencyKeyMismatch(TakeOneError):
    code = "IDEMPOTENCY_KEY_MISMATCH"
    message = "This Idempotency-Key was used with another body, or for what was deleted since."


class NotTerminal(TakeOneError):
    code = "NOT_TERMINAL"
    message = "The job has not ended."
    shows = ("current_status",)


class EventIdPayloadMismatch(TakeOneError):
    code = "EVENT_ID_PAYLOAD_MISMATCH"
    message = "This event_id was already used with another payload."
    shows = ("event_id",)


class ManifestFull(TakeOneError):
    """The artifacts would grow past a limit: `bound` is "bytes", "keys" or "exports"."""

    code = "MANIFEST_FULL"
    message = "The job's manifest is full."
    shows = ("bound", "most")


class CallbackOutOfOrder(TakeOneError):
    code = "CALLBACK_OUT_OF_ORDER"
    message = "A later callback was already applied."
    shows = ("latest_applied_occurred_at", "current_status", "attempted_status")


class ExecutionSuperseded(TakeOneError):
    code = "EXECUTION_SUPERSEDED"
    message = "Another execution of this dispatch was first; stop this one."
    shows = ("execution_id",)


class OrchestratorDispatchFailed(TakeOneError):
    code = "ORCHESTRATOR_DISPATCH_FAILED"
    message = "The workflow could not be started."
    shows = ("reason",)

    def __init__(self, reason: str, retry_after: int = 1, message: str | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.message = message or self.message


class ServiceUnavailable(TakeOneError):
    code = "SERVICE_UNAVAILABLE"
    message = "The service cannot serve this right now."
    retry_after = 1


class RateLimited(TakeOneError):
    code = "RATE_LIMITED"
    message = "Too many requests."

    def __init__(self, retry_after: int) -> None:
        super().__init__()
        self.retry_after = retry_after
