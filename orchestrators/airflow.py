"""Airflow 3: a dispatch is a run of one DAG, and its id the run's id."""

import base64
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import orjson

from domain.claim import Refusal, RunState
from orchestrators.base import (
    Adapter,
    Answer,
    Cancel,
    Check,
    Dispatch,
    Prepared,
    Request,
    Run,
    Start,
    StartAnswer,
    general_cancel,
    general_start,
)

_STATES = {
    "queued": RunState.RUNNING,
    "running": RunState.RUNNING,
    "success": RunState.SUCCEEDED,
    "failed": RunState.FAILED,
}
_NO_SIGN_IN = frozenset({400, 401, 403, 422})
_NOTE = "Cancelled by Take One."


class Airflow(Adapter):
    """Starts the DAG `workflow` at the Airflow of `url`.

    `credentials` are `user:password`, for which Airflow gives tokens, or a bearer token of a managed one.
    """

    window = timedelta.max  # as long as the run's record is kept
    can_be_asked = True
    can_cancel = True
    asks_before_cancel = True  # a run that succeeded would be marked as failed

    def __init__(self, *, url: str, workflow: str, credentials: str = "", **_unused: str) -> None:
        self._url = url.rstrip("/")
        self._dag = f"/api/v2/dags/{quote(workflow, safe='')}"
        self._user, self._is_user, self._password = credentials.partition(":")

    def prepare(self) -> Request | None:
        """A token for the user; none is needed with a bearer token."""
        if not self._is_user:
            return None
        fields = {"username": self._user, "password": self._password}
        return Request("POST", f"{self._url}/auth/token", orjson.dumps(fields))

    def read_prepare(self, answer: Answer) -> Prepared | Refusal:
        """The token, and how long it lives."""
        token = answer.fields().get("access_token") if answer.is_success else None
        if isinstance(token, str):
            return Prepared(token, _life_seconds(token))
        is_refused = answer.status in _NO_SIGN_IN
        return Refusal.UNAUTHORIZED if is_refused else Refusal.UNAVAILABLE

    def is_stale(self, answer: Answer) -> bool:
        """The token has expired, or was signed with a key that Airflow has no more."""
        if not self._is_user:
            return False
        is_invalid = answer.status == 403 and answer.fields().get("detail") == "Invalid JWT token"
        return answer.status == 401 or is_invalid

    def start(self, dispatch: Dispatch, prepared: str) -> Request:
        """A run whose `conf` is the dispatch. `logical_date` has to be there, as null."""
        key, conf = dispatch.dispatch_id, dispatch.fields
        fields = {"dag_run_id": key, "logical_date": None, "conf": conf}
        return self._request("POST", f"{self._dag}/dagRuns", prepared, fields)

    def read_start(self, answer: Answer) -> StartAnswer:
        """200 is a new run. 409 may say that the id is taken, which asking shows."""
        fields = answer.fields()
        if answer.is_success and "dag_run_id" in fields and "state" in fields:
            return StartAnswer(Start.ACCEPTED)
        match answer.status, fields:
            case 409, {"detail": {"reason": "Unique constraint violation"}}:
                return StartAnswer(Start.EXISTS)
        return general_start(answer)

    def ask(self, dispatch_id: str, prepared: str) -> Request:
        """The run with this id."""
        return self._request("GET", self._run(dispatch_id), prepared)

    def read_ask(self, answer: Answer) -> Run:
        """The run's state. The words for a run that is not there are the same for an unknown DAG."""
        fields = answer.fields()
        if answer.is_success and "dag_run_id" in fields:
            return Run(_STATES.get(str(fields.get("state")), RunState.NO_ANSWER))
        is_missing = str(fields.get("detail", "")).startswith("The DagRun with dag_id:")
        is_word = answer.status == 404 and is_missing
        return Run(RunState.NOT_FOUND if is_word else RunState.NO_ANSWER)

    def cancel(self, dispatch: Dispatch, run: Run | None, prepared: str) -> Request | None:
        """Mark the run as failed, which ends its tasks; None unless it was found running."""
        if run is None or run.state is not RunState.RUNNING:
            return None
        fields = {"state": "failed", "note": _NOTE}
        return self._request("PATCH", self._run(dispatch.dispatch_id), prepared, fields)

    def read_cancel(self, answer: Answer) -> Cancel:
        """The run's record, as it is now, says that it was done."""
        if answer.is_success and "dag_run_id" not in answer.fields():
            return Cancel.NO_ANSWER
        return general_cancel(answer)

    def checks(self, prepared: str) -> Iterable[Check]:
        """Whether the DAG takes runs, and a scheduler is there to start them."""
        return (
            Check("dag", self._request("GET", self._dag, prepared)),
            Check("scheduler", self._request("GET", "/api/v2/monitor/health", prepared)),
        )

    def problem(self, check: Check, answer: Answer) -> str | None:
        """Airflow takes runs of a paused DAG too, and without a scheduler: they stay queued."""
        problem: str | None = f"answered {answer.status}: is this the URL of an Airflow 3?"
        match check.name, answer.status, answer.fields():
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
        return f"{self._dag}/dagRuns/{quote(dispatch_id, safe='')}"

    def _request(
        self, method: str, path: str, prepared: str, fields: Mapping[str, Any] | None = None
    ) -> Request:
        token = prepared if self._is_user else self._user
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        body = b"" if fields is None else orjson.dumps(fields)
        return Request(method, self._url + path, body, headers)


def _life_seconds(token: str) -> float | None:
    """How long a JWT lives, by its own claims, which no clock is needed for; None if it does not say."""
    try:
        claims = orjson.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        life = float(claims["exp"] - claims["iat"])
    except (LookupError, TypeError, ValueError):  # also no base64, no JSON
        return None
    return life if life > 0 else None
