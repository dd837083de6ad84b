"""A client of Take One with the retries done right. Copy it; it needs `requests` and nothing else."""

import itertools
import random
import time
from typing import Any, cast
from uuid import uuid4

import requests

TRY_AGAIN = {429, 502, 503}  # 502: the orchestrator did not take it; 429 and 503: not now
LONGEST_POLL_SECONDS = 30
Json = dict[str, Any]


class Refused(Exception):
    """The service said no, or not yet for too long: see `code` and `details`."""

    def __init__(self, answer: requests.Response) -> None:
        is_json = "json" in answer.headers.get("Content-Type", "")
        body = answer.json() if is_json else {}  # a gateway's own page is not
        self.code, self.details = body.get("code"), body.get("details")
        super().__init__(f"{answer.status_code} {self.code}")


class TakeOne:
    """Calls Take One at `base_url`. A call that may be repeated is, for up to `patience` seconds."""

    def __init__(self, base_url: str, token: str, patience: float = 120) -> None:
        self.base_url, self.patience = base_url.rstrip("/") + "/api/v1", patience
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {token}"

    def create_job(self, project_id: str, key: str | None = None, **own: Any) -> Json:
        """Make a job, with `name` and `metadata` if you like.

        Keep `key` with what the job is for, and a program that was started again makes no second one.
        """
        headers = {"Idempotency-Key": key or str(uuid4())}
        return self._call("POST", f"/projects/{project_id}/jobs", own, headers)

    def confirm_upload(self, job_id: str, video_uri: str) -> Json:
        """Say where the video is."""
        return self._call("POST", f"/jobs/{job_id}/confirm-upload", {"video_uri": video_uri})

    def run(self, job_id: str) -> Json:
        """Start the workflow. However often it is called, it is started once."""
        return self._call("POST", f"/jobs/{job_id}/run")

    def wait_while(self, job_id: str, status: str) -> Json:
        """Return the job as soon as it is no longer in `status`."""
        while True:
            query = f"?wait={LONGEST_POLL_SECONDS}&status_not={status}"
            job = self._call("GET", f"/jobs/{job_id}{query}")
            if job["status"] != status:
                return job
            time.sleep(1)  # a long poll may end early

    def _call(
        self, method: str, path: str, json: Any = None, headers: dict[str, str] | None = None
    ) -> Json:
        end = time.monotonic() + self.patience
        for attempt in itertools.count():
            answer = self._try(method, path, json, headers)
            pause = min(0.5 * 2**attempt, 10) * random.uniform(0.5, 1.5)
            pause += float(answer.headers.get("Retry-After", 0)) if answer is not None else 0
            again = answer is None or answer.status_code in TRY_AGAIN
            if not again or time.monotonic() + pause > end:
                break
            time.sleep(pause)
        if answer is None:
            raise TimeoutError("Take One did not answer")
        if not answer.ok:
            raise Refused(answer)
        return cast(Json, answer.json())

    def _try(
        self, method: str, path: str, json: Any, headers: dict[str, str] | None
    ) -> requests.Response | None:
        try:
            limits = (3, LONGEST_POLL_SECONDS + 10)
            return self.session.request(
                method, self.base_url + path, json=json, headers=headers, timeout=limits
            )
        except (requests.ConnectionError, requests.Timeout):
            return None
