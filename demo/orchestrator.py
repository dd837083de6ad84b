"""The reference orchestrator: accepts a dispatch, and reports each step by a status callback.

It shows what Take One expects of an orchestrator, uses HTTP only and none of Take One's code. It starts one
execution for one Idempotency-Key, keeps a report's event_id when it sends the report again, and stops an
execution when the answer says that the job has ended or belongs to another execution.

    PORT=9000 CALLBACK_SECRET=… STEP_SECONDS=0.5 python -m demo.orchestrator

A `video_uri` that ends in `?fail=audio`, `?fail=transcription` or `?fail=generation` makes that step fail; a
retry succeeds. Executions are kept in memory only: they are lost on a restart.
"""

import os
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import requests
from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import BadRequest
from werkzeug.serving import WSGIRequestHandler

REQUIRED = ("job_id", "project_id", "video_uri", "callback_url")

# Each step of the work: the status to report, and the artifact that exists by then.
STEPS: list[tuple[str, str | None]] = [
    ("AUDIO_EXTRACTING", None),
    ("AUDIO_READY", "audio_uri"),
    ("TRANSCRIBING", None),
    ("TRANSCRIPT_READY", "transcript_uri"),
    ("GENERATING", None),
    ("DRAFT_READY", "draft_uri"),
]
# After a draft there is no work left: the job goes back to the editor.
HAND_OVER: list[tuple[str, str | None]] = [("EDITING", None)]
FAILING_STEPS = {
    "audio": "AUDIO_EXTRACTING",
    "transcription": "TRANSCRIBING",
    "generation": "GENERATING",
}

CALLBACK_TRIES = 60
CALLBACK_TIMEOUT_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 5.0


@dataclass
class Execution:
    """One execution of the workflow, started by one dispatch."""

    dispatch_id: str
    order: dict[str, Any]
    execution_id: str = field(default_factory=lambda: str(uuid4()))
    posts: int = 1
    status: str = "ACCEPTED"
    stopped_by: str | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def shown(self) -> dict[str, Any]:
        """Return the execution as GET /executions shows it."""
        return {
            "job_id": self.order["job_id"],
            "dispatch_id": self.dispatch_id,
            "execution_id": self.execution_id,
            "posts": self.posts,
            "status": self.status,
            "stopped_by": self.stopped_by,
        }


def steps_of(order: dict[str, Any]) -> list[tuple[str, str | None]]:
    """Return the steps of an order: all, or those after a retry's checkpoint."""
    reached = order.get("resume_from_status")
    for index, (status, artifact) in enumerate(STEPS):
        if artifact and status == reached:
            return STEPS[index + 1 :] or HAND_OVER
    return STEPS


def failing_step(order: dict[str, Any]) -> str | None:
    """Return the status after which the order is to fail, by its `video_uri`; None for a retry."""
    _, _, step = order["video_uri"].partition("?fail=")
    return None if "resume_from_status" in order else FAILING_STEPS.get(step)


