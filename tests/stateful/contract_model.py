"""A model of one job, written from the contract and not from the code.

Each method returns the answer that the contract requires, and updates the model accordingly. The model's
orchestrator answers every dispatch before the call that made it returns, and an unknown outcome is held
forever, so that nothing depends on time.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Concatenate, ParamSpec

P = ParamSpec("P")

STEPS = {
    "CREATED": ["UPLOADING", "UPLOADED", "CANCELLED"],
    "UPLOADING": ["UPLOADED", "CANCELLED"],
    "UPLOADED": ["AUDIO_EXTRACTING", "CANCELLED"],
    "AUDIO_EXTRACTING": ["AUDIO_EXTRACTING", "AUDIO_READY", "FAILED", "CANCELLED"],
    "AUDIO_READY": ["TRANSCRIBING", "FAILED", "CANCELLED"],
    "TRANSCRIBING": ["TRANSCRIBING", "TRANSCRIPT_READY", "FAILED", "CANCELLED"],
    "TRANSCRIPT_READY": ["GENERATING", "FAILED", "CANCELLED"],
    "GENERATING": ["GENERATING", "DRAFT_READY", "FAILED", "CANCELLED"],
    "DRAFT_READY": ["EDITING", "FAILED", "CANCELLED"],
    "EDITING": ["REGENERATING", "EXPORTING", "FAILED", "CANCELLED"],
    "REGENERATING": ["EDITING", "FAILED", "CANCELLED"],
    "EXPORTING": ["EDITING", "DONE", "FAILED", "CANCELLED"],
    "DONE": [],
    "FAILED": [],
    "CANCELLED": [],
}
RUNNING = {"AUDIO_EXTRACTING", "TRANSCRIBING", "GENERATING", "REGENERATING", "EXPORTING"}
CHECKPOINTS = [
    ("draft_uri", "DRAFT_READY"),
    ("transcript_uri", "TRANSCRIPT_READY"),
    ("audio_uri", "AUDIO_READY"),
    ("video_uri", "UPLOADED"),
]
# By the orchestrator's behaviour: whether it receives the dispatch, the claim's phase, the trail's event, the
# reason in the answer.
ACCEPTED = (True, "SENT", "accepted", None)
REFUSED = (True, "RELEASED", "refused", "refused")
UNKNOWN = (True, "UNKNOWN", "unknown", "outcome_unknown")
OUTCOMES = {
    "accepts": ACCEPTED,
    "refuses": REFUSED,
    "is_silent": UNKNOWN,
    # Interim responses change nothing.
    "hints_and_accepts": ACCEPTED,
    "hints_and_refuses": REFUSED,
    "hints_and_is_silent": UNKNOWN,
    "is_down": (False, "RELEASED", "not_started", "not_started"),
    # Its answer is lost; a query finds the dispatch.
    "is_lost": (True, "SENT", "found", None),
}


@dataclass
class Answer:
    """An expected status and body fields; an error's body is compared as a whole."""

    status: int
    body: dict[str, Any] = field(default_factory=dict)


@dataclass
class Dispatch:
    """One dispatch of the job."""

    name: str  # "run", or "retry" and the client's request id
    phase: str
    reason: str | None = None
    execution_id: str | None = None
    superseded: set[str] = field(default_factory=set)
    terms: dict[str, str] = field(default_factory=dict)
    resumed: bool = False
    epoch: int = 0
    is_sent: bool = True

    @property
    def awaits_resume(self) -> bool:
        return self.name != "run" and not self.resumed


def error(status: int, code: str, **details: Any) -> Answer:
    return Answer(status, {"code": code, **({"details": details} if details else {})})


def forbidden(current: str, attempted: str) -> Answer:
    code = "FSM_TRANSITION_INVALID" if STEPS[current] else "FSM_TERMINAL_IMMUTABLE"
    return error(
        409,
        code,
        current_status=current,
        attempted_status=attempted,
        allowed_next_statuses=STEPS[current],
    )


def _undated(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "occurred_at"}


def unless_deleted(
    call: Callable[Concatenate["JobModel", P], Answer],
) -> Callable[Concatenate["JobModel", P], Answer]:
    """Answer 404, and change nothing, once the job was deleted."""

    @wraps(call)
    def answered(model: "JobModel", *arguments: P.args, **options: P.kwargs) -> Answer:
        if model.is_deleted:
            return error(404, "RESOURCE_NOT_FOUND")
        return call(model, *arguments, **options)

    return answered


