"""One client thread: calls the API, and records each operation and its answer in the history."""

import threading
from dataclasses import dataclass
from random import Random
from typing import Any
from uuid import uuid4

import requests

from devstack.client import ApiClient
from tests.chaos.history import History, Operation, finish
from tests.chaos.misbehaviour import video_uri
from tests.chaos.world import World

USERS = ("ada", "grace", "edsger")
MOST_OPERATIONS = 16


@dataclass
class Job:
    """A job, and how often clients have called it."""

    job_id: str
    number: int
    user: str
    operations: int = 0
    failures_seen: int = 0

    @property
    def is_retired(self) -> bool:
        """Whether clients call it no more. Some retire early, so that runs end with untouched states."""
        return self.operations >= 2 + self.number * 7 % (MOST_OPERATIONS - 1)


class Caller:
    """Sends requests with short timeouts to either web process."""

    def __init__(self, world: World, history: History, rng: Random) -> None:
        self._history, self._rng = history, rng
        self._apis = {
            (url, user): ApiClient(url, token=world.token(user))
            for url in world.client_urls
            for user in USERS
        }

    def api(self, user: str) -> ApiClient:
        url = self._rng.choice(sorted({url for url, _ in self._apis}))
        return self._apis[url, user]

    def perform(self, job: Job, kind: str, seconds: float | None = None) -> Operation:
        """Call the API once for a job, with a timeout in seconds; record the call and its answer."""
        request = self._request(job, kind)
        operation = self._history.begin(job.job_id, kind, request)
        method, path, body = _http_request(kind, job.job_id, request)
        status, answer = self._send(
            job.user, method, path, body, request, seconds or self._rng.uniform(0.7, 7)
        )
        finish(operation, status, answer)
        if answer.get("status") == "FAILED" and kind == "read":
            job.failures_seen += 1
        return operation

    def _request(self, job: Job, kind: str) -> dict[str, Any]:
        request: dict[str, Any] = {"request_id": str(uuid4())}
        pick = self._rng.randrange
        if kind == "retry":
            # Two clients that see the same failure may send the same id, or different ones.
            request["client_request_id"] = f"{job.number}-{job.failures_seen // 3}-{pick(2)}"
            request["model_profile"] = "fast" if pick(20) == 0 else "standard"
        if kind in ("run", "retry") and pick(8) == 0:
            request["prefer"] = "respond-async"
        return request

    def _send(
        self,
        user: str,
        method: str,
        path: str,
        body: dict[str, str] | None,
        request: dict[str, Any],
        seconds: float,
    ) -> tuple[int | None, dict[str, Any]]:
        headers = {"X-Request-Id": request["request_id"]}
        if "prefer" in request:
            headers["Prefer"] = request["prefer"]
        try:
            answer = self.api(user).call(
                method, f"/api/v1{path}", json=body, headers=headers, timeout=seconds
            )
            return answer.status_code, answer.json()
        except (requests.RequestException, ValueError):
            return None, {}

    def create(self, number: int, stop: threading.Event) -> Job | None:
        """Create a job and confirm its upload, repeating each call until it succeeds; None if stopped."""
        user = USERS[number % len(USERS)]
        project = self._until_created(user, "/projects", {"name": "Chaos"}, stop)
        job_id = self._until_created(user, f"/projects/{project}/jobs", None, stop)
        confirmed = self._until_created(
            user, f"/jobs/{job_id}/confirm-upload", {"video_uri": video_uri(number)}, stop
        )
        return Job(job_id, number, user) if confirmed and job_id else None

    def _until_created(
        self, user: str, path: str, body: dict[str, str] | None, stop: threading.Event
    ) -> str | None:
        while not stop.is_set():
            status, answer = self._send(user, "POST", path, body, {"request_id": str(uuid4())}, 3)
            if status in (200, 201):
                return str(answer.get("id") or answer["job"]["id"])
            stop.wait(0.2)
        return None


def _http_request(
    kind: str, job_id: str, request: dict[str, Any]
) -> tuple[str, str, dict[str, str] | None]:
    if kind == "read":
        return "GET", f"/jobs/{job_id}", None
    body = None
    if kind == "retry":
        body = {name: request[name] for name in ("client_request_id", "model_profile")}
    return "POST", f"/jobs/{job_id}/{kind}", body
