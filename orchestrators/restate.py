"""Restate: a dispatch is an invocation of one handler, and the dispatch id is its idempotency key."""

import re
from datetime import timedelta
from typing import Any

import orjson

from domain.claim import RunState
from orchestrators.base import Adapter, Answer, Cancel, Dispatch, Request, Run, bearer, quoted


class Restate(Adapter):
    """Starts `workflow`, a "Service/handler", at the ingress at `url`; `credentials` are a bearer token.

    Cancels at the admin API at `cancel_url`, if that is given.
    """

    # By default a key is kept for a day after the run's end; `problem` refuses less.
    window = timedelta(days=1)

    def __init__(self, url: str, workflow: str, credentials: str, cancel_url: str) -> None:
        self._ingress, self._admin = url.rstrip("/"), cancel_url.rstrip("/")
        self._service, _, self._handler = workflow.partition("/")
        self._target = f"{quoted(self._service)}/{quoted(self._handler)}"
        self._headers = bearer(credentials)
        self.can_cancel = self.asks_before_cancel = bool(cancel_url)

    def start(self, dispatch: Dispatch, prepared: str) -> Request:
        """A one-way call of the handler."""
        headers = {**self._headers, "idempotency-key": dispatch.dispatch_id}
        return Request("POST", f"{self._ingress}/{self._target}/send", dispatch.body, headers)

    def is_accepted(self, answer: Answer) -> bool:
        fields = answer.fields()
        is_accepted = fields.get("status") in ("Accepted", "PreviouslyAccepted")
        return is_accepted and bool(fields.get("invocationId"))

    def ask(self, dispatch_id: str, prepared: str) -> Request:
        """The output of the invocation."""
        invocation = f"{self._target}/{quoted(dispatch_id)}"
        return self._get(f"{self._ingress}/restate/invocation/{invocation}/output")

    def ask_before_cancel(self, dispatch_id: str, prepared: str) -> Request:
        """The id of the invocation, which the ingress does not tell while it runs."""
        target = _sql_string(f"{self._service}/{self._handler}")
        query = (
            "SELECT id, status, completion_result, completion_failure FROM sys_invocation"  # noqa: S608
            f" WHERE target = {target} AND idempotency_key = {_sql_string(dispatch_id)}"
        )
        headers = {**self._headers, "Accept": "application/json"}
        return Request("POST", f"{self._admin}/query", orjson.dumps({"query": query}), headers)

    def read_ask(self, answer: Answer) -> Run:
        """What the ingress or the admin API says. A failed run chooses its own HTTP status."""
        state, invocation_id = RunState.NO_ANSWER, answer.headers.get("x-restate-id")
        match answer.status, answer.fields():
            case 200, _ if invocation_id:  # the body is the run's result
                state = RunState.SUCCEEDED
            case 200, {"rows": list(rows)}:
                return _read_rows(rows)
            case 409, {"source": "invocation", "message": "cancelled"}:
                state = RunState.CANCELLED
            case _, {"source": "invocation"}:
                state = RunState.FAILED
            case 470, {"source": "ingress"}:  # Restate's own status: not completed
                state = RunState.RUNNING
            case 404, {"source": "ingress", "message": "invocation not found"}:
                state = RunState.NOT_FOUND
        return Run(state, invocation_id)

    def cancel(self, dispatch: Dispatch, run: Run | None, prepared: str) -> Request | None:
        if run is None or run.run_id is None:
            return None
        url = f"{self._admin}/invocations/{quoted(run.run_id)}/cancel"
        return Request("PATCH", url, headers=self._headers)

    def is_cancelled(self, answer: Answer) -> bool:
        """202 has no body."""
        return answer.is_whole and not answer.body

    def read_cancel(self, answer: Answer) -> Cancel:
        """Restate's own errors have a message; 409 means that the run has ended."""
        if answer.status in (404, 409) and "message" not in answer.fields():
            return Cancel.NO_ANSWER
        return Cancel.DONE if answer.status == 409 else super().read_cancel(answer)

    def checks(self, prepared: str) -> dict[str, Request]:
        checks = {"registered": self._get(f"{self._ingress}/restate/health")}
        if self._admin:
            checks["handler"] = self._get(f"{self._admin}/services/{quoted(self._service)}")
        return checks

    def problem(self, check: str, answer: Answer) -> str | None:
        """Whether the handler exists, can be called, and keeps keys for at least `window`."""
        fields = answer.fields()
        if check == "registered":
            services = fields.get("services")
            is_known = isinstance(services, list) and self._service in services
            return None if is_known else "the service is not registered at the ingress; register it"
        handlers = answer.objects("handlers")
        handler = next((item for item in handlers if item.get("name") == self._handler), None)
        if handler is None:
            return "the service has no such handler; add it, and register again"
        if not handler.get("public"):
            return "the handler is private: the ingress does not call it; make it public"
        retention = handler.get("idempotency_retention") or fields.get("idempotency_retention")
        is_long = re.match(r"[1-9]\d*d\b", str(retention))  # such as "1d 12h"
        return None if is_long else "idempotency_retention is less than a day; raise it"


def _read_rows(rows: list[Any]) -> Run:
    match rows:
        case []:
            return Run(RunState.NOT_FOUND)
        case [{"id": str(run_id), "status": "completed"} as row, *_]:
            is_cancelled = row.get("completion_failure") == "[409] cancelled"
            state = RunState.CANCELLED if is_cancelled else RunState.FAILED
            is_success = row.get("completion_result") == "success"
            return Run(RunState.SUCCEEDED if is_success else state, run_id)
        case [{"id": str(run_id)}, *_]:
            return Run(RunState.RUNNING, run_id)
    return Run(RunState.NO_ANSWER)


def _sql_string(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
