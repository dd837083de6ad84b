"""Prefect 3: a dispatch is a flow run of one deployment, and its id the run's idempotency key."""

import base64
from datetime import timedelta
from urllib.parse import quote

from domain.claim import ClaimEvent, Refusal, RunState
from orchestrators.base import Adapter, Answer, Dispatch, Request, Run

_STATES = {
    "COMPLETED": RunState.SUCCEEDED,
    "FAILED": RunState.FAILED,
    "CRASHED": RunState.FAILED,
    "CANCELLED": RunState.CANCELLED,
    **dict.fromkeys(("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING"), RunState.RUNNING),
}
_NO_DEPLOYMENT = "Deployment not found"


class Prefect(Adapter):
    """Starts `workflow`, which is `flow/deployment`, at the API of `url` (Prefect's PREFECT_API_URL).

    `credentials` are `user:password` of a server of your own, or an API key of Prefect Cloud.
    """

    window = timedelta.max  # idempotency keys do not expire
    asks_before_cancel = True  # a run is cancelled by Prefect's own id of it

    def __init__(self, url: str, workflow: str, credentials: str) -> None:
        self._url = url.rstrip("/")
        self._flow, _, self._deployment = workflow.partition("/")
        is_user = ":" in credentials
        basic = f"Basic {base64.b64encode(credentials.encode()).decode()}"
        authorization = basic if is_user else f"Bearer {credentials}"
        self._headers = {"Authorization": authorization} if credentials else {}

    def prepare(self) -> Request:
        """The deployment's id, by its name."""
        flow, deployment = quote(self._flow, safe=""), quote(self._deployment, safe="")
        return self._get(f"{self._url}/deployments/name/{flow}/{deployment}")

    def read_prepare(self, answer: Answer) -> str | Refusal:
        """The id, which is good until the deployment is deleted."""
        found = answer.fields().get("id") if answer.is_success else None
        return found if isinstance(found, str) else answer.refusal or Refusal.UNAVAILABLE

    def is_stale(self, answer: Answer) -> bool:
        """The deployment was deleted; one of its name may have been made since."""
        return answer.status == 404 and answer.fields().get("detail") == _NO_DEPLOYMENT

    def start(self, dispatch: Dispatch, prepared: str) -> Request:
        """A flow run, whose one parameter `job` is the dispatch."""
        key = dispatch.dispatch_id
        fields = {"parameters": {"job": dispatch.fields}, "idempotency_key": key, "name": key}
        return self._post(f"{self._url}/deployments/{prepared}/create_flow_run", fields)

    def is_accepted(self, answer: Answer) -> bool:
        """201 is a new run, 200 the one that was there."""
        return answer.fields().keys() >= {"id", "state_type"}

    def read_start(self, answer: Answer) -> ClaimEvent | Refusal:
        """409 says that the parameters do not fit.

        503 is Prefect's word for any error of its database, also one while it commits.
        """
        if answer.status == 409 and answer.is_whole:
            return Refusal.INVALID_PARAMETERS
        return super().read_start(answer)

    def ask(self, dispatch_id: str, prepared: str) -> Request:
        """The flow's run with this key: a key is unique in its flow."""
        return self._post(
            f"{self._url}/flow_runs/filter",
            {
                "flows": {"name": {"any_": [self._flow]}},
                "flow_runs": {"idempotency_key": {"any_": [dispatch_id]}},
                "limit": 1,
            },
        )

    def read_ask(self, answer: Answer) -> Run:
        """An empty list says that there is no such run."""
        match answer.json() if answer.is_success else None:
            case []:
                return Run(RunState.NOT_FOUND)
            case [{"id": str(run_id), "state_type": str(state)}]:
                return Run(_STATES.get(state, RunState.NO_ANSWER), run_id)
        return Run(RunState.NO_ANSWER)

    def cancel(self, dispatch: Dispatch, run: Run | None, prepared: str) -> Request | None:
        if run is None or run.run_id is None:
            return None
        url = f"{self._url}/flow_runs/{quote(run.run_id, safe='')}/set_state"
        return self._post(url, {"state": {"type": "CANCELLING"}})

    def is_cancelled(self, answer: Answer) -> bool:
        """The state that it has now: Prefect may put another in the place of the one that was asked for."""
        match answer.fields():
            case {"state": {"type": "CANCELLING" | "CANCELLED"}} | {"status": "ABORT"}:
                return True
        return False

    def checks(self, prepared: str) -> dict[str, Request]:
        """Whether the deployment takes runs, and something is there to run them."""
        return {"deployment": self.prepare()}

    def problem(self, check: str, answer: Answer) -> str | None:
        """A paused deployment, or one that is not served, leaves its runs Late without a word."""
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
