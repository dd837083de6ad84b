"""Restate: a handler is invoked by its name, once for an idempotency key."""

import re
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import orjson

from domain.claim import RunState
from orchestrators.base import (
    Adapter,
    Answer,
    Cancel,
    Check,
    Dispatch,
    Request,
    Run,
    Start,
    StartAnswer,
    general_cancel,
    general_start,
    objects,
)

_ACCEPTED = ("Accepted", "PreviouslyAccepted")
_NOT_COMPLETED = 470  # Restate's own status
_CANCELLED = "[409] cancelled"


class Restate(Adapter):
    """The ingress is at `url`; the admin API, which alone can cancel, at `cancel_url` if that is given.

    `workflow` is "Service/handler", `credentials` a bearer token. Restate has no namespaces.
    """

    # A key is kept for a day after the run's end, unless the service says otherwise; see `problem`.
    window = timedelta(days=1)
    can_be_asked = True

    def __init__(
        self, url: str, workflow: str, namespace: str, credentials: str, cancel_url: str
    ) -> None:
        self._ingress, self._admin = url.rstrip("/"), cancel_url.rstrip("/")
        self._service, _, self._handler = workflow.partition("/")
        self._target = f"{quote(self._service, '')}/{quote(self._handler, '')}"
        self._headers = {"Authorization": f"Bearer {credentials}"} if credentials else {}
        self.can_cancel = self.asks_before_cancel = bool(cancel_url)

    def start(self, dispatch: Dispatch, prepared: str) -> Request:
        """A one-way call of the handler with the contract's fields."""
        headers = {**self._headers, "idempotency-key": dispatch.dispatch_id}
        return Request("POST", f"{self._ingress}/{self._target}/send", dispatch.body, headers)

    def read_start(self, answer: Answer) -> StartAnswer:
        """Accepted by its own word alone, for a first and for a repeated start."""
        fields = answer.fields()
        if answer.is_success and fields.get("status") in _ACCEPTED and fields.get("invocationId"):
            return StartAnswer(Start.ACCEPTED)
        return general_start(answer)

    def ask(self, dispatch_id: str, prepared: str) -> Request:
        """The output of the invocation, which is there or not yet."""
        key = quote(dispatch_id, "")
        url = f"{self._ingress}/restate/invocation/{self._target}/{key}/output"
        return Request("GET", url, headers=self._headers)

    def ask_for_cancel(self, dispatch: Dispatch, prepared: str) -> Request:
        """The id of the invocation, which the ingress does not tell while it runs."""
        target = _quoted(f"{self._service}/{self._handler}")
        query = (
            "SELECT id, status, completion_result, completion_failure FROM sys_invocation"  # noqa: S608
            f" WHERE target = {target} AND idempotency_key = {_quoted(dispatch.dispatch_id)}"
        )
        headers = {**self._headers, "Accept": "application/json"}
        return Request("POST", f"{self._admin}/query", orjson.dumps({"query": query}), headers)

    def read_ask(self, answer: Answer) -> Run:
        """What the ingress says, or the admin API. A run that failed has a status of its own choice."""
        fields, invocation_id = answer.fields(), answer.headers.get("x-restate-id")
        if answer.status == 200 and invocation_id:  # the body is the run's own
            return Run(RunState.SUCCEEDED, invocation_id)
        if answer.status == 200 and isinstance(fields.get("rows"), list):
            return _read_rows(fields["rows"])
        source, message = fields.get("source"), fields.get("message")
        if source == "invocation":
            is_cancelled = (answer.status, message) == (409, "cancelled")
            state = RunState.CANCELLED if is_cancelled else RunState.FAILED
            return Run(state, invocation_id)
        if source == "ingress" and answer.status == _NOT_COMPLETED:
            return Run(RunState.RUNNING)
        if source == "ingress" and answer.status == 404 and message == "invocation not found":
            return Run(RunState.NOT_FOUND)
        return Run(RunState.NO_ANSWER)

    def cancel(self, dispatch: Dispatch, run: Run | None, prepared: str) -> Request | None:
        """Asks the run to end; None without the admin API, or if the run is not there."""
        if not self.can_cancel or run is None or run.run_id is None:
            return None
        url = f"{self._admin}/invocations/{quote(run.run_id, '')}/cancel"
        return Request("PATCH", url, headers=self._headers)

    def read_cancel(self, answer: Answer) -> Cancel:
        """202 has no body; errors have a message, and 409 says that the run has ended."""
        if answer.is_success:
            return Cancel.DONE if not answer.body else Cancel.NO_ANSWER
        if answer.status in (404, 409) and "message" not in answer.fields():
            return Cancel.NO_ANSWER
        return Cancel.DONE if answer.status == 409 else general_cancel(answer)

    def checks(self, prepared: str) -> list[Check]:
        """The services that the ingress knows, and the service as the admin API describes it."""
        known = Request("GET", f"{self._ingress}/restate/health", headers=self._headers)
        if not self._admin:
            return [Check("registered", known)]
        url = f"{self._admin}/services/{quote(self._service, '')}"
        described = Request("GET", url, headers=self._headers)
        return [Check("registered", known), Check("handler", described)]

    def problem(self, check: Check, answer: Answer) -> str | None:
        """The handler is there, may be called, and keeps keys for `window` at least."""
        fields = answer.fields()
        if check.name == "registered":
            services = fields.get("services")
            is_known = isinstance(services, list) and self._service in services
            return None if is_known else "the service is not registered at the ingress; register it"
        handlers = objects(fields.get("handlers"))
        found = next((each for each in handlers if each.get("name") == self._handler), None)
        if found is None:
            return "the service has no such handler; add it, and register again"
        if not found.get("public"):
            return "the handler is private: the ingress does not call it; make it public"
        kept = found.get("idempotency_retention") or fields.get("idempotency_retention")
        # Such as "1d 12h"; what begins with hours is less than a day.
        is_long = re.match(r"[1-9]\d*d\b", str(kept))
        return None if is_long else "idempotency_retention is less than a day; raise it"


def _read_rows(rows: list[Any]) -> Run:
    if not rows:
        return Run(RunState.NOT_FOUND)
    row = next(iter(objects(rows)), {})
    run_id = row.get("id")
    if not run_id:
        return Run(RunState.NO_ANSWER)
    if row.get("status") != "completed":
        return Run(RunState.RUNNING, run_id)
    if row.get("completion_result") == "success":
        return Run(RunState.SUCCEEDED, run_id)
    is_cancelled = row.get("completion_failure") == _CANCELLED
    return Run(RunState.CANCELLED if is_cancelled else RunState.FAILED, run_id)


def _quoted(text: str) -> str:
    """A string of SQL."""
    return "'" + text.replace("'", "''") + "'"
