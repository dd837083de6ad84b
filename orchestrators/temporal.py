"""Temporal, through its HTTP API: the dispatch id is the workflow id."""

import re
from datetime import timedelta

from domain.claim import ClaimEvent, Refusal, RunState
from orchestrators.base import Adapter, Answer, Cancel, Dispatch, Request, Run, bearer, quoted

# With any other status a run is running.
_ENDED = {
    "WORKFLOW_EXECUTION_STATUS_COMPLETED": RunState.SUCCEEDED,
    "WORKFLOW_EXECUTION_STATUS_FAILED": RunState.FAILED,
    "WORKFLOW_EXECUTION_STATUS_TIMED_OUT": RunState.FAILED,
    "WORKFLOW_EXECUTION_STATUS_CANCELED": RunState.CANCELLED,
    "WORKFLOW_EXECUTION_STATUS_TERMINATED": RunState.CANCELLED,
}


class Temporal(Adapter):
    """Starts `workflow`, a "Type@queue", at the HTTP API at `url`; `credentials` are a bearer token."""

    # A run is recognised for its namespace's retention time after its end; `problem` refuses less than this.
    window = timedelta(days=1)

    def __init__(self, url: str, workflow: str, credentials: str, namespace: str) -> None:
        self._type, _, self._queue = workflow.rpartition("@")
        base = f"{url.rstrip('/')}/api/v1/namespaces"
        self._namespace = f"{base}/{quoted(namespace or 'default')}"
        self._headers = bearer(credentials)

    def start(self, dispatch: Dispatch, prepared: str) -> Request:
        """Without the two policies a repeat would start a second run once the first has ended."""
        fields = {
            "workflowType": {"name": self._type},
            "taskQueue": {"name": self._queue},
            "input": [dispatch.fields],
            "requestId": dispatch.dispatch_id,
            "workflowIdReusePolicy": "WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE",
            "workflowIdConflictPolicy": "WORKFLOW_ID_CONFLICT_POLICY_FAIL",
        }
        return self._post(self._run(dispatch.dispatch_id), fields)

    def is_accepted(self, answer: Answer) -> bool:
        """A repeat under the same request id gets the same answer as the first start."""
        fields = answer.fields()
        return bool(fields.get("runId")) and fields.get("started") is True

    def read_start(self, answer: Answer) -> ClaimEvent | Refusal:
        if _has_detail(answer, "WorkflowExecutionAlreadyStartedFailure"):
            return ClaimEvent.LOST
        return super().read_start(answer)

    def ask(self, dispatch_id: str, prepared: str) -> Request:
        return self._get(self._run(dispatch_id))

    def read_ask(self, answer: Answer) -> Run:
        """A missing namespace says nothing about the run."""
        match answer.status, answer.fields():
            case 200, {"workflowExecutionInfo": {"status": str(status)}}:
                if status.startswith("WORKFLOW_EXECUTION_STATUS_"):
                    return Run(_ENDED.get(status, RunState.RUNNING))
            case 404, _ if _has_detail(answer, "NotFoundFailure"):
                return Run(RunState.NOT_FOUND)
        return Run(RunState.NO_ANSWER)

    def cancel(self, dispatch: Dispatch, run: Run | None, prepared: str) -> Request:
        """A request to end; a run that has ended stays as it is."""
        fields = {"requestId": f"cancel-{dispatch.dispatch_id}", "reason": "cancelled in Take One"}
        return self._post(f"{self._run(dispatch.dispatch_id)}/cancel", fields)

    def is_cancelled(self, answer: Answer) -> bool:
        return answer.json() == {}

    def read_cancel(self, answer: Answer) -> Cancel:
        """Temporal's own errors have a code. 404 counts only if it is about the run."""
        is_own = answer.is_success or "code" in answer.fields()
        if not is_own or (answer.status == 404 and not _has_detail(answer, "NotFoundFailure")):
            return Cancel.NO_ANSWER
        return super().read_cancel(answer)

    def checks(self, prepared: str) -> dict[str, Request]:
        """Temporal does not tell which workflow types a worker knows."""
        queue = f"{self._namespace}/task-queues/{quoted(self._queue)}"
        return {
            "namespace": self._get(self._namespace),
            "worker": self._get(f"{queue}?taskQueueType=TASK_QUEUE_TYPE_WORKFLOW"),
        }

    def problem(self, check: str, answer: Answer) -> str | None:
        fields = answer.fields()
        if _has_detail(answer, "NamespaceNotFoundFailure"):
            return "the namespace does not exist; correct TAKEONE_ORCHESTRATOR_NAMESPACE"
        if not answer.is_success or not fields:
            return "no answer of Temporal's; TAKEONE_ORCHESTRATOR_URL is that of its HTTP API"
        if check == "worker":
            return None if fields.get("pollers") else "no worker polls the task queue; start one"
        retention = re.search(rb'"workflowExecutionRetentionTtl": ?"(\d{1,9})', answer.body)
        is_long = retention is not None and int(retention[1]) >= self.window.total_seconds()
        return None if is_long else "the namespace's retention is less than a day; raise it"

    def _run(self, dispatch_id: str) -> str:
        return f"{self._namespace}/workflows/{quoted(dispatch_id)}"


def _has_detail(answer: Answer, name: str) -> bool:
    return any(str(item.get("@type")).endswith(f".{name}") for item in answer.objects("details"))
