"""The chaos orchestrator, a process of its own: records every request durably, and misbehaves by seed.

It may be killed at any moment: started again, it reads its record and goes on with its executions.
While the file `calm` lies beside its record it behaves.

    PORT=… SEED=… DIRECTORY=… CALLBACK_SECRET=… ALL_DEDUPLICATE=0|1 python -m tests.chaos.orchestrator
"""

import json
import os
import select
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
)
from tests.chaos.record import Record, read_record
from tests.support.behaviours import reset

SLOW_SECONDS = 0.8
HANG_SECONDS = 4.0
FIRST_CALLBACK_SECONDS = 1.5
RECORD = "orchestrator.jsonl"
CALM = "calm"


class Orchestrator:
    """What the handlers share."""

    def __init__(self, directory: Path, seed: int, secret: str, all_deduplicate: bool) -> None:
        self.seed = seed
        self._calm = directory / CALM
        entries = read_record(directory / RECORD)
        self.record = Record(directory / RECORD)
        self._posts = Counter(entry["dispatch"] for entry in entries if entry["kind"] == "post")
        self._lock = threading.Lock()
        self._luck = Random(f"{seed}:resets:{len(entries)}")
        self.executions = Executions(self.record, secret, seed, all_deduplicate)
        self.executions.resume(entries)
        self.record.note("started")

    @property
    def is_calm(self) -> bool:
        """Whether it is to behave now."""
        return self._calm.exists()

    def resets_unread(self) -> bool:
        """Whether to reset a connection on which something has arrived, unread."""
        with self._lock:
            return self._luck.random() < RESETS_BEFORE_READING and not self.is_calm

    def take(self, dispatch: str, order: dict[str, Any]) -> tuple[str, str]:
        """Note a post that was read; return its name and how it is to be answered."""
        number, mode, name = (
            number_of(order["video_uri"]),
            self.executions.mode(order),
            str(uuid4()),
        )
        with self._lock:
            self._posts[dispatch] += 1
            nth = self._posts[dispatch]
        how = "accept" if self.is_calm else answer_of(self.seed, number, dispatch, nth, mode)
        self.record.note(
            "post", post=name, job=order["job_id"], dispatch=dispatch, how=how, order=order
        )
        return name, how


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    orchestrator: Orchestrator

    def handle_one_request(self) -> None:
        """Wait for a request without reading of it, so that it can be reset unread."""
        select.select([self.connection], [], [])
        if not self.connection.recv(1, socket.MSG_PEEK):
            self.close_connection = True
        elif self.orchestrator.resets_unread():
            self.orchestrator.record.note("reset_unread")
            self._reset()
        else:
            super().handle_one_request()

    def do_GET(self) -> None:
        """Say that it is there."""
        self._answer(200)

    def do_POST(self) -> None:
        """Take a dispatch, or the word that a job was cancelled."""
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        if self.path != "/dispatches":
            self.orchestrator.record.note("cancellation", job=body["job_id"])
            self._answer(204)
            return
        dispatch = self.headers["Idempotency-Key"]
        post, how = self.orchestrator.take(dispatch, body)
        if how == "accept_slowly":
            time.sleep(SLOW_SECONDS)
        if ANSWERS[how][1]:
            self._execute(dispatch, body, how)
        self._conclude(post, body["job_id"], how)

    def _execute(self, dispatch: str, order: dict[str, Any], how: str) -> None:
        execution = self.orchestrator.executions.start(dispatch, order)
        if how == "fork":
            self.orchestrator.executions.start(dispatch, order)
        if how == "call_back_first" and execution is not None:
            execution.first_reported.wait(FIRST_CALLBACK_SECONDS)

    def _conclude(self, post: str, job_id: str, how: str) -> None:
        status = _status(how, post)
        self.orchestrator.record.note("answer", post=post, job=job_id, status=status)
        if how.startswith("reset"):
            self._reset()
        elif how.startswith("hang"):
            time.sleep(HANG_SECONDS)
            self._reset()
        elif how == "break_off":
            self.wfile.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 100\r\n\r\nhalf")
            self.close_connection = True
        else:
            self._answer(status or 504)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _reset(self) -> None:
        self.close_connection = True
        reset(self.connection)

    def finish(self) -> None:
        """Close; the connection may be gone already."""
        try:
            super().finish()
        except OSError:
            return

    def log_message(self, *_: object) -> None:
        """Everything is in the record."""


def _status(how: str, post: str) -> int | None:
    """The whole answer that the caller is to get; None if it can conclude nothing from what it gets."""
    if how == "refuse":
        return REFUSALS[int(post[:8], 16) % len(REFUSALS)]
    if how.startswith("fail"):
        return 500
    # The head of an answer that breaks off says already that it is accepted.
    accepting = ("accept", "accept_slowly", "call_back_first", "fork", "break_off")
    return 202 if how in accepting else None


class Server(ThreadingHTTPServer):
    """Takes many callers at once, and does not mind those that go away."""

    request_queue_size = 1024
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A caller that went away is no news."""


def main() -> None:
    """Serve until killed."""
    environment = os.environ
    Handler.orchestrator = Orchestrator(
        Path(environment["DIRECTORY"]),
        int(environment["SEED"]),
        environment["CALLBACK_SECRET"],
        environment["ALL_DEDUPLICATE"] == "1",
    )
    Server(("127.0.0.1", int(environment["PORT"])), Handler).serve_forever()


if __name__ == "__main__":
    main()
