"""One client's way to the API: operations on jobs, each noted in the history with its answer."""

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
    """A job that the clients play with."""

    job_id: str
    number: int
    user: str
    operations: int = 0
    failures_seen: int = 0

    @property
    def is_played_out(self) -> bool:
        """Whether clients leave it alone from now on: some early, to be seen as they were left."""
        return self.operations >= 2 + self.number * 7 % (MOST_OPERATIONS - 1)


class Caller:
    """One thread's way to the API: requests with short timeouts, each noted in the history."""

    def __init__(self, world: World, history: History, rng: Random) -> None:
        self._history, self._rng = history, rng
        self._apis = {
            (url, user): ApiClient(url, token=world.token(user))
            for url in world.client_urls
            for user in USERS
        }

    def api(self, user: str) -> ApiClient:
        """One of the web processes."""
        url = self._rng.choice(sorted({url for url, _ in self._apis}))
        return self._apis[url, user]

    def perform(self, job: Job, kind: str, seconds: float | None = None) -> Operation:
        """Do one operation on a job and note what came of it."""
        asked = self._asked(job, kind)
        operation = self._history.begin(job.job_id, kind, asked)
        method, path, body = _request(kind, job.job_id, asked)
        status, answer = self._send(
            job.user, method, path, body, asked, seconds or self._rng.uniform(0.7, 7)
        )
        finish(operation, status, answer)
        if answer.get("status") == "FAILED" and kind == "read":
            job.failures_seen += 1
        return operation

    def _asked(self, job: Job, kind: str) -> dict[str, Any]:
        asked: dict[str, Any] = {"request_id": str(uuid4())}
        if kind == "retry":
            # Two clients that see the same failure may ask under two ids, or under one.
            asked["client_request_id"] = f"{job.number}-{job.failures_seen // 3}-{self._one_of(2)}"
            asked["model_profile"] = "fast" if self._one_of(20) == 0 else "standard"
        if kind in ("run", "retry") and self._one_of(8) == 0:
            asked["prefer"] = "respond-async"
        return asked

    def _one_of(self, count: int) -> int:
        return self._rng.randrange(count)

    def _send(
        self,
        user: str,
        method: str,
        path: str,
        body: dict[str, str] | None,
        asked: dict[str, Any],
        seconds: float,
    ) -> tuple[int | None, dict[str, Any]]:
        headers = {"X-Request-Id": asked["request_id"]}
        if "prefer" in asked:
            headers["Prefer"] = asked["prefer"]
        try:
            answer = self.api(user).call(
                method, f"/api/v1{path}", json=body, headers=headers, timeout=seconds
            )
            return answer.status_code, answer.json()
        except (requests.RequestException, ValueError):
            return None, {}

    def create(self, number: int, stop: threading.Event) -> Job | None:
        """Make a job and confirm its upload, however often it takes."""
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
            status, answer = self._send(user, "POST", path, body, self._asked_nothing(), 3)
            if status in (200, 201):
                return str(answer.get("id") or answer["job"]["id"])
            stop.wait(0.2)
        return None

    @staticmethod
    def _asked_nothing() -> dict[str, Any]:
        return {"request_id": str(uuid4())}


def _request(
    kind: str, job_id: str, asked: dict[str, Any]
) -> tuple[str, str, dict[str, str] | None]:
    if kind == "read":
        return "GET", f"/jobs/{job_id}", None
    body = None
    if kind == "retry":
        body = {name: asked[name] for name in ("client_request_id", "model_profile")}
    return "POST", f"/jobs/{job_id}/{kind}", body
