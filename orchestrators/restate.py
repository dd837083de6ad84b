"""Restate: a handler is invoked by its name, once for an idempotency key."""

import re
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import orjson

from domain.claim import RunState
from orchestrators.base import Adapter, Answer, Cancel, Dispatch, Request, Run


class Restate(Adapter):
    """The ingress is at `url`; the admin API, which alone can cancel, at `cancel_url` if that is given.

    `workflow` is "Service/handler", `credentials` a bearer token.
    """

    # A key is kept for a day after the run's end, unless the service says otherwise; see `problem`.
    window = timedelta(days=1)

    def __init__(self, url: str, workflow: str, credentials: str, cancel_url: str) -> None:
        self._ingress, self._admin = url.rstrip("/"), cancel_url.rstrip("/")
        self._service, _, self._handler = workflow.partition("/")
        self._target = f"{quote(self._service, '')}/{quote(self._handler, '')}"
        self._headers = {"Authorization": f"Bearer {credentials}"} if credentials else {}
        self.can_cancel = self.asks_before_cancel = bool(cancel_url)

    def start(self, dispatch: Dispatch, prepared: str) -> Request:
        """A one-way call of the handler with the contract's fields."""
        headers = {**self._headers, "idempotency-key": dispatch.dispatch_id}
        return Request("POST", f"{self._ingress}/{self._target}/send", dispatch.body, headers)

    def is_accepted(self, answer: Answer) -> bool:
        """Its own word, for a first and for a repeated start."""
        fields = answer.fields()
        is_word = fields.get("status") in ("Accepted", "PreviouslyAccepted")
        return is_word and bool(fields.get("invocationId"))

    def ask(self, dispatch_id: str, prepared: str) -> Request:
        """The output of the invocation, which is there or not yet."""
        key = quote(dispatch_id, "")
        return self._get(f"{self._ingress}/restate/invocation/{self._target}/{key}/output")

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
        state, invocation_id = RunState.NO_ANSWER, answer.headers.get("x-restate-id")
        match answer.status, answer.fields():
            case 200, _ if invocation_id:  # the body is the run's own
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
        url = f"{self._admin}/invocations/{quote(run.run_id, '')}/cancel"
        return Request("PATCH", url, headers=self._headers)

    def is_cancelled(self, answer: Answer) -> bool:
        """202 has no body."""
        return not answer.body

    def read_cancel(self, answer: Answer) -> Cancel:
        """Errors have a message, and 409 says that the run has ended."""
        if answer.status in (404, 409) and "message" not in answer.fields():
            return Cancel.NO_ANSWER
        return Cancel.DONE if answer.status == 409 else super().read_cancel(answer)

    def checks(self, prepared: str) -> dict[str, Request]:
        """The services that the ingress knows, and the service as the admin API describes it."""
        checks = {"registered": self._get(f"{self._ingress}/restate/health")}
        if self._admin:
            service = f"{self._admin}/services/{quote(self._service, '')}"
            checks["handler"] = self._get(service)
        return checks

    def problem(self, check: str, answer: Answer) -> str | None:
        """The handler is there, may be called, and keeps keys for `window` at least."""
        fields = answer.fields()
        if check == "registered":
            services = fields.get("services")
            is_known = isinstance(services, list) and self._service in services
            return None if is_known else "the service is not registered at the ingress; register it"
        handlers = answer.objects("handlers")
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


def _quoted(text: str) -> str:
    """A string of SQL."""
    return "'" + text.replace("'", "''") + "'"
