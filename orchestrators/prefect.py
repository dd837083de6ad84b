"""Prefect 3: a dispatch is a flow run of one deployment, and the dispatch id is its idempotency key."""

import base64
from datetime import timedelta

from domain.claim import ClaimEvent, Refusal, RunState
from orchestrators.base import Adapter, Answer, Dispatch, Request, Run, bearer, quoted

_STATES = {
    "COMPLETED": RunState.SUCCEEDED,
    "FAILED": RunState.FAILED,
    "CRASHED": RunState.FAILED,
    "CANCELLED": RunState.CANCELLED,
    **dict.fromkeys(("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING"), RunState.RUNNING),
}
_NO_DEPLOYMENT = "Deployment not found"


class Prefect(Adapter):
    """Starts `workflow`, a "flow/deployment", at the API at `url` (Prefect's PREFECT_API_URL).

    `credentials` are the `user:password` of a self-hosted server, or an API key of Prefect Cloud.
    """

    window = timedelta.max  # idempotency keys do not expire
    asks_before_cancel = True  # a cancel needs Prefect's own id of the run

    def __init__(self, url: str, workflow: str, credentials: str) -> None:
        self._url = url.rstrip("/")
        self._flow, _, self._deployment = workflow.partition("/")
        basic = base64.b64encode(credentials.encode()).decode()
        is_user = ":" in credentials
        self._headers = {"Authorization": f"Basic {basic}"} if is_user else bearer(credentials)

    def prepare(self) -> Request:
        """The deployment's id, by its name."""
        name = f"{quoted(self._flow)}/{quoted(self._deployment)}"
        return self._get(f"{self._url}/deployments/name/{name}")

    def read_prepare(self, answer: Answer) -> str | Refusal:
        """The deployment's id, valid until the deployment is deleted."""
        value = answer.fields().get("id") if answer.is_success else None
        return value if isinstance(value, str) else answer.refusal or Refusal.UNAVAILABLE

    def is_stale(self, answer: Answer) -> bool:
        """The deployment was deleted; there may be a new one of its name."""
        return answer.status == 404 and answer.fields().get("detail") == _NO_DEPLOYMENT

    def start(self, dispatch: Dispatch, prepared: str) -> Request:
        """A flow run with one parameter `job`, the dispatch."""
        key = dispatch.dispatch_id
        fields = {"parameters": {"job": dispatch.fields}, "idempotency_key": key, "name": key}
        return self._post(f"{self._url}/deployments/{prepared}/create_flow_run", fields)

    def is_accepted(self, answer: Answer) -> bool:
        """201 is a new run, 200 one that existed already."""
        return answer.fields().keys() >= {"id", "state_type"}

    def read_start(self, answer: Answer) -> ClaimEvent | Refusal:
        """409 means invalid parameters. 503 means any database error, also during the commit: LOST."""
        if answer.status == 409 and answer.is_whole:
            return Refusal.INVALID_PARAMETERS
        return super().read_start(answer)

    def ask(self, dispatch_id: str, prepared: str) -> Request:
        """A key is unique within its flow only."""
        return self._post(
            f"{self._url}/flow_runs/filter",
            {
                "flows": {"name": {"any_": [self._flow]}},
                "flow_runs": {"idempotency_key": {"any_": [dispatch_id]}},
                "limit": 1,
            },
        )

    def read_ask(self, answer: Answer) -> Run:
        match answer.json() if answer.is_success else None:
            case []:
                return Run(RunState.NOT_FOUND)
            case [{"id": str(run_id), "state_type": str(state)}]:
                return Run(_STATES.get(state, RunState.NO_ANSWER), run_id)
        return Run(RunState.NO_ANSWER)

    def cancel(self, dispatch: Dispatch, run: Run | None, prepared: str) -> Request | None:
        if run is None or run.run_id is None:
            return None
        url = f"{self._url}/flow_runs/{quoted(run.run_id)}/set_state"
        return self._post(url, {"state": {"type": "CANCELLING"}})

    def is_cancelled(self, answer: Answer) -> bool:
        """Judged by the state that the run has now: Prefect may set another than the one requested."""
        match answer.fields():
            case {"state": {"type": "CANCELLING" | "CANCELLED"}} | {"status": "ABORT"}:
                return True
        return False

    def checks(self, prepared: str) -> dict[str, Request]:
        return {"deployment": self.prepare()}

    def problem(self, check: str, answer: Answer) -> str | None:
        """Prefect accepts runs of a deployment that is paused or not served: they stay Late."""
        problem: str | None = f"answered {answer.status}: is this the URL of Prefect's API (…/api)?"
        match answer.status, answer.fields():
            case 404, {"detail": detail} if detail == _NO_DEPLOYMENT:
                problem = "there is no such deployment"
            case 200, {"paused": True}:
                problem = "the deployment is paused: its runs wait until it is served again"
            case 200, {"paused": False, "status": "NOT_READY"}:
                problem = "no flow.serve() and no worker asks for the deployment's runs: they wait"
            case 200, {"paused": False}:
                problem = None
        return problem
