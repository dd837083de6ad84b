"""A client for Take One's API that repeats calls, polls and follows jobs. Types are in `shapes`."""

import json
import math
import random
import socket
import time
from collections.abc import Callable, Container, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timedelta
from email.message import Message
from email.utils import formatdate, parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ssl import SSLCertVerificationError
from threading import Timer
from typing import Any, Unpack, cast
from urllib.parse import quote, urlencode, urlsplit
from uuid import uuid4

from takeone_client import shapes
from takeone_client.shapes import AuditEvent, Job, JobEdit, JobQuery, JobStatus, Project

__all__ = [
    "AuditEvent",
    "Job",
    "JobEdit",
    "JobStatus",
    "NotReached",
    "Project",
    "TakeOne",
    "TakeOneError",
]


class TakeOneError(Exception):
    """The service refused the call, or did not accept or answer it in time.

    `status` is None if no answer came. Branch on `code`; it is None if the answer is not Take One's own.
    `details` depend on the code, as the specification's table says. Operators find the call by its
    `request_id` (`takeone hash`). `retry_after` is the wait in seconds that the service asked for,
    `attempts` the number of tries.
    """

    attempts = 1

    def __init__(
        self,
        status: int | None,
        body: Any = None,
        retry_after: float = 0,
        request_id: str | None = None,
    ) -> None:
        super().__init__(status, body, retry_after, request_id)  # for copies
        fields: dict[str, Any] = body if isinstance(body, dict) else {}
        self.status, self.retry_after, self.request_id = status, retry_after, request_id
        self.code: str | None = fields.get("code")
        details = fields.get("details")  # a gateway may send null or a list
        self.details: dict[str, Any] = details if isinstance(details, dict) else {}
        self._message = fields.get("message", "Not an answer of Take One")

    def __str__(self) -> str:
        return "No answer" if self.status is None else f"{self.status} {self._message}"


class NotReached(Exception):
    """`wait_for` ended too early; `job` is as it was last seen."""

    def __init__(self, job: Job, why: str) -> None:
        super().__init__(job, why)
        self.job, self._why = job, why

    def __str__(self) -> str:
        return f"{self._why}; the job is {self.job['status']}"


# 502: the orchestrator did not accept it, or a gateway got no answer; 504: only the latter.
# The service recognises repeated writes.
_TRY_AGAIN = {None, 429, 502, 503, 504}
_LONGEST_PAUSE = 3600.0  # `sleep` accepts less than a gateway may ask for
_CONNECT_SECONDS = 5.0  # for each of the host's addresses

_POLL_SECONDS = 25  # some proxies wait 30
# Servers' clocks differ, and changes are not stored in the order in which they began.
_OVERLAP = timedelta(seconds=5)
_OVERLAP_POLL_SECONDS = 2
_LONG_AGO = "2001-01-01T00:00:00Z"


