"""A job in a test: its owner's calls, and the orchestrator's callbacks."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any, Self

import requests

from tests.support.client import ApiClient, status_report

# By status: the callbacks that lead from AUDIO_EXTRACTING to it.
WAY: dict[str, tuple[str, ...]] = {"AUDIO_EXTRACTING": (), "FAILED": ("FAILED",)}
_STEPS = ("AUDIO_READY", "TRANSCRIBING", "TRANSCRIPT_READY", "GENERATING", "DRAFT_READY", "EDITING")
for _number, _step in enumerate(_STEPS, 1):
    WAY[_step] = _STEPS[:_number]
WAY["REGENERATING"] = (*WAY["EDITING"], "REGENERATING")
WAY["EXPORTING"] = (*WAY["EDITING"], "EXPORTING")
WAY["DONE"] = (*WAY["EXPORTING"], "DONE")


class JobHandle:
    """One job, with its owner's client and the orchestrator's callback secret."""

    def __init__(self, client: ApiClient, job_id: str, secret: str) -> None:
        self.client, self.id, self.secret = client, job_id, secret

    @classmethod
    def uploaded(cls, client: ApiClient, secret: str) -> Self:
        """Create a job in UPLOADED."""
        return cls(client, client.uploaded_job()["id"], secret)

    @property
    def run_id(self) -> str:
        return f"run-{self.id}"

    def lead_to(self, status: str) -> Self:
        """Run the job, and send the callbacks that lead to `status`."""
        assert self.client.run(self.id).status_code == 202
        self.reported(*WAY[status])
        return self

    def send(self, body: dict[str, Any]) -> requests.Response:
        """Send a callback with exactly this body."""
        return self.client.callback(self.id, self.secret, body)

    def report(self, status: str, **fields: Any) -> requests.Response:
        """Send a new callback with the current time; `fields` override its body."""
        return self.send(status_report(status, **fields))

    def reported(self, *statuses: str, **fields: Any) -> None:
        """Send a new callback for each status, and assert that it is applied."""
        for status in statuses:
            answer = self.report(status, **fields)
            assert answer.status_code == 204, (status, answer.text)
            assert answer.content == b""

    def retry(self, client_request_id: str, profile: str = "standard") -> requests.Response:
        return self.client.retry(self.id, client_request_id, profile)

    def shown(self) -> dict[str, Any]:
        """Return the job as the API shows it to its owner."""
        answer = self.client.job(self.id)
        assert answer.status_code == 200
        body: dict[str, Any] = answer.json()
        return body

    @property
    def status(self) -> str:
        return str(self.shown()["status"])

    @property
    def dispatch(self) -> dict[str, Any]:
        return dict(self.shown()["dispatch"] or {})

    def trail(self) -> list[dict[str, Any]]:
        """Return the audit trail."""
        answer = self.client.events(self.id, params={"limit": 200})
        assert answer.status_code == 200
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    def event_types(self) -> list[str]:
        return [event["event_type"] for event in self.trail()]

    def everything(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the job and its trail, to assert that nothing changes."""
        return self.shown(), self.trail()


def refusal(answer: requests.Response) -> tuple[int, str, dict[str, Any] | None]:
    """Return an error answer's status, code and details."""
    body = answer.json()
    assert body.keys() <= {"code", "message", "details"}
    return answer.status_code, body["code"], body.get("details")


def forbidden_step(current: str, attempted: str, *allowed: str) -> tuple[int, str, dict[str, Any]]:
    """Return the expected error for a forbidden transition; without `allowed`, from a terminal status."""
    code = "FSM_TRANSITION_INVALID" if allowed else "FSM_TERMINAL_IMMUTABLE"
    details = {
        "current_status": current,
        "attempted_status": attempted,
        "allowed_next_statuses": list(allowed),
    }
    return 409, code, details


def at_once(count: int, call: Any) -> list[Any]:
    """Call `call(number)` concurrently in `count` threads; return the results in order of the numbers."""
    barrier = Barrier(count)

    def start(number: int) -> Any:
        barrier.wait(10)
        return call(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(start, range(count)))
