"""The chaos orchestrator, a process of its own: records every request durably, and misbehaves by seed.

It may be killed at any moment: started again, it reads its record and goes on with its executions.
While the file `calm` lies beside its record it behaves.

    PORT=… SEED=… DIRECTORY=… CALLBACK_SECRET=… ALL_DEDUPLICATE=0|1 ENGINE=webhook|restate \
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
    ask_of,
    number_of,
)
from tests.chaos.record import Record, read_record
from tests.support import behaviours as told
from tests.support.orchestrator import StubOrchestrator

SLOW_SECONDS = 0.8
HANG_SECONDS = 4.0
FIRST_CALLBACK_SECONDS = 1.5
HELD_SECONDS = 5.0
# The handler that the service is told to call.
WORKFLOW = "Chaos/run"
GATEWAY_PAGE = b"<html>Bad Gateway</html>"
RECORD = "orchestrator.jsonl"
CALM = "calm"


class ChaosOrchestrator(StubOrchestrator):
    """Decides by its seed how to behave, and notes what it does before it does it."""

    def __init__(
        self,
        port: int,
        directory: Path,
        seed: int,
        secret: str,
        all_deduplicate: bool,
        engine: str,
    ) -> None:
        super().__init__(port=port)
        self.is_restate = engine == "restate"
        self.seed = seed
        self._calm = directory / CALM
        entries = read_record(directory / RECORD)
        self.record = Record(directory / RECORD)
        self._posts = Counter(entry["dispatch"] for entry in entries if entry["kind"] == "post")
        self._asks = Counter(entry["dispatch"] for entry in entries if entry["kind"] == "ask")
        self._lock = threading.Lock()
        self._luck = Random(f"{seed}:resets:{len(entries)}")
        self.executions = Executions(self.record, secret, seed, all_deduplicate, self.is_restate)
        self.executions.resume(entries)
        self.record.note("started")

    @property
    def is_calm(self) -> bool:
        """Whether it is to behave now."""
        return self._calm.exists()

    def resets_unread(self) -> bool:
        """Whether to reset a connection on which a request has just arrived, unread."""
        with self._lock:
            resets = self._luck.random() < RESETS_BEFORE_READING and not self.is_calm
        if resets:
            self.record.note("reset_unread")
        return resets

    def behaviour_for(self, request: told.Request) -> told.Behaviour:
        """How to treat a dispatch, the word that a job was cancelled, or the question if it is there."""
        if request.path in ("/dispatches", f"/{WORKFLOW}/send"):
            return self._dispatched
        asked = re.fullmatch(rf"/restate/invocation/{WORKFLOW}/([^/]+)/output", request.path)
        if asked:
            return self._asked(asked[1])
        if request.path == "/query":
            return self._queried(request)
        ended = re.fullmatch(r"/invocations/([^/]+)/cancel", request.path)
        if ended:
            return self._ended(ended[1])
        if request.method == "GET":
            return told.empty_body()
        self.record.note("cancellation", job=request.job_id)
        return told.empty_body(204)

    def _dispatched(self, exchange: told.Exchange) -> None:
        dispatch, order = exchange.request.headers["idempotency-key"], exchange.request.json
        post, how = self._take(dispatch, order)
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
            threading.Thread(target=self._hand_on, args=(dispatch, order), daemon=True).start()
        if how == "interim":
            exchange.send(b"HTTP/1.1 102 Processing\r\n\r\n")
            time.sleep(SLOW_SECONDS)
        self._ending(how, status, self._accepted(dispatch, existed))(exchange)

    def _hand_on(self, dispatch: str, order: dict[str, Any]) -> None:
        """What a gateway does with a request that its caller has given up."""
        time.sleep(HELD_SECONDS)
        self.executions.start(dispatch, order)

    def _accepted(self, dispatch: str, existed: bool) -> bytes:
        if not self.is_restate:
            return b""
        word = "PreviouslyAccepted" if existed else "Accepted"
        name = self.executions.name_of(dispatch)
        return json.dumps({"invocationId": name, "status": word}).encode()

    def _asked(self, dispatch: str) -> told.Behaviour:
        """The question for an invocation's output; what is true is noted before it is said."""
        with self._lock:
            self._asks[dispatch] += 1
            nth = self._asks[dispatch]
        how = "true" if self.is_calm else ask_of(self.seed, dispatch, nth)
        state = self.executions.state(dispatch) if how in ("true", "slowly") else None
        job = dispatch[dispatch.index("-") + 1 :][:36]
        self.record.note("ask", dispatch=dispatch, job=job, how=how, state=state)
        if how == "reset":
            return told.reset_after_read()
        if state is None:
            return told.answer(404 if how == "foreign_404" else 502, GATEWAY_PAGE)
        return told.answer(*self._output(dispatch, state), SLOW_SECONDS * (how == "slowly"))

    def _output(self, dispatch: str, state: str) -> tuple[int, bytes, dict[str, str]]:
        """As Restate's ingress answers it."""
        if state == "succeeded":
            return 200, b"{}", {"x-restate-id": str(self.executions.name_of(dispatch))}
        status, source, message = {
            "not_found": (404, "ingress", "invocation not found"),
            "running": (470, "ingress", "not completed"),
            "failed": (500, "invocation", "died"),
            "cancelled": (409, "invocation", "cancelled"),
        }[state]
        return status, json.dumps({"source": source, "message": message}).encode(), told.JSON

    def _queried(self, request: told.Request) -> told.Behaviour:
        """The admin API's query for the id of an invocation."""
        key = re.findall(r"'([^']*)'", request.json["query"])[-1]
        name, state = self.executions.name_of(key), self.executions.state(key)
        row = {"id": name, "status": "running" if state == "running" else "completed"}
        if state != "running":
            row["completion_result"] = "success" if state == "succeeded" else "failure"
        rows = [row] if name else []
        return told.answer(200, json.dumps({"rows": rows}).encode(), told.JSON)

    def _ended(self, name: str) -> told.Behaviour:
        """The admin API's cancel."""
        before = self.executions.cancel(name)
        if before == "running":
            return told.empty_body(202)
        message = json.dumps({"message": "it is not running"}).encode()
        return told.answer(404 if before is None else 409, message, told.JSON)

    def _ending(self, how: str, status: int | None, accepted: bytes) -> told.Behaviour:
        if how.startswith(("reset", "hang", "held")):
            return told.reset_after_read()
        if how == "break_off":
            return told.truncated_body(202)
        if how.startswith("fail"):
            return told.empty_body(500)
        body = accepted if status == 202 else b""
        return told.answer(status or 504, body, told.JSON if body else {})

    def _status(self, how: str, post: str) -> int | None:
        """The whole answer that the caller is to get; None if it can conclude nothing from what it gets."""
        if how == "refuse":
            return REFUSALS[int(post[:8], 16) % len(REFUSALS)]
        if how.startswith("fail"):
            # A fault of a server that everyone uses does not say what it did.
            return None if self.is_restate else 500
        if how == "break_off":
            # The head of an answer that breaks off says already that a webhook accepts.
            return None if self.is_restate else 202
        accepting = ("accept", "accept_slowly", "call_back_first", "fork", "interim")
        return 202 if how in accepting else None

    def _take(self, dispatch: str, order: dict[str, Any]) -> tuple[str, str]:
        """Note a post that was read; return its name and how it is to be answered."""
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
        environment["ALL_DEDUPLICATE"] == "1",
        environment["ENGINE"],
    ).start()
    signal.pause()


if __name__ == "__main__":
    main()