class TakeOne:
    """Calls Take One; repeats a call, under the same key, while the service is unavailable.

    `base_url` is the service's, without `/api/v1`. `token` is the editor's, or a function that returns it,
    called before each try so that it can replace an expired one; no limit ends it, and what it raises ends the
    call. `timeout` limits a call with all its tries in seconds, `try_timeout` one try; with the service's
    defaults a `run` is answered within ten.

    Raises ValueError for an invalid URL, token or id; each call raises TakeOneError. Threads may share it.
    """

    def __init__(
        self,
        base_url: str,
        token: str | Callable[[], str],
        *,
        timeout: float = 120,
        try_timeout: float = 20,
    ) -> None:
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError("base_url must be http://… or https://…")
        self._is_secure, self._host = url.scheme == "https", url.hostname
        # Without one, http.client takes the end of an IPv6 address for the port.
        self._port = url.port or (443 if self._is_secure else 80)
        self._path = quote(url.path.rstrip("/"), safe="/%") + "/api/v1"
        self._token, self._timeout, self._try_timeout = token, timeout, try_timeout

    def create_project(self, name: str, *, key: str | None = None) -> Project:
        """Create a project. For `key` see `create_job`."""
        return cast(Project, self._call("POST", "/projects", {"name": name}, _key(key)))

    def list_projects(self, *, limit: int = 50) -> Iterator[Project]:
        """Your projects, oldest first; pages are fetched as you go. `limit` is the size of a page."""
        return self._items("/projects", {"limit": limit})

    def create_job(self, project_id: str, *, key: str | None = None, **job: Unpack[JobEdit]) -> Job:
        """Create a job.

        `key` is the `Idempotency-Key`. If you store it with your own data, a restarted program creates
        nothing twice.
        """
        path = f"/projects/{quote(project_id, safe='')}/jobs"
        return cast(Job, self._call("POST", path, job, _key(key)))

    def get_job(self, job_id: str) -> Job:
        """The job as it is now."""
        return cast(Job, self._call("GET", _path(job_id)))

    def list_jobs(self, **query: Unpack[JobQuery]) -> Iterator[Job]:
        """Your jobs of all projects, newest first; pages are fetched as you go."""
        return self._items("/jobs", query)

    def edit_job(self, job_id: str, **edit: Unpack[JobEdit]) -> Job:
        """Change a job's name or metadata."""
        return cast(Job, self._call("PATCH", _path(job_id), edit))

    def delete_job(self, job_id: str) -> None:
        """Delete a job that has ended. If it is gone after a failed try, that try counts as what deleted it."""
        try:
            self._call("DELETE", _path(job_id))
        except TakeOneError as error:
            if error.code != "RESOURCE_NOT_FOUND" or error.attempts == 1:
                raise

    def confirm_upload(self, job_id: str, video_uri: str) -> shapes.ConfirmUploadResponse:
        """Say where the video is."""
        answer = self._call("POST", _path(job_id, "/confirm-upload"), {"video_uri": video_uri})
        return cast(shapes.ConfirmUploadResponse, answer)

    def run(self, job_id: str) -> shapes.RunJobResponse:
        """Start the workflow; repeated calls start it once."""
        return cast(shapes.RunJobResponse, self._call("POST", _path(job_id, "/run")))

    def retry(
        self, job_id: str, profile: str, *, request_id: str | None = None
    ) -> shapes.RetryJobResponse:
        """Resume a failed job with a model profile: `standard`, `fast`, `quality` or what the service allows.

        `request_id` identifies one decision to retry: keep it if you repeat the call yourself.
        """
        body = {"model_profile": profile, "client_request_id": _key(request_id)}
        return cast(shapes.RetryJobResponse, self._call("POST", _path(job_id, "/retry"), body))

    def cancel(self, job_id: str) -> Job:
        """Cancel a job, if it is not cancelled already."""
        try:
            return cast(Job, self._call("POST", _path(job_id, "/cancel")))
        except TakeOneError as error:
            if error.details.get("current_status") != "CANCELLED":
                raise
        return self.get_job(job_id)

    def events(self, job_id: str) -> Iterator[AuditEvent]:
        """The job's audit trail, in the order in which it was recorded; pages are fetched as you go."""
        return self._items(_path(job_id, "/events"), {})

    def follow_events(self, job_id: str, *, timeout: float = math.inf) -> Iterator[AuditEvent]:
        """The job's audit trail from its beginning, and then each event as it is recorded.

        Endless, until you leave the loop. Continues after temporary errors, but after `timeout` seconds
        without an answer raises TakeOneError; also when the job is deleted or not yours.
        """
        after = "0"
        while True:
            page = self._poll(_path(job_id, "/events"), {"after": after}, _POLL_SECONDS, timeout)
            yield from page["items"]
            after = page["next_cursor"] or after

    def follow_jobs(
        self, *, updated_after: str = _LONG_AGO, timeout: float = math.inf
    ) -> Iterator[Job]:
        """All your jobs, in the order of their last change, and then each job that is created or changes.

        Yields a job as it is at that time; deletions are not reported. One long poll serves all jobs.
        Endless, as `follow_events` is. `updated_after` is the latest `updated_at` that you have: jobs that
        changed up to five seconds before it are repeated.
        """
        latest, seen = updated_after, set[str]()
        while True:
            before, seen, is_new = seen, set(), False
            since = (datetime.fromisoformat(latest) - _OVERLAP).isoformat()
            query = {"order": "asc", "limit": 200, "updated_after": since}
            for job in self._items("/jobs", query, timeout):
                latest = job["updated_at"]
                change = f"{job['id']} {latest}"
                seen.add(change)
                if change not in before:
                    is_new = True
                    yield job
            # Briefly after a change, to list soon what was stored late.
            end = time.monotonic() + (_OVERLAP_POLL_SECONDS if is_new else _POLL_SECONDS)
            query = {"order": "asc", "limit": 1, "updated_after": latest}
            is_changed = False
            while not is_changed and (left := end - time.monotonic()) > 0:
                is_changed = bool(self._poll("/jobs", query, math.ceil(left), timeout)["items"])

    def wait_for(
        self,
        job_id: str,
        wanted: Container[JobStatus] | Callable[[Job], bool],
        *,
        timeout: float = 3600,
    ) -> Job:
        """The job, as soon as it is in one of the `wanted` states, or the function `wanted` returns True.

        The function is called after each change of state, and every 25 seconds. Raises NotReached after
        `timeout` seconds, or when the job has ended in another state. A job that is FAILED at first, but
        was retried, has not ended.
        """
        end = time.monotonic() + timeout
        job: Job = self._call("GET", _path(job_id), timeout=min(timeout, self._timeout))
        was_failed = job["status"] == "FAILED"
        while not (wanted(job) if callable(wanted) else job["status"] in wanted):
            before, left = job["status"], end - time.monotonic()
            was_failed = was_failed and before == "FAILED"
            if before in ("DONE", "FAILED", "CANCELLED") and not (was_failed and _is_retried(job)):
                raise NotReached(job, "The job has ended")
            if left <= 0:
                raise NotReached(job, f"Waited for {timeout:g} s")
            try:
                job = self._poll(_path(job_id), {"status_not": before}, _POLL_SECONDS, left)
            except TakeOneError:
                if time.monotonic() < end - 0.01:
                    raise  # else the last poll came too late
        return job

    def _poll(self, path: str, query: Any, wait: int, timeout: float) -> Any:
        """A long poll. It may end early: the service asks for a second between two without a change."""
        again = time.monotonic() + min(1, timeout)
        wait = max(0, math.floor(min(wait, timeout - 1)))
        query = {**query, "wait": wait}
        answer = self._call("GET", path, query=query, timeout=timeout, try_timeout=wait + 10)
        is_new = answer["items"] if "items" in answer else answer["status"] != query["status_not"]
        if not is_new:
            time.sleep(max(0, again - time.monotonic()))
        return answer

    def _items(self, path: str, query: Any, timeout: float | None = None) -> Iterator[Any]:
        cursor: dict[str, str] | None = {}
        while cursor is not None:
            page = self._call("GET", path, query={**query, **cursor}, timeout=timeout)
            yield from page["items"]
            cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else None

    def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        key: str | None = None,
        *,
        query: Any = None,
        timeout: float | None = None,
        try_timeout: float | None = None,
    ) -> Any:
        if {"", ".", ".."} & set(path.split("/")[1:]):  # which servers and proxies remove
            raise ValueError("An id must not be empty, '.' or '..'")
        end = time.monotonic() + (self._timeout if timeout is None else timeout)
        target = f"{self._path}{path}?{urlencode(query or {})}"
        attempt, pause = 1, 0.5
        while True:
            limit = min(try_timeout or self._try_timeout, end - time.monotonic())
            try:
                return self._try(method, target, body, key, max(0.001, limit))
            except TakeOneError as error:
                error.attempts = attempt
                wait = error.retry_after + pause * random.uniform(0.5, 1.5)
                is_refused = isinstance(error.__cause__, SSLCertVerificationError)
                if error.status not in _TRY_AGAIN or is_refused or time.monotonic() + wait >= end:
                    raise
            time.sleep(min(wait, _LONGEST_PAUSE))
            attempt, pause = attempt + 1, min(2 * pause, 10)

    def _try(self, method: str, target: str, body: Any, key: str | None, limit: float) -> Any:
        token = (self._token if isinstance(self._token, str) else self._token()).strip()
        if not (token.isascii() and token.isprintable()):  # http.client's own error quotes it
            raise ValueError("The token must be printable ASCII")
        headers = {"Authorization": f"Bearer {token}"}
        if key is not None:
            headers["Idempotency-Key"] = key
        if body is not None:
            headers["Content-Type"] = "application/json"
        content = None if body is None else json.dumps(body).encode()
        end = time.monotonic() + limit
        connect = HTTPSConnection if self._is_secure else HTTPConnection
        connect_limit = min(limit, _CONNECT_SECONDS)
        with closing(connect(self._host, self._port, timeout=connect_limit)) as connection:
            try:
                connection.connect()
                connection.sock.settimeout(limit)
                with _deadline(connection.sock, end - time.monotonic()):
                    connection.request(method, target, content, headers)
                    response = connection.getresponse()
                    text = response.read()
                if time.monotonic() >= end:
                    raise TimeoutError("the answer did not come in time")
                # http.client accepts a head that broke off, as an answer without a body.
                if not text and response.status < 203 and "Content-Length" not in response.headers:
                    raise HTTPException("the answer broke off")
            except (OSError, HTTPException) as error:
                raise TakeOneError(None) from error
        answer = _parsed(text)
        if response.status == 204 or (response.status // 100 == 2 and answer is not None):
            return answer
        wait = _retry_after(response.headers)
        raise TakeOneError(response.status, answer, wait, response.headers["X-Request-Id"])


@contextmanager
def _deadline(sock: socket.socket, seconds: float) -> Iterator[None]:
    """Shut a socket down after `seconds`; its own timeout is for each read, and an answer may be slow."""

    def end() -> None:
        with suppress(OSError):  # it may be closed already
            # A TLS socket's own `shutdown` would drop its session while another thread reads from it.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)

    timer = Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _path(job_id: str, rest: str = "") -> str:
    return f"/jobs/{quote(job_id, safe='')}{rest}"


def _key(own: str | None) -> str:
    return str(uuid4()) if own is None else own


def _is_retried(job: Job) -> bool:
    dispatch = job["dispatch"]
    return dispatch is not None and dispatch["kind"] == "retry" and dispatch["phase"] != "RELEASED"


def _parsed(text: bytes) -> dict[str, Any] | None:
    with suppress(ValueError, RecursionError):  # a gateway's own page
        answer = json.loads(text)
        return answer if isinstance(answer, dict) else None
    return None


def _retry_after(headers: Message) -> float:
    """Retry-After: seconds, or (from a gateway) a date, by the gateway's own clock."""
    told = headers.get("Retry-After", "0")
    with suppress(ValueError, OverflowError):
        return max(0.0, float(int(told)))
    with suppress(ValueError, OverflowError):
        now = headers.get("Date") or formatdate(usegmt=True)
        due, since = (parsedate_to_datetime(date).timestamp() for date in (told, now))
        return max(0.0, due - since)
    return 0.0