class Walk:
    """The background work of one execution."""

    def __init__(self, execution: Execution, secret: str, step_seconds: float) -> None:
        self.execution = execution
        self.step_seconds = step_seconds
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["X-Callback-Secret"] = secret

    def run(self) -> None:
        """Do the steps until the end, a failure or a stop."""
        order = self.execution.order
        fails_at = failing_step(order)
        for status, artifact in steps_of(order):
            made = {artifact: f"s3://take-one/{order['job_id']}/{artifact}"} if artifact else {}
            if not self.report(status, artifact_updates=made):
                return
            if status == fails_at:
                self.report("FAILED", **self.failure(status))
                return

    def failure(self, stage: str) -> dict[str, str]:
        """Return the fields of a FAILED report."""
        return {
            "failure_code": f"{stage}_FAILED",
            "failure_message": "the demo was asked to fail here",
            "failed_stage": stage,
        }

    def report(self, status: str, **fields: Any) -> bool:
        """Work for one step, then report it until it is answered; return False if the execution ends here."""
        if self.execution.stop.wait(self.step_seconds):
            return False
        refusal = self.deliver(self.callback(status, fields))
        if refusal:
            self.execution.stopped_by = refusal
            return False
        self.execution.status = status
        return True

    def callback(self, status: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Return the body of a status callback; the same body, with the same event_id, is sent again."""
        execution_id = self.execution.execution_id
        return {
            "event_id": f"{execution_id}-{status}",
            "status": status,
            "occurred_at": datetime.now(UTC).isoformat(),
            "correlation_id": execution_id,
            "actor_type": "orchestrator",
            "execution_id": execution_id,
            "dispatch_id": self.execution.dispatch_id,
            **fields,
        }

    def deliver(self, body: dict[str, Any]) -> str | None:
        """Post a callback until it is answered; return None, or why it was finally refused."""
        for attempt in range(CALLBACK_TRIES):
            answer = self.post(body)
            if answer is not None and answer.ok:
                return None
            if answer is not None and answer.status_code < 500 and answer.status_code != 429:
                return code_of(answer)
            pause = min(0.1 * 2**attempt, LONGEST_PAUSE_SECONDS)
            if self.execution.stop.wait(pause):
                return "STOPPED"
        return "UNREACHABLE"

    def post(self, body: dict[str, Any]) -> requests.Response | None:
        """Post a callback once; return None without an answer."""
        url = self.execution.order["callback_url"]
        try:
            return self.session.post(
                url, json=body, timeout=CALLBACK_TIMEOUT_SECONDS, allow_redirects=False
            )
        except requests.RequestException:
            return None


def code_of(answer: requests.Response) -> str:
    """Return the error code of an answer, such as FSM_TERMINAL_IMMUTABLE."""
    try:
        return str(answer.json()["code"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP_{answer.status_code}"


def checked_order() -> tuple[str, dict[str, Any]]:
    """Return the request's Idempotency-Key and body; raise BadRequest if either is incomplete."""
    key = request.headers.get("Idempotency-Key", "")
    body = request.get_json()
    missing = [name for name in REQUIRED if not isinstance(body, dict) or not body.get(name)]
    if missing or not key:
        raise BadRequest(f"missing: {', '.join(missing) or 'Idempotency-Key'}")
    return key, body


def create_app(secret: str, step_seconds: float = 0.5) -> Flask:
    """Create the orchestrator; its callbacks have the header value `secret`, each step takes `step_seconds`."""
    app = Flask("orchestrator")
    executions: dict[str, Execution] = {}
    lock = threading.Lock()

    @app.post("/dispatches")
    def dispatch() -> tuple[Response, int]:
        key, order = checked_order()
        with lock:
            known = executions.get(key)
            if known:
                known.posts += 1
                return jsonify(known.shown()), 200
            execution = executions[key] = Execution(key, order)
        walk = Walk(execution, secret, step_seconds)
        threading.Thread(target=walk.run, daemon=True).start()
        return jsonify(execution.shown()), 202

    @app.post("/cancellations")
    def cancel() -> tuple[str, int]:
        body = request.get_json()
        execution = executions.get(body.get("dispatch_id", ""))
        if execution:
            execution.stopped_by = execution.stopped_by or "CANCELLED"
            execution.stop.set()
        return "", 204

    @app.get("/executions")
    def show_executions() -> Response:
        return jsonify([execution.shown() for execution in list(executions.values())])

    return app


def main() -> None:
    """Serve on HOST and PORT of the environment."""
    WSGIRequestHandler.protocol_version = "HTTP/1.1"  # keeps connections open
    app = create_app(os.environ["CALLBACK_SECRET"], float(os.environ.get("STEP_SECONDS", "0.5")))
    host, port = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "9000"))
    app.run(host, port, threaded=True)


if __name__ == "__main__":
    main()