class JobModel:
    """One job; `queryable` tells whether the orchestrator can be queried for a dispatch."""

    def __init__(
        self, job_id: str, fields: dict[str, Any] | None = None, queryable: bool = False
    ) -> None:
        self.id, self.queryable = job_id, queryable
        self.is_deleted = False
        self.fields = {"name": None, "metadata": {}} | (fields or {})
        self.status = "CREATED"
        self.manifest: dict[str, Any] = dict.fromkeys(
            ("video_uri", "audio_uri", "transcript_uri", "draft_uri")
        )
        self.manifest["exports"] = []
        self.failure: dict[str, Any] | None = None
        self.dispatch: Dispatch | None = None
        self.active: dict[str, Dispatch] = {}  # by name; includes those that a retry has followed
        self.events: dict[str, tuple[dict[str, Any], str]] = {}  # payload and dispatch
        self.latest_occurred_at: str | None = None
        self.posts = 0
        self.epochs = 0
        self.arrived: set[str] = set()  # the dispatches that a query to the orchestrator finds
        self.trail: list[tuple[str, str | None, str]] = [("job.created", None, "CREATED")]

    def record_event(self, event_type: str) -> None:
        self.trail.append((event_type, self.status, self.status))

    def move(self, status: str, event_type: str = "job.status_changed") -> None:
        self.trail.append((event_type, self.status, status))
        self.status = status

    @unless_deleted
    def confirm(self, uri: str) -> Answer:
        current = self.manifest["video_uri"]
        if current == uri:
            return Answer(200, {"replayed": True})
        if current is not None:
            return error(
                409, "VIDEO_URI_CONFLICT", current_video_uri=current, submitted_video_uri=uri
            )
        if "UPLOADED" not in STEPS[self.status]:
            return forbidden(self.status, "UPLOADED")
        self.move("UPLOADED", "job.upload_confirmed")
        self.manifest["video_uri"] = uri
        return Answer(200, {"replayed": False})

    @unless_deleted
    def cancel(self) -> Answer:
        if "CANCELLED" not in STEPS[self.status]:
            return forbidden(self.status, "CANCELLED")
        self.move("CANCELLED", "job.cancelled")
        return Answer(200, {"status": "CANCELLED"})

    @unless_deleted
    def fail(self, reason: str) -> Answer:
        """Fail the job as an operator."""
        if "FAILED" not in STEPS[self.status]:
            return forbidden(self.status, "FAILED")
        self.move("FAILED")
        self.failure = {"code": "FAILED_BY_OPERATOR", "message": reason, "stage": None}
        return Answer(200, {"status": "FAILED"})

    @unless_deleted
    def ask(self, orchestrator: str) -> Answer:
        """Query the orchestrator as an operator; it reports success for each dispatch that it has."""
        dispatch = self.dispatch
        if (
            not self.queryable
            or dispatch is None
            or dispatch.phase == "RELEASED"
            or not dispatch.is_sent
        ):
            return error(409, "CANNOT_BE_ASKED")
        if orchestrator == "is_down" or dispatch.name not in self.arrived:
            return error(502, "ORCHESTRATOR_DISPATCH_FAILED", reason="no_answer")
        return Answer(200, {"state": "succeeded"})

    @unless_deleted
    def settle(self, settlement: str) -> Answer:
        """Settle the dispatch as an operator."""
        dispatch = self.dispatch
        if dispatch is None or not self._can_settle(dispatch, settlement):
            return error(409, "NOTHING_TO_SETTLE")
        if settlement == "release":
            self.record_event("dispatch.released")
            dispatch.phase, dispatch.reason = "RELEASED", "settled_release"
            del self.active[dispatch.name]
        else:
            self.record_event("dispatch.settled")
            dispatch.phase, dispatch.reason = "SENT", "settled_sent"
            if dispatch.name == "run" and self.status == "UPLOADED":
                self.move("AUDIO_EXTRACTING")
        return Answer(200, {"status": self.status})

    def _can_settle(self, dispatch: Dispatch, settlement: str) -> bool:
        if dispatch.phase != "SENT":
            return dispatch.phase == "UNKNOWN"
        return settlement == "release" and dispatch.awaits_resume and self.status == "FAILED"

    @property
    def is_failed(self) -> bool:
        return self.status == "FAILED" and not self.is_deleted

    def retry_by_operator(self, orchestrator: str) -> tuple[str, str | None] | None:
        """Return a bulk retry's outcome for the job and its error code; None if the job has not failed."""
        if not self.is_failed:
            return None
        sent = [dispatch for dispatch in self.active.values() if dispatch.phase == "SENT"]
        epoch = max((dispatch.epoch for dispatch in sent if not dispatch.awaits_resume), default=0)
        name = f"operator-{self.id}-{epoch}"
        known = self.active.get(name)
        if self.queryable and known is not None and known.phase == "UNKNOWN":
            return "joined", None
        answer = self.retry(name, "standard", orchestrator)
        if answer.status == 200:
            return "replayed", None
        is_refused = known is not None or answer.status == 409
        return ("refused", answer.body["code"]) if is_refused else ("started", None)

    @unless_deleted
    def edit(self, fields: dict[str, Any]) -> Answer:
        self.fields |= fields
        return Answer(200, {"status": self.status, **self.fields})

    @unless_deleted
    def delete(self) -> Answer:
        if STEPS[self.status]:
            return error(409, "NOT_TERMINAL", current_status=self.status)
        if self._is_pending:
            return error(409, "JOB_ALREADY_RUNNING", current_status=self.status)
        self.is_deleted = True
        return Answer(204)

    @property
    def _is_pending(self) -> bool:
        dispatch = self.dispatch
        if dispatch is None or dispatch.phase == "RELEASED":
            return False
        return dispatch.phase == "UNKNOWN" or dispatch.awaits_resume

    @unless_deleted
    def run(self, orchestrator: str) -> Answer:
        if not STEPS[self.status]:
            return forbidden(self.status, "AUDIO_EXTRACTING")
        if "run" in self.active:
            return self._replay(self.active["run"])
        if self.status != "UPLOADED" or self.manifest["video_uri"] is None:
            return forbidden(self.status, "AUDIO_EXTRACTING")
        return self._dispatch(Dispatch("run", "CLAIMED"), orchestrator)

    @unless_deleted
    def retry(self, request_id: str, profile: str, orchestrator: str) -> Answer:
        known = self.active.get(request_id)
        if known is not None:
            if known.terms["model_profile"] != profile:
                return error(409, "CLIENT_REQUEST_MISMATCH")
            return self._replay(known)
        if self.status in RUNNING or self._is_pending:
            return error(409, "JOB_ALREADY_RUNNING", current_status=self.status)
        artifacts = [(key, status) for key, status in CHECKPOINTS if self.manifest[key]]
        if self.status != "FAILED" or not artifacts:
            return error(
                409,
                "RETRY_NOT_ALLOWED_STATE",
                current_status=self.status,
                attempted_status="REGENERATING",
            )
        key, resume = artifacts[0]
        terms = {
            "resume_from_status": resume,
            "checkpoint_ref": self.manifest[key],
            "model_profile": profile,
        }
        return self._dispatch(Dispatch(request_id, "CLAIMED", terms=terms), orchestrator)

    def _replay(self, dispatch: Dispatch) -> Answer:
        if dispatch.phase == "UNKNOWN":
            return error(502, "ORCHESTRATOR_DISPATCH_FAILED", reason="outcome_unknown")
        return Answer(200, {"replayed": True, "status": self.status, **dispatch.terms})

    def _dispatch(self, dispatch: Dispatch, orchestrator: str) -> Answer:
        if orchestrator in ("accepts", "hints_and_accepts", "is_lost"):
            self.arrived.add(dispatch.name)
        if self.queryable and OUTCOMES[orchestrator] is UNKNOWN and dispatch.name in self.arrived:
            orchestrator = (
                "is_lost"  # a query finds an earlier send, which an operator has released
            )
        received, phase, event, reason = OUTCOMES[orchestrator]
        self.epochs += 1
        dispatch.epoch = self.epochs
        for name in ("claimed", "sent", event):
            self.record_event(f"dispatch.{name}")
        self.posts += received
        dispatch.phase, dispatch.reason = phase, reason
        self.dispatch = dispatch
        if phase != "RELEASED":
            self.active[dispatch.name] = dispatch
        if phase != "SENT":
            return error(502, "ORCHESTRATOR_DISPATCH_FAILED", reason=reason)
        if dispatch.name == "run":
            self.move("AUDIO_EXTRACTING")
        return Answer(202, {"replayed": False, "status": self.status, **dispatch.terms})

    @property
    def _current(self) -> str:
        return self.dispatch.name if self.dispatch else "run"

    @unless_deleted
    def callback(self, body: dict[str, Any]) -> Answer:
        event_id, attempted = body["event_id"], body["status"]
        if event_id in self.events:
            return self._replay_callback(body)
        if self._is_superseded(body.get("execution_id")):
            return self._supersede(body["execution_id"])
        if (
            self.latest_occurred_at is not None
            and body["occurred_at"] < self.latest_occurred_at
            and not self._resumes(body)
        ):
            return error(
                409,
                "CALLBACK_OUT_OF_ORDER",
                latest_applied_occurred_at=self.latest_occurred_at,
                current_status=self.status,
                attempted_status=attempted,
            )
        before = self._status_before(body, attempted)
        if attempted not in STEPS[before]:
            return forbidden(before, attempted)
        self._apply(body, attempted)
        return Answer(204)

    def _replay_callback(self, body: dict[str, Any]) -> Answer:
        event_id = body["event_id"]
        before, dispatch = self.events[event_id]
        current = dispatch if body.get("dispatch_id") else self._current
        if (_undated(before), dispatch) != (_undated(body), current):
            return error(409, "EVENT_ID_PAYLOAD_MISMATCH", event_id=event_id)
        return Answer(
            200,
            {
                "job_id": self.id,
                "event_id": event_id,
                "replayed": True,
                "current_status": self.status,
                "latest_applied_occurred_at": self.latest_occurred_at,
            },
        )

    def _is_superseded(self, execution_id: str | None) -> bool:
        if execution_id is None:
            return False
        if self.dispatch is not None and self.dispatch.execution_id is not None:
            return self.dispatch.execution_id != execution_id
        earlier = [dispatch for dispatch in self.active.values() if dispatch is not self.dispatch]
        return any(dispatch.execution_id == execution_id for dispatch in earlier)

    def _supersede(self, execution_id: str) -> Answer:
        dispatch = self.dispatch
        assert dispatch is not None
        if dispatch.phase != "RELEASED" and execution_id not in dispatch.superseded:
            dispatch.superseded.add(execution_id)
            self.record_event("dispatch.superseded")
        return error(409, "EXECUTION_SUPERSEDED", execution_id=dispatch.execution_id)

    def _resumes(self, body: dict[str, Any]) -> bool:
        dispatch = self.dispatch
        if self.queryable and body.get("dispatch_id") is None:
            return False
        if self.status != "FAILED" or dispatch is None or not dispatch.awaits_resume:
            return False
        return dispatch.phase != "RELEASED" or dispatch.reason in ("refused", "settled_release")

    def _status_before(self, body: dict[str, Any], attempted: str) -> str:
        if self._resumes(body) and self.dispatch is not None:
            start = self.dispatch.terms["resume_from_status"]
            fails_at_once = start == "UPLOADED" and attempted == "FAILED"
            return "AUDIO_EXTRACTING" if fails_at_once else str(start)
        if self.status == "UPLOADED" and self.dispatch and attempted != "CANCELLED":
            return "AUDIO_EXTRACTING" if attempted != "AUDIO_EXTRACTING" else self.status
        return self.status

    def _apply(self, body: dict[str, Any], attempted: str) -> None:
        was_uploaded = self.status == "UPLOADED"
        if self._resumes(body) and self.dispatch is not None:
            self._prove(self.dispatch)
            self.dispatch.resumed, self.failure = True, None
        elif was_uploaded and (self.dispatch or attempted == "AUDIO_EXTRACTING"):
            self.dispatch = self.dispatch or self._started_externally()
            self._prove(self.dispatch)
            if attempted not in ("AUDIO_EXTRACTING", "CANCELLED"):
                self.move("AUDIO_EXTRACTING")
        self.move(attempted)
        self._record_callback(body, attempted)

    def _started_externally(self) -> Dispatch:
        self.epochs += 1
        return Dispatch("run", "RELEASED", epoch=self.epochs, is_sent=False)

    def _prove(self, dispatch: Dispatch) -> None:
        if dispatch.phase != "SENT":
            self.record_event("dispatch.proved")
            dispatch.phase, dispatch.reason = "SENT", None
        self.active[dispatch.name] = dispatch

    def _record_callback(self, body: dict[str, Any], attempted: str) -> None:
        self.events[body["event_id"]] = (body, self._current)
        self.latest_occurred_at = body["occurred_at"]
        dispatch = self.dispatch
        if dispatch is not None and dispatch.phase != "RELEASED" and dispatch.execution_id is None:
            dispatch.execution_id = body.get("execution_id")
        for key, value in body.get("artifact_updates", {}).items():
            if key == "exports":
                grown = [*self.manifest["exports"], *value]
                self.manifest["exports"] = list(dict.fromkeys(grown))
            elif key != "video_uri":
                self.manifest[key] = value
        if attempted == "FAILED":
            code, message = body.get("failure_code"), body.get("failure_message")
            self.failure = {"code": code, "message": message, "stage": body.get("failed_stage")}
