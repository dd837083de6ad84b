"""Temporal, by its HTTP API: a workflow is started under the dispatch id as its workflow id."""

import re
from collections.abc import Mapping
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

# Every other status is that of a run which goes on.
_ENDED = {
    "WORKFLOW_EXECUTION_STATUS_COMPLETED": RunState.SUCCEEDED,
    "WORKFLOW_EXECUTION_STATUS_FAILED": RunState.FAILED,
    "WORKFLOW_EXECUTION_STATUS_TIMED_OUT": RunState.FAILED,
    "WORKFLOW_EXECUTION_STATUS_CANCELED": RunState.CANCELLED,
    "WORKFLOW_EXECUTION_STATUS_TERMINATED": RunState.CANCELLED,
}
_STATUS_PREFIX = "WORKFLOW_EXECUTION_STATUS_"


class Temporal(Adapter):
    """The HTTP API is at `url`; `workflow` is "Type@queue", `credentials` a bearer token."""

    # A run is remembered as long as its namespace retains it after its end; see `problem`.
    window = timedelta(days=1)
    can_be_asked = True
    can_cancel = True

    def __init__(
        self, url: str, workflow: str, namespace: str, credentials: str, cancel_url: str
    ) -> None:
        self._type, _, self._queue = workflow.rpartition("@")
        base = f"{url.rstrip('/')}/api/v1/namespaces"
        self._namespace = f"{base}/{quote(namespace or 'default', '')}"
        self._headers = {"Authorization": f"Bearer {credentials}"} if credentials else {}

    def start(self, dispatch: Dispatch, prepared: str) -> Request:
        """Without the two policies a second run would start after the first one's end."""
        fields = {
            "workflowType": {"name": self._type},
            "taskQueue": {"name": self._queue},
            "input": [dispatch.fields],
            "requestId": dispatch.dispatch_id,
            "workflowIdReusePolicy": "WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE",
            "workflowIdConflictPolicy": "WORKFLOW_ID_CONFLICT_POLICY_FAIL",
        }
        return self._post(self._run(dispatch.dispatch_id), fields)

    def read_start(self, answer: Answer) -> StartAnswer:
        """A repeat under the same request id is answered as the first start was."""
        fields = answer.fields()
        if answer.is_success and fields.get("runId") and fields.get("started") is True:
            return StartAnswer(Start.ACCEPTED)
        if answer.status == 409 and _has_detail(fields, "WorkflowExecutionAlreadyStartedFailure"):
            return StartAnswer(Start.EXISTS)
        return general_start(answer)

    def ask(self, dispatch_id: str, prepared: str) -> Request:
        """A description of the run."""
        return Request("GET", self._run(dispatch_id), headers=self._headers)

    def read_ask(self, answer: Answer) -> Run:
        """A namespace that is not there says nothing of the run."""
        fields = answer.fields()
        info = fields.get("workflowExecutionInfo")
        status = str(info.get("status")) if isinstance(info, dict) else ""
        if answer.is_success and status.startswith(_STATUS_PREFIX):
            return Run(_ENDED.get(status, RunState.RUNNING))
        if answer.status == 404 and _has_detail(fields, "NotFoundFailure"):
            return Run(RunState.NOT_FOUND)
        return Run(RunState.NO_ANSWER)

    def cancel(self, dispatch: Dispatch, run: Run | None, prepared: str) -> Request:
        """Asks the run to end; one that has ended stays as it is."""
        fields = {"requestId": f"cancel-{dispatch.dispatch_id}", "reason": "cancelled in Take One"}
        return self._post(f"{self._run(dispatch.dispatch_id)}/cancel", fields)

    def read_cancel(self, answer: Answer) -> Cancel:
        """An answer without Temporal's own mark says nothing."""
        if answer.is_success:
            return Cancel.DONE if answer.json() == {} else Cancel.NO_ANSWER
        if answer.status == 404:
            is_its_word = _has_detail(answer.fields(), "NotFoundFailure")
            return Cancel.NOT_FOUND if is_its_word else Cancel.NO_ANSWER
        return general_cancel(answer)

    def checks(self, prepared: str) -> list[Check]:
        """The namespace, and whether a worker polls the queue. Which types it knows, Temporal does not tell."""
        queue = f"{self._namespace}/task-queues/{quote(self._queue, '')}"
        polled = f"{queue}?taskQueueType=TASK_QUEUE_TYPE_WORKFLOW"
        return [
            Check("namespace", Request("GET", self._namespace, headers=self._headers)),
            Check("worker", Request("GET", polled, headers=self._headers)),
        ]

    def problem(self, check: Check, answer: Answer) -> str | None:
        """What keeps runs from starting once, or at all."""
        fields = answer.fields()
        if answer.status == 404 and _has_detail(fields, "NamespaceNotFoundFailure"):
            return "the namespace does not exist; correct TAKEONE_ORCHESTRATOR_NAMESPACE"
        if not answer.is_success or not fields:
            return "no answer of Temporal's; TAKEONE_ORCHESTRATOR_URL is that of its HTTP API"
        if check.name == "worker":
            return None if fields.get("pollers") else "no worker polls the task queue; start one"
        kept = re.search(rb'"workflowExecutionRetentionTtl": ?"(\d+)', answer.body)
        is_long = kept is not None and int(kept[1]) >= self.window.total_seconds()
        return None if is_long else "the namespace's retention is less than a day; raise it"

    def _run(self, dispatch_id: str) -> str:
        return f"{self._namespace}/workflows/{quote(dispatch_id, '')}"

    def _post(self, url: str, fields: Mapping[str, Any]) -> Request:
        return Request("POST", url, orjson.dumps(fields), self._headers)


def _has_detail(fields: Mapping[str, Any], name: str) -> bool:
    """Whether an error carries the detail of this name."""
    kinds = [str(each.get("@type")) for each in objects(fields.get("details"))]
    return any(kind.endswith(f".{name}") for kind in kinds)
