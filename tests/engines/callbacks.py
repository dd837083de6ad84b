"""Where an engine's workflow reports, in place of Take One: to see, and to refuse, single reports."""

import json
import re
from typing import Any

from devstack.ports import HOST
from devstack.waiting import wait_until
from tests.engines.gateway import Gateway
from tests.support.behaviours import Behaviour, Request, answer, refuse
from tests.support.openapi import check_against
from tests.support.orchestrator import StubOrchestrator

_PATH = re.compile(r"/api/v1/internal/jobs/([^/]+)/status")
APPLIED = answer(204, b"")


def refused(status: int, code: str) -> Behaviour:
    """Refuse reports as Take One does."""
    return refuse(status, json.dumps({"code": code, "message": "told to"}).encode())


class CallbackReceiver(StubOrchestrator):
    """Takes every report whose secret is right, unless `behaviours[job_id]` says otherwise."""

    def __init__(self, secret: str) -> None:
        super().__init__(APPLIED)
        self.secret = secret

    def url_for(self, job_id: str) -> str:
        """The `callback_url` of a job."""
        return f"http://{HOST}:{self.port}/api/v1/internal/jobs/{job_id}/status"

    def reports(self, job_id: str) -> list[dict[str, Any]]:
        """Every report about a job, in the order of arrival; each is as the specification says."""
        reports = [request.json for request in list(self.requests) if _job_of(request) == job_id]
        for report in reports:
            check_against("StatusCallbackRequest", report)
        return reports

    def statuses(self, job_id: str) -> list[str]:
        """The states that were reported about a job."""
        return [report["status"] for report in self.reports(job_id)]

    def wait_for(self, job_id: str, status: str, limit_seconds: float = 60.0) -> None:
        """Wait until `status` has been reported about a job."""
        what = f"{status} is reported about job {job_id}"
        wait_until(lambda: status in self.statuses(job_id), limit_seconds, what)

    def behaviour_for(self, request: Request) -> Behaviour:
        """Refuse a wrong secret; else as was told for the job."""
        if request.headers.get("x-callback-secret") != self.secret:
            return refused(401, "UNAUTHORIZED")
        return self.behaviours.get(_job_of(request) or "", self.default)

    def reset_behaviour(self) -> None:
        """Forget what was told and recorded; take everything again."""
        super().reset_behaviour()
        self.default = APPLIED


class CallbackGateway(Gateway):
    """Between the workflows and Take One, whose API is at `engine_url`: lets single runs wait at a step."""

    def __init__(self) -> None:
        super().__init__("", lambda request: _job_of(request) is not None)
        self._held: dict[str, tuple[str, ...]] = {}

    def hold(self, job_id: str, *statuses: str) -> None:
        """Refuse the reports of these states about a job, as Take One does without its store."""
        self._held[job_id] = statuses

    def release(self, job_id: str) -> None:
        """Let all its reports pass again."""
        del self._held[job_id]

    def behaviour_for(self, request: Request) -> Behaviour:
        """Forward what is not held."""
        held = self._held.get(_job_of(request) or "")
        if held and request.json["status"] in held:
            return refused(503, "SERVICE_UNAVAILABLE")
        return super().behaviour_for(request)


def _job_of(request: Request) -> str | None:
    found = _PATH.fullmatch(request.path)
    return found.group(1) if found else None
