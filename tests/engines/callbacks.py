"""Receives an engine's reports in place of Take One, to record them and to refuse single ones."""

import json
import re
from typing import Any

from devstack.ports import HOST
from devstack.waiting import wait_until
from orchestrators.base import Dispatch
from tests.engines.gateway import Gateway
from tests.support.behaviours import Behaviour, Request, answer, refuse
from tests.support.openapi import check_against
from tests.support.orchestrator import StubOrchestrator

_PATH = re.compile(r"/api/v1/internal/jobs/([^/]+)/status")
APPLIED = answer(204, b"")


def refused(status: int, code: str) -> Behaviour:
    """Refuse reports as Take One does."""
    return refuse(status, json.dumps({"code": code, "message": "refused"}).encode())


class CallbackReceiver(StubOrchestrator):
    """Accepts every report with the right secret, unless `answer` has set a behaviour for the job."""

    def __init__(self, secret: str) -> None:
        super().__init__(APPLIED)
        self.secret = secret

    def url_for(self, job_id: str) -> str:
        """The `callback_url` of a job."""
        return f"http://{HOST}:{self.port}/api/v1/internal/jobs/{job_id}/status"

    def answer(self, dispatch: Dispatch, behaviour: Behaviour) -> None:
        """Answer the reports of a dispatch in this way from now on."""
        self.behaviours[str(dispatch.fields["job_id"])] = behaviour

    def reports(self, dispatch: Dispatch) -> list[dict[str, Any]]:
        """The reports of a dispatch in the order of arrival, checked against the specification."""
        job_id = dispatch.fields["job_id"]
        reports = [request.json for request in list(self.requests) if _job_of(request) == job_id]
        for report in reports:
            check_against("StatusCallbackRequest", report)
        return reports

    def statuses(self, dispatch: Dispatch) -> list[str]:
        """The states that were reported of a dispatch."""
        return [report["status"] for report in self.reports(dispatch)]

    def wait_for(self, dispatch: Dispatch, status: str, limit_seconds: float = 60.0) -> None:
        """Wait until `status` has been reported."""
        what = f"{status} is reported of {dispatch.dispatch_id}"
        wait_until(lambda: status in self.statuses(dispatch), limit_seconds, what)

    def behaviour_for(self, request: Request) -> Behaviour:
        """Refuse a wrong secret; else behave as set for the job."""
        if request.headers.get("x-callback-secret") != self.secret:
            return refused(401, "UNAUTHORIZED")
        return self.behaviours.get(_job_of(request) or "", self.default)

    def reset_behaviour(self) -> None:
        """Forget all behaviours and requests; accept everything again."""
        super().reset_behaviour()
        self.default = APPLIED


class CallbackGateway(Gateway):
    """Between the workflows and Take One (at `engine_url`): can make single runs wait at a step."""

    def __init__(self) -> None:
        super().__init__("", lambda request: _job_of(request) is not None)
        self._held: dict[str, tuple[str, ...]] = {}

    def hold(self, job_id: str, *statuses: str) -> None:
        """Answer 503 to a job's reports of these states."""
        self._held[job_id] = statuses

    def release(self, job_id: str) -> None:
        """Forward all its reports again."""
        del self._held[job_id]

    def behaviour_for(self, request: Request) -> Behaviour:
        """Forward reports that are not held."""
        held = self._held.get(_job_of(request) or "")
        if held and request.json["status"] in held:
            return refused(503, "SERVICE_UNAVAILABLE")
        return super().behaviour_for(request)


def _job_of(request: Request) -> str | None:
    found = _PATH.fullmatch(request.path)
    return found.group(1) if found else None
