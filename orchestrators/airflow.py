"""Airflow 3: a dispatch is a run of one DAG, and the dispatch id is the run's id."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import orjson

from domain.claim import ClaimEvent, Refusal, RunState
from orchestrators.base import Adapter, Answer, Cancel, Dispatch, Request, Run, bearer, quoted

_STATES = {
    "queued": RunState.RUNNING,
    "running": RunState.RUNNING,
    "success": RunState.SUCCEEDED,
    "failed": RunState.FAILED,
}


class Airflow(Adapter):
    """Starts the DAG `workflow` of the Airflow at `url`.

    `credentials` are `user:password`, which Airflow exchanges for a token, or a bearer token.
    """

    window = timedelta.max  # as long as the run's record is kept
    asks_before_cancel = True  # a cancel marks even a successful run as failed

    def __init__(self, url: str, workflow: str, credentials: str) -> None:
        self._url = url.rstrip("/")
        self._dag = f"{self._url}/api/v2/dags/{quoted(workflow)}"
        self._user, self._is_user, self._password = credentials.partition(":")

    def prepare(self) -> Request | None:
        if not self._is_user:
            return None
        fields = {"username": self._user, "password": self._password}
        return Request("POST", f"{self._url}/auth/token", orjson.dumps(fields))

    def read_prepare(self, answer: Answer) -> str | Refusal:
        token = answer.fields().get("access_token") if answer.is_success else None
        if isinstance(token, str):
            return token
        is_refused = answer.status in (400, 401, 403, 422)
        return Refusal.UNAUTHORIZED if is_refused else Refusal.UNAVAILABLE

    def is_stale(self, answer: Answer) -> bool:
        """The token has expired, or Airflow has changed its signing key."""
        if not self._is_user:
            return False
        is_invalid = answer.status == 403 and answer.fields().get("detail") == "Invalid JWT token"
        return answer.status == 401 or is_invalid

    def start(self, dispatch: Dispatch, prepared: str) -> Request:
        """A run whose `conf` is the dispatch. Airflow requires `logical_date`, if only as null."""
        fields = {
            "dag_run_id": dispatch.dispatch_id,
            "logical_date": None,
            "conf": dispatch.fields,
        }
        return self._request("POST", f"{self._dag}/dagRuns", prepared, fields)

    def is_accepted(self, answer: Answer) -> bool:
        return answer.fields().keys() >= {"dag_run_id", "state"}

    def read_start(self, answer: Answer) -> ClaimEvent | Refusal:
        match answer.status, answer.fields():
            case 409, {"detail": {"reason": "Unique constraint violation"}}:
                return ClaimEvent.LOST
        return super().read_start(answer)

    def ask(self, dispatch_id: str, prepared: str) -> Request:
        return self._request("GET", self._run(dispatch_id), prepared)

    def read_ask(self, answer: Answer) -> Run:
        """The run's state. The text for a missing run is the same for an unknown DAG."""
        match answer.status, answer.fields():
            case 200, {"dag_run_id": _, "state": str(state)}:
                return Run(_STATES.get(state, RunState.NO_ANSWER))
            case 404, {"detail": str(detail)} if detail.startswith("The DagRun with dag_id:"):
                return Run(RunState.NOT_FOUND)
        return Run(RunState.NO_ANSWER)

    def cancel(self, dispatch: Dispatch, run: Run | None, prepared: str) -> Request:
        """Mark the run as failed, which ends its tasks."""
        fields = {"state": "failed", "note": "Cancelled by Take One."}
        return self._request("PATCH", self._run(dispatch.dispatch_id), prepared, fields)

    def is_cancelled(self, answer: Answer) -> bool:
        return "dag_run_id" in answer.fields()

    def read_cancel(self, answer: Answer) -> Cancel:
        """404 counts only if it is about the run: without its DAG's file, a run cannot be cancelled yet."""
        is_about_other = answer.status == 404 and self.read_ask(answer).state is RunState.NO_ANSWER
        return Cancel.NO_ANSWER if is_about_other else super().read_cancel(answer)

    def checks(self, prepared: str) -> dict[str, Request]:
        return {
            "dag": self._request("GET", self._dag, prepared),
            "scheduler": self._request("GET", f"{self._url}/api/v2/monitor/health", prepared),
        }

    def problem(self, check: str, answer: Answer) -> str | None:
        """Airflow accepts runs of a paused DAG, and runs without a scheduler: they stay queued."""
        problem: str | None = f"answered {answer.status}: is this the URL of an Airflow 3?"
        match check, answer.status, answer.fields():
            case "scheduler", 200, {"scheduler": {"status": str(status)}}:
                is_alive = status == "healthy"
                problem = None if is_alive else "no scheduler is alive: runs stay queued"
            case "dag", 200, {"is_paused": True}:
                problem = "the DAG is paused: its runs stay queued"
            case "dag", 200, {"is_stale": True} | {"has_import_errors": True}:
                problem = "Airflow cannot read the DAG's file: runs are refused"
            case "dag", 200, {"is_paused": False}:
                problem = None
            case "dag", 404, {"detail": _}:
                problem = "there is no such DAG"
        return problem

    def _run(self, dispatch_id: str) -> str:
        return f"{self._dag}/dagRuns/{quoted(dispatch_id)}"

    def _request(
        self, method: str, url: str, prepared: str, fields: Mapping[str, Any] | None = None
    ) -> Request:
        body = b"" if fields is None else orjson.dumps(fields)
        return Request(method, url, body, bearer(prepared if self._is_user else self._user))
