"""A small model of the contract, written from its text and from nothing of the code: one job's whole life.

Each call returns what the service is to answer, and changes the model as the service is to change. The
model's orchestrator answers every dispatch before the call that made it returns, and an unknown outcome is
held for ever, so that nothing here depends on time.
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
# What the orchestrator does with a dispatch: is it received, what is the claim's phase, the trail's word.
ACCEPTED = (True, "SENT", "accepted", None)
REFUSED = (True, "RELEASED", "refused", "refused")
UNKNOWN = (True, "UNKNOWN", "unknown", "outcome_unknown")
OUTCOMES = {
    "accepts": ACCEPTED,
    "refuses": REFUSED,
    "is_silent": UNKNOWN,
    # An interim answer is none.
    "hints_and_accepts": ACCEPTED,
    "hints_and_refuses": REFUSED,
    "hints_and_is_silent": UNKNOWN,
    "is_down": (False, "RELEASED", "not_started", "not_started"),
    # Its answer is lost; asked, it has the dispatch.
    "is_lost": (True, "SENT", "found", None),
}


@dataclass
class Answer:
    """A status, and the fields of the body that are to be so; an error's body is compared as a whole."""

    status: int
    body: dict[str, Any] = field(default_factory=dict)


@dataclass
class Dispatch:
    """What is known of one dispatch."""

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
    """One job as the contract has it; `asks` is whether the orchestrator can be asked."""

    def __init__(self, job_id: str, own: dict[str, Any] | None = None, asks: bool = False) -> None:
        self.id, self.asks = job_id, asks
        self.is_deleted = False
        self.own = {"name": None, "metadata": {}} | (own or {})
        self.status = "CREATED"
        self.manifest: dict[str, Any] = dict.fromkeys(
            ("video_uri", "audio_uri", "transcript_uri", "draft_uri")
        )
        self.manifest["exports"] = []
        self.failure: dict[str, Any] | None = None
        self.shown: Dispatch | None = None
        self.standing: dict[str, Dispatch] = {}  # by name; also those that a retry has followed
        self.events: dict[str, tuple[dict[str, Any], str]] = {}  # payload and dispatch
        self.latest: str | None = None
        self.posts = 0
        self.epochs = 0
        self.arrived: set[str] = set()  # what an orchestrator that is asked says that it has
        self.trail: list[tuple[str, str | None, str]] = [("job.created", None, "CREATED")]

    def note(self, event_type: str) -> None:
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
        """An operator's word that the run is lost."""
        if "FAILED" not in STEPS[self.status]:
            return forbidden(self.status, "FAILED")
        self.move("FAILED")
        self.failure = {"code": "FAILED_BY_OPERATOR", "message": reason, "stage": None}
        return Answer(200, {"status": "FAILED"})

    @unless_deleted
    def ask(self, orchestrator: str) -> Answer:
        """An operator's question to the orchestrator; it says of what it has that it has ended well."""
        shown = self.shown
        if not self.asks or shown is None or shown.phase == "RELEASED" or not shown.is_sent:
            return error(409, "CANNOT_BE_ASKED")
        if orchestrator == "is_down" or shown.name not in self.arrived:
            return error(502, "ORCHESTRATOR_DISPATCH_FAILED", reason="no_answer")
        return Answer(200, {"state": "succeeded"})

    @unless_deleted
    def settle(self, settlement: str) -> Answer:
        """An operator's word on the dispatch."""
        shown = self.shown
        if shown is None or not self._is_to_settle(shown, settlement):
            return error(409, "NOTHING_TO_SETTLE")
        if settlement == "release":
            self.note("dispatch.released")
            shown.phase, shown.reason = "RELEASED", "settled_release"
            del self.standing[shown.name]
        else:
            self.note("dispatch.settled")
            shown.phase, shown.reason = "SENT", "settled_sent"
            if shown.name == "run" and self.status == "UPLOADED":
                self.move("AUDIO_EXTRACTING")
        return Answer(200, {"status": self.status})

    def _is_to_settle(self, shown: Dispatch, settlement: str) -> bool:
        if shown.phase != "SENT":
            return shown.phase == "UNKNOWN"
        return settlement == "release" and shown.awaits_resume and self.status == "FAILED"

    @property
    def is_failed(self) -> bool:
        return self.status == "FAILED" and not self.is_deleted

    def retry_by_operator(self, orchestrator: str) -> tuple[str, str | None] | None:
        """What a bulk retry says of the job, and the code of a refusal; None if it has not failed."""
        if not self.is_failed:
            return None
        over = [each for each in self.standing.values() if each.phase == "SENT"]
        epoch = max((each.epoch for each in over if not each.awaits_resume), default=0)
        name = f"operator-{self.id}-{epoch}"
        known = self.standing.get(name)
        if self.asks and known is not None and known.phase == "UNKNOWN":
            return "joined", None
        answer = self.retry(name, "standard", orchestrator)
        if answer.status == 200:
            return "replayed", None
        is_refused = known is not None or answer.status == 409
        return ("refused", answer.body["code"]) if is_refused else ("started", None)

    @unless_deleted
    def edit(self, own: dict[str, Any]) -> Answer:
        self.own |= own
        return Answer(200, {"status": self.status, **self.own})

    @unless_deleted
    def delete(self) -> Answer:
        if STEPS[self.status]:
            return error(409, "NOT_TERMINAL", current_status=self.status)
        if self._is_awaited:
            return error(409, "JOB_ALREADY_RUNNING", current_status=self.status)
        self.is_deleted = True
        return Answer(204)

    @property
    def _is_awaited(self) -> bool:
        shown = self.shown
        stands = shown is not None and shown.phase != "RELEASED"
        return stands and shown is not None and (shown.phase == "UNKNOWN" or shown.awaits_resume)

    @unless_deleted
    def run(self, orchestrator: str) -> Answer:
        if not STEPS[self.status]:
            return forbidden(self.status, "AUDIO_EXTRACTING")
        if "run" in self.standing:
            return self._again(self.standing["run"])
        if self.status != "UPLOADED" or self.manifest["video_uri"] is None:
            return forbidden(self.status, "AUDIO_EXTRACTING")
        return self._dispatch(Dispatch("run", "CLAIMED"), orchestrator)

    @unless_deleted
    def retry(self, request_id: str, profile: str, orchestrator: str) -> Answer:
        known = self.standing.get(request_id)
        if known is not None:
            if known.terms["model_profile"] != profile:
                return error(409, "CLIENT_REQUEST_MISMATCH")
            return self._again(known)
        if self.status in RUNNING or self._is_awaited:
            return error(409, "JOB_ALREADY_RUNNING", current_status=self.status)
        artifacts = [each for each in CHECKPOINTS if self.manifest[each[0]]]
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

    def _again(self, dispatch: Dispatch) -> Answer:
        if dispatch.phase == "UNKNOWN":
            return error(502, "ORCHESTRATOR_DISPATCH_FAILED", reason="outcome_unknown")
        return Answer(200, {"replayed": True, "status": self.status, **dispatch.terms})

    def _dispatch(self, dispatch: Dispatch, orchestrator: str) -> Answer:
        if orchestrator in ("accepts", "hints_and_accepts", "is_lost"):
            self.arrived.add(dispatch.name)
        if self.asks and OUTCOMES[orchestrator] is UNKNOWN and dispatch.name in self.arrived:
            orchestrator = "is_lost"  # it has an earlier send, which an operator has released
        received, phase, word, reason = OUTCOMES[orchestrator]
        self.epochs += 1
        dispatch.epoch = self.epochs
        for step in ("claimed", "sent", word):
            self.note(f"dispatch.{step}")
        self.posts += received
        dispatch.phase, dispatch.reason = phase, reason
        self.shown = dispatch
        if phase != "RELEASED":
            self.standing[dispatch.name] = dispatch
        if phase != "SENT":
            return error(502, "ORCHESTRATOR_DISPATCH_FAILED", reason=reason)
        if dispatch.name == "run":
            self.move("AUDIO_EXTRACTING")
        return Answer(202, {"replayed": False, "status": self.status, **dispatch.terms})

    @property
    def _current(self) -> str:
        return self.shown.name if self.shown else "run"

    @unless_deleted
    def callback(self, body: dict[str, Any]) -> Answer:
        event_id, attempted = body["event_id"], body["status"]
        if event_id in self.events:
            return self._callback_again(body)
        if self._is_superseded(body.get("execution_id")):
            return self._supersede(body["execution_id"])
        if (
            self.latest is not None
            and body["occurred_at"] < self.latest
            and not self._resumes(body)
        ):
            return error(
                409,
                "CALLBACK_OUT_OF_ORDER",
                latest_applied_occurred_at=self.latest,
                current_status=self.status,
                attempted_status=attempted,
            )
        judged_from = self._judged_from(body, attempted)
        if attempted not in STEPS[judged_from]:
            return forbidden(judged_from, attempted)
        self._apply(body, attempted)
        return Answer(204)

    def _callback_again(self, body: dict[str, Any]) -> Answer:
        event_id = body["event_id"]
        before, dispatch = self.events[event_id]
        current = dispatch if body.get("dispatch_id") else self._current
        if (_undated(before), dispatch) != (_undated(body), current):
            return error(409, "EVENT_ID_PAYLOAD_MISMATCH", event_id=event_id)
        again = {"job_id": self.id, "event_id": event_id, "replayed": True}
        return Answer(
            200,
            {**again, "current_status": self.status, "latest_applied_occurred_at": self.latest},
        )

    def _is_superseded(self, execution_id: str | None) -> bool:
        if execution_id is None:
            return False
        if self.shown is not None and self.shown.execution_id is not None:
            return self.shown.execution_id != execution_id
        earlier = [each for each in self.standing.values() if each is not self.shown]
        return any(each.execution_id == execution_id for each in earlier)

    def _supersede(self, execution_id: str) -> Answer:
        shown = self.shown
        assert shown is not None
        if shown.phase != "RELEASED" and execution_id not in shown.superseded:
            shown.superseded.add(execution_id)
            self.note("dispatch.superseded")
        return error(409, "EXECUTION_SUPERSEDED", execution_id=shown.execution_id)

    def _resumes(self, body: dict[str, Any]) -> bool:
        shown = self.shown
        if self.asks and body.get("dispatch_id") is None:
            return False
        if self.status != "FAILED" or shown is None or not shown.awaits_resume:
            return False
        return shown.phase != "RELEASED" or shown.reason in ("refused", "settled_release")

    def _judged_from(self, body: dict[str, Any], attempted: str) -> str:
        if self._resumes(body) and self.shown is not None:
            start = self.shown.terms["resume_from_status"]
            fails_at_once = start == "UPLOADED" and attempted == "FAILED"
            return "AUDIO_EXTRACTING" if fails_at_once else str(start)
        if self.status == "UPLOADED" and self.shown and attempted != "CANCELLED":
            return "AUDIO_EXTRACTING" if attempted != "AUDIO_EXTRACTING" else self.status
        return self.status

    def _apply(self, body: dict[str, Any], attempted: str) -> None:
        was_uploaded = self.status == "UPLOADED"
        if self._resumes(body) and self.shown is not None:
            self._prove(self.shown)
            self.shown.resumed, self.failure = True, None
        elif was_uploaded and (self.shown or attempted == "AUDIO_EXTRACTING"):
            self.shown = self.shown or self._begun_elsewhere()
            self._prove(self.shown)
            if attempted not in ("AUDIO_EXTRACTING", "CANCELLED"):
                self.move("AUDIO_EXTRACTING")
        self.move(attempted)
        self._keep(body, attempted)

    def _begun_elsewhere(self) -> Dispatch:
        self.epochs += 1
        return Dispatch("run", "RELEASED", epoch=self.epochs, is_sent=False)

    def _prove(self, dispatch: Dispatch) -> None:
        if dispatch.phase != "SENT":
            self.note("dispatch.proved")
        dispatch.phase, dispatch.reason = "SENT", None
        self.standing[dispatch.name] = dispatch

    def _keep(self, body: dict[str, Any], attempted: str) -> None:
        self.events[body["event_id"]] = (body, self._current)
        self.latest = body["occurred_at"]
        shown = self.shown
        if shown is not None and shown.phase != "RELEASED" and shown.execution_id is None:
            shown.execution_id = body.get("execution_id")
        for key, value in body.get("artifact_updates", {}).items():
            if key == "exports":
                grown = [*self.manifest["exports"], *value]
                self.manifest["exports"] = list(dict.fromkeys(grown))
            elif key != "video_uri":
                self.manifest[key] = value
        if attempted == "FAILED":
            code, message = body.get("failure_code"), body.get("failure_message")
            self.failure = {"code": code, "message": message, "stage": body.get("failed_stage")}
