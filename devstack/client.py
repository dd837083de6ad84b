"""A small client of Take One's API: one method for each call, which returns the raw response."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import requests
from requests.adapters import HTTPAdapter

DEFAULT_TIMEOUT_SECONDS = 15.0
CONNECTIONS = 64


def now() -> str:
    """Return the current UTC time in RFC 3339, the format of `occurred_at`."""
    return datetime.now(UTC).isoformat()


class ApiClient:
    """Calls the API at `base_url` as one user; every call has a timeout, none raises for a status.

    `token` replaces the development token `test:<user>:<role>`; with an empty one, no Authorization header is
    sent. The methods pass `options`, such as `headers`, to `requests.Session.request`.
    """

    def __init__(
        self,
        base_url: str,
        user: str = "alice",
        role: str = "editor",
        *,
        token: str | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.timeout_seconds = timeout_seconds
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.mount("http://", HTTPAdapter(pool_maxsize=CONNECTIONS))
        token = f"test:{user}:{role}" if token is None else token
        if token:
            self.session.headers["Authorization"] = f"Bearer {token}"

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send a request to a path of the server, such as `/healthz`."""
        options = {"timeout": self.timeout_seconds, "allow_redirects": False, **options}
        return self.session.request(method, self.base_url + path, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        """GET a path below /api/v1."""
        return self.call("GET", f"/api/v1{path}", **options)

    def post(self, path: str, json: Any = None, **options: Any) -> requests.Response:
        """POST to a path below /api/v1; without `json` there is no body."""
        return self.call("POST", f"/api/v1{path}", json=json, **options)

    def create_project(self, name: str = "Interviews", **options: Any) -> requests.Response:
        return self.post("/projects", {"name": name}, **options)

    def create_job(self, project_id: str, json: Any = None, **options: Any) -> requests.Response:
        return self.post(f"/projects/{project_id}/jobs", json, **options)

    def edit_job(self, job_id: str, **fields: Any) -> requests.Response:
        """Change a job's `name` or `metadata`."""
        return self.call("PATCH", f"/api/v1/jobs/{job_id}", json=fields)

    def delete_job(self, job_id: str) -> requests.Response:
        return self.call("DELETE", f"/api/v1/jobs/{job_id}")

    def job(self, job_id: str, **options: Any) -> requests.Response:
        return self.get(f"/jobs/{job_id}", **options)

    def confirm_upload(self, job_id: str, video_uri: str) -> requests.Response:
        return self.post(f"/jobs/{job_id}/confirm-upload", {"video_uri": video_uri})

    def run(self, job_id: str, **options: Any) -> requests.Response:
        return self.post(f"/jobs/{job_id}/run", **options)

    def cancel(self, job_id: str) -> requests.Response:
        return self.post(f"/jobs/{job_id}/cancel")

    def retry(
        self, job_id: str, client_request_id: str, model_profile: str = "standard", **options: Any
    ) -> requests.Response:
        body = {"model_profile": model_profile, "client_request_id": client_request_id}
        return self.post(f"/jobs/{job_id}/retry", body, **options)

    def events(self, job_id: str, **options: Any) -> requests.Response:
        """Read a job's audit trail."""
        return self.get(f"/jobs/{job_id}/events", **options)

    def callback(self, job_id: str, secret: str, body: dict[str, Any]) -> requests.Response:
        """Send a status callback with the orchestrator's secret."""
        headers = {"X-Callback-Secret": secret}
        return self.post(f"/internal/jobs/{job_id}/status", body, headers=headers)

    def uploaded_job(
        self, video_uri: str = "s3://studio/interview.mp4", *, project: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Create a job in `project` or a new one, confirm its upload, and return it; raise for any error."""
        project = project or _created(self.create_project())
        job = _created(self.create_job(project["id"]))
        confirmed: dict[str, Any] = _created(self.confirm_upload(job["id"], video_uri))["job"]
        return confirmed


def status_report(status: str, **fields: Any) -> dict[str, Any]:
    """Return the body of a status callback with a new event_id and the current time; `fields` override it."""
    return {
        "event_id": str(uuid4()),
        "status": status,
        "occurred_at": now(),
        "correlation_id": str(uuid4()),
        **fields,
    }


def _created(answer: requests.Response) -> dict[str, Any]:
    answer.raise_for_status()
    body: dict[str, Any] = answer.json()
    return body
