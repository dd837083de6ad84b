"""The chaos orchestrator, a process of its own: records every request durably, and misbehaves by seed.

It may be killed at any moment: after a restart it resumes its executions from its record. While a file
`calm` exists beside the record, it behaves well.

    PORT=… SEED=… DIRECTORY=… CALLBACK_SECRET=… ALL_IDEMPOTENT=0|1 ENGINE=webhook|restate \
        python -m tests.chaos.orchestrator
"""

import json
import os
import re
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

from tests.chaos.executions import Executions
from tests.chaos.misbehaviour import (
    ANSWERS,
    REFUSALS,
    RESETS_BEFORE_READING,
    answer_of,
    number_of,
    query_answer_of,
)
from tests.chaos.record import Record, read_record
from tests.support import behaviours
from tests.support.orchestrator import StubOrchestrator

SLOW_SECONDS = 0.8
HANG_SECONDS = 4.0
FIRST_CALLBACK_SECONDS = 1.5
HELD_SECONDS = 5.0
# The Restate handler that the service calls.
WORKFLOW = "Chaos/run"
GATEWAY_PAGE = b"<html>Bad Gateway</html>"
RECORD = "orchestrator.jsonl"
CALM = "calm"


class ChaosOrchestrator(StubOrchestrator):
    """Behaves as its seed decides, and records each action before it takes it."""

    def __init__(
        self, port: int, directory: Path, seed: int, secret: str, all_idempotent: bool, engine: str
    ) -> None:
        super().__init__(port=port)
        self.is_restate = engine == "restate"
        self.seed = seed
        self._calm = directory / CALM
        entries = read_record(directory / RECORD)
        self.record = Record(directory / RECORD)
        self._posts = Counter(entry["dispatch"] for entry in entries if entry["kind"] == "post")
        self._queries = Counter(entry["dispatch"] for entry in entries if entry["kind"] == "ask")
        self._lock = threading.Lock()
        self._luck = Random(f"{seed}:resets:{len(entries)}")
        self.executions = Executions(self.record, secret, seed, all_idempotent, self.is_restate)
        self.executions.resume(entries)
        self.record.note("started")

    @property
    def is_calm(self) -> bool:
        return self._calm.exists()

    def resets_unread(self) -> bool:
        """Whether to reset a connection on which a request has just arrived, unread."""
        with self._lock:
            resets = self._luck.random() < RESETS_BEFORE_READING and not self.is_calm
        if resets:
            self.record.note("reset_unread")
        return resets

    def behaviour_for(self, request: behaviours.Request) -> behaviours.Behaviour:
        """How to treat a dispatch, a query or a cancellation."""
        if request.path in ("/dispatches", f"/{WORKFLOW}/send"):
            return self._dispatched
        output = re.fullmatch(rf"/restate/invocation/{WORKFLOW}/([^/]+)/output", request.path)
        if output:
            return self._answer_output(output[1])
        if request.path == "/query":
            return self._answer_query(request)
        cancel = re.fullmatch(r"/invocations/([^/]+)/cancel", request.path)
        if cancel:
            return self._answer_cancel(cancel[1])
        if request.method == "GET":
            return behaviours.empty_body()
        self.record.note("cancellation", job=request.job_id)
        return behaviours.empty_body(204)

    def _dispatched(self, exchange: behaviours.Exchange) -> None:
        dispatch, order = exchange.request.headers["idempotency-key"], exchange.request.json
        post, how = self._record_post(dispatch, order)
        if how == "accept_slowly":
            time.sleep(SLOW_SECONDS)
        existed = self.executions.name_of(dispatch) is not None
        if ANSWERS[how][1]:
            self._execute(dispatch, order, how)
        status = self._status(how, post)
        self.record.note("answer", post=post, job=order["job_id"], status=status)
        if how.startswith("hang"):
            time.sleep(HANG_SECONDS)
        if how == "held":
            threading.Thread(target=self._forward_late, args=(dispatch, order), daemon=True).start()
        if how == "interim":
            exchange.send(b"HTTP/1.1 102 Processing\r\n\r\n")
            time.sleep(SLOW_SECONDS)
        self._final_behaviour(how, status, self._accepted_body(dispatch, existed))(exchange)

    def _forward_late(self, dispatch: str, order: dict[str, Any]) -> None:
        """Execute a request after its caller gave up, as a gateway may."""
        time.sleep(HELD_SECONDS)
        self.executions.start(dispatch, order)

    def _accepted_body(self, dispatch: str, existed: bool) -> bytes:
        if not self.is_restate:
            return b""
        status = "PreviouslyAccepted" if existed else "Accepted"
        name = self.executions.name_of(dispatch)
        return json.dumps({"invocationId": name, "status": status}).encode()

    def _answer_output(self, dispatch: str) -> behaviours.Behaviour:
        """Answer Restate's query for an invocation's output; a correct answer is recorded first."""
        with self._lock:
            self._queries[dispatch] += 1
            nth = self._queries[dispatch]
        how = "true" if self.is_calm else query_answer_of(self.seed, dispatch, nth)
        state = self.executions.state(dispatch) if how in ("true", "slowly") else None
        job = dispatch[dispatch.index("-") + 1 :][:36]
        self.record.note("ask", dispatch=dispatch, job=job, how=how, state=state)
        if how == "reset":
            return behaviours.reset_after_read()
        if state is None:
            return behaviours.answer(404 if how == "foreign_404" else 502, GATEWAY_PAGE)
        return behaviours.answer(*self._output(dispatch, state), SLOW_SECONDS * (how == "slowly"))

    def _output(self, dispatch: str, state: str) -> tuple[int, bytes, dict[str, str]]:
        """Restate's own answer for an invocation in this state."""
        if state == "succeeded":
            return 200, b"{}", {"x-restate-id": str(self.executions.name_of(dispatch))}
        status, source, message = {
            "not_found": (404, "ingress", "invocation not found"),
            "running": (470, "ingress", "not completed"),
            "failed": (500, "invocation", "died"),
            "cancelled": (409, "invocation", "cancelled"),
        }[state]
        body = json.dumps({"source": source, "message": message}).encode()
        return status, body, behaviours.JSON

    def _answer_query(self, request: behaviours.Request) -> behaviours.Behaviour:
        """Answer the admin API's query for the id of an invocation."""
        key = re.findall(r"'([^']*)'", request.json["query"])[-1]
        name, state = self.executions.name_of(key), self.executions.state(key)
        row = {"id": name, "status": "running" if state == "running" else "completed"}
        if state != "running":
            row["completion_result"] = "success" if state == "succeeded" else "failure"
        rows = [row] if name else []
        return behaviours.answer(200, json.dumps({"rows": rows}).encode(), behaviours.JSON)

    def _answer_cancel(self, name: str) -> behaviours.Behaviour:
        """Answer the admin API's cancel."""
        before = self.executions.cancel(name)
        if before == "running":
            return behaviours.empty_body(202)
        message = json.dumps({"message": "it is not running"}).encode()
        return behaviours.answer(404 if before is None else 409, message, behaviours.JSON)

    def _final_behaviour(
        self, how: str, status: int | None, accepted: bytes
    ) -> behaviours.Behaviour:
        if how.startswith(("reset", "hang", "held")):
            return behaviours.reset_after_read()
        if how == "break_off":
            return behaviours.truncated_body(202)
        if how.startswith("fail"):
            return behaviours.empty_body(500)
        body = accepted if status == 202 else b""
        return behaviours.answer(status or 504, body, behaviours.JSON if body else {})

    def _status(self, how: str, post: str) -> int | None:
        """The status that the caller can rely on; None if the answer leaves the outcome open."""
        if how == "refuse":
            return REFUSALS[int(post[:8], 16) % len(REFUSALS)]
        if how.startswith("fail"):
            # A 500 of a shared engine does not say whether the run was started.
            return None if self.is_restate else 500
        if how == "break_off":
            # A webhook's acceptance counts as soon as the head of the answer has arrived.
            return None if self.is_restate else 202
        accepting = ("accept", "accept_slowly", "call_back_first", "fork", "interim")
        return 202 if how in accepting else None

    def _record_post(self, dispatch: str, order: dict[str, Any]) -> tuple[str, str]:
        """Record a post that was read; return its name and how to answer it."""
        number, mode = number_of(order["video_uri"]), self.executions.mode(order)
        name = str(uuid4())
        with self._lock:
            self._posts[dispatch] += 1
            nth = self._posts[dispatch]
        how = "accept" if self.is_calm else answer_of(self.seed, number, dispatch, nth, mode)
        self.record.note(
            "post", post=name, job=order["job_id"], dispatch=dispatch, how=how, order=order
        )
        return name, how

    def _execute(self, dispatch: str, order: dict[str, Any], how: str) -> None:
        execution = self.executions.start(dispatch, order)
        if how == "fork":
            self.executions.start(dispatch, order)
        if how == "call_back_first" and execution is not None:
            execution.first_reported.wait(FIRST_CALLBACK_SECONDS)


def main() -> None:
    """Serve until killed."""
    environment = os.environ
    ChaosOrchestrator(
        int(environment["PORT"]),
        Path(environment["DIRECTORY"]),
        int(environment["SEED"]),
        environment["CALLBACK_SECRET"],
        environment["ALL_IDEMPOTENT"] == "1",
        environment["ENGINE"],
    ).start()
    signal.pause()


if __name__ == "__main__":
    main()
