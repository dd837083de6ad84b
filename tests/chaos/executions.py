"""Executions of the chaos orchestrator: each reports its steps by callbacks, and is resumed after kill -9."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import requests

from tests.chaos.misbehaviour import (
    SENDS_EXECUTION_ID,
    Fate,
    fate_of,
    mode_of,
    number_of,
    steps_from,
)
from tests.chaos.record import Record

CALLBACK_TIMEOUT_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 1.0


@dataclass
class Execution:
    """One execution; its fields can be restored from its entries in the record."""

    name: str
    dispatch: str
    order: dict[str, Any]
    nth: int
    pending: dict[str, Any] | None = None
    reported: list[str] = field(default_factory=list)
    latest: str = ""
    why: str | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    first_reported: threading.Event = field(default_factory=threading.Event)


class Executions:
    """All executions. Each action is recorded before it is taken."""

    def __init__(
        self, record: Record, secret: str, seed: int, all_idempotent: bool, queryable: bool
    ) -> None:
        self._queryable = queryable
        self._record, self._secret = record, secret
        self._seed, self._all_deduplicate = seed, all_idempotent
        self._by_name: dict[str, Execution] = {}
        self._of_dispatch: defaultdict[str, list[str]] = defaultdict(list)
        self._of_job: defaultdict[str, int] = defaultdict(int)
        self._lock = threading.Lock()

    def mode(self, order: dict[str, Any]) -> str:
        """Return HONOURS_KEY or SENDS_EXECUTION_ID for the job of an order."""
        return mode_of(self._seed, number_of(order["video_uri"]), self._all_deduplicate)

    def start(self, dispatch: str, order: dict[str, Any]) -> Execution | None:
        """Execute an order; None if its key was executed before and keys are honoured."""
        with self._lock:
            if self._of_dispatch[dispatch] and self.mode(order) != SENDS_EXECUTION_ID:
                return None
            self._of_job[order["job_id"]] += 1
            name, nth = str(uuid4()), self._of_job[order["job_id"]]
            execution = Execution(name, dispatch, order, nth)
            self._of_dispatch[dispatch].append(name)
            self._by_name[name] = execution
            self._record.note(
                "execution",
                execution=name,
                job=order["job_id"],
                dispatch=dispatch,
                order=order,
                nth=nth,
            )
        self._walk_in_background(execution)
        return execution

    def resume(self, entries: Iterable[dict[str, Any]]) -> None:
        """Restore and continue the executions of a process that was killed."""
        for entry in entries:
            self._replay(entry)
        for execution in self._by_name.values():
            if execution.why is None:
                self._walk_in_background(execution)

    def _replay(self, entry: dict[str, Any]) -> None:
        if entry["kind"] == "execution":
            execution = Execution(
                entry["execution"], entry["dispatch"], entry["order"], entry["nth"]
            )
            self._by_name[execution.name] = execution
            self._of_dispatch[execution.dispatch].append(execution.name)
            self._of_job[entry["job"]] += 1
        elif entry["kind"] == "callback":
            self._by_name[entry["execution"]].pending = entry["body"]
            self._by_name[entry["execution"]].latest = entry["body"]["occurred_at"]
        elif entry["kind"] == "callback_answer" and entry["status"] in (200, 204):
            execution = self._by_name[entry["execution"]]
            if execution.pending is not None:
                execution.reported.append(execution.pending["status"])
            execution.pending = None
        elif entry["kind"] == "finished":
            self._by_name[entry["execution"]].why = entry["why"]
        elif entry["kind"] == "cancel_request":
            self._by_name[entry["execution"]].cancelled.set()

    def _walk_in_background(self, execution: Execution) -> None:
        threading.Thread(target=self._walk, args=(execution,), daemon=True).start()

    def _walk(self, execution: Execution) -> None:
        fate = fate_of(
            self._seed,
            number_of(execution.order["video_uri"]),
            "resume_from_status" in execution.order,
            execution.nth,
        )
        why = "done"
        for body in self._bodies(execution, fate):
            if execution.cancelled.is_set():
                why = "cancelled"
            else:
                why = "died" if body is None else self._report(execution, body, fate)
            if why != "done":
                break
        self._record.note(
            "finished",
            execution=execution.name,
            job=execution.order["job_id"],
            dispatch=execution.dispatch,
            why=why,
        )
        execution.why = why

    def state(self, dispatch: str) -> str:
        """Return a dispatch's state as an engine would, as one of `domain.claim.RunState`'s values."""
        name = next(iter(self._of_dispatch[dispatch]), None)
        if name is None:
            return "not_found"
        execution = self._by_name[name]
        if execution.why is None:
            return "running"
        if execution.why in ("died", "cancelled"):
            return {"died": "failed"}.get(execution.why, execution.why)
        return "failed" if "FAILED" in execution.reported else "succeeded"

    def name_of(self, dispatch: str) -> str | None:
        """Return the name of a dispatch's first execution, if any."""
        return next(iter(self._of_dispatch[dispatch]), None)

    def cancel(self, name: str) -> str | None:
        """End an execution before its next report; return its state before that, None if unknown."""
        execution = self._by_name.get(name)
        if execution is None:
            return None
        before = self.state(execution.dispatch)
        if before == "running":
            self._record.note("cancel_request", execution=name, job=execution.order["job_id"])
            execution.cancelled.set()
        return before

    def _bodies(self, execution: Execution, fate: Fate) -> Iterable[dict[str, Any] | None]:
        """Yield the callbacks to send, in order; None where the execution dies."""
        if execution.pending is not None:
            yield execution.pending
            execution.pending = None
        for status, artifact in steps_from(execution.order.get("resume_from_status")):
            if "FAILED" in execution.reported:
                return
            if status == fate.dies_before and status not in execution.reported:
                yield None
            if status not in execution.reported:
                time.sleep(fate.step_seconds)
                yield self._body(execution, status, artifact)
            if status == fate.fails_after:
                time.sleep(fate.step_seconds)
                yield self._body(execution, "FAILED", None)
                return

    def _body(self, execution: Execution, status: str, artifact: str | None) -> dict[str, Any]:
        job_id, event = execution.order["job_id"], f"{execution.name}-{status}"
        # The contract forbids a report that is dated before the last one; the clock may jump back.
        execution.latest = max(execution.latest, datetime.now(UTC).isoformat())
        body = {
            "event_id": event,
            "status": status,
            "occurred_at": execution.latest,
            "correlation_id": event,
            "artifact_updates": {artifact: f"s3://chaos/{job_id}/{artifact}"} if artifact else {},
        }
        # dispatch_id is optional, except where the engine can be queried.
        if self._queryable or number_of(execution.order["video_uri"]) % 2:
            body["dispatch_id"] = execution.dispatch
        if self.mode(execution.order) == SENDS_EXECUTION_ID:
            body["execution_id"] = execution.name
        if status == "FAILED":
            body |= {"failure_code": "CHAOS", "failure_message": "by seed"}
        return body

    def _report(self, execution: Execution, body: dict[str, Any], fate: Fate) -> str:
        """Post a callback until it is answered; return "done", or why the execution ends here."""
        tries = 0
        while True:
            status, code = self._post(execution, body)
            if status in (200, 204):
                execution.reported.append(body["status"])
                execution.first_reported.set()
                if fate.doubles_callbacks:
                    self._post(execution, body)
                return "done"
            if status is not None and 400 <= status < 500:
                execution.first_reported.set()
                return str(code)
            time.sleep(min(0.1 * 2**tries, LONGEST_PAUSE_SECONDS))
            tries += 1

    def _post(self, execution: Execution, body: dict[str, Any]) -> tuple[int | None, str | None]:
        call = str(uuid4())
        ids = {"execution": execution.name, "job": execution.order["job_id"], "call": call}
        self._record.note("callback", body=body, dispatch=execution.dispatch, **ids)
        status, answer = self._send(execution.order["callback_url"], body)
        self._record.note("callback_answer", status=status, body=answer, **ids)
        return status, answer.get("code")

    def _send(self, url: str, body: dict[str, Any]) -> tuple[int | None, dict[str, Any]]:
        # Each callback has its own connection, so that a cut affects only one.
        with requests.Session() as session:
            session.trust_env = False
            headers = {"X-Callback-Secret": self._secret}
            try:
                answer = session.post(
                    url, json=body, headers=headers, timeout=CALLBACK_TIMEOUT_SECONDS
                )
                return answer.status_code, answer.json() if answer.content else {}
            except (requests.RequestException, ValueError):
                return None, {}
