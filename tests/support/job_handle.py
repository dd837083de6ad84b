"""A job as a test holds it: its editor's view, and the orchestrator's reports about it."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any, Self

import requests

from tests.support.client import ApiClient, status_report

# The callbacks that take a job which was run from AUDIO_EXTRACTING to each later state.
WAY: dict[str, tuple[str, ...]] = {"AUDIO_EXTRACTING": (), "FAILED": ("FAILED",)}
_STEPS = ("AUDIO_READY", "TRANSCRIBING", "TRANSCRIPT_READY", "GENERATING", "DRAFT_READY", "EDITING")
for _number, _step in enumerate(_STEPS, 1):
    WAY[_step] = _STEPS[:_number]
WAY["REGENERATING"] = (*WAY["EDITING"], "REGENERATING")
WAY["EXPORTING"] = (*WAY["EDITING"], "EXPORTING")
WAY["DONE"] = (*WAY["EXPORTING"], "DONE")


class JobHandle:
    """One job, its owner's client, and the secret with which the orchestrator reports."""

    def __init__(self, client: ApiClient, job_id: str, secret: str) -> None:
        self.client, self.id, self.secret = client, job_id, secret

    @classmethod
    def uploaded(cls, client: ApiClient, secret: str) -> Self:
        """Make a job in UPLOADED."""
        return cls(client, client.uploaded_job()["id"], secret)

    @property
    def run_id(self) -> str:
        """The dispatch id of the job's run."""
        return f"run-{self.id}"

    def lead_to(self, status: str) -> Self:
        """Run the job and report every step up to `status`."""
        assert self.client.run(self.id).status_code == 202
        self.reported(*WAY[status])
        return self

    def send(self, body: dict[str, Any]) -> requests.Response:
        """Send a callback as it is."""
        return self.client.callback(self.id, self.secret, body)

    def report(self, status: str, **fields: Any) -> requests.Response:
        """Send a new callback, of now unless `fields` say otherwise."""
        return self.send(status_report(status, **fields))

    def reported(self, *statuses: str, **fields: Any) -> None:
        """Send new callbacks that must be applied."""
        for status in statuses:
            answer = self.report(status, **fields)
            assert answer.status_code == 204, (status, answer.text)
            assert answer.content == b""

    def retry(self, client_request_id: str, profile: str = "standard") -> requests.Response:
        """Retry the job."""
        return self.client.retry(self.id, client_request_id, profile)

    def shown(self) -> dict[str, Any]:
        """The job as its owner sees it."""
        answer = self.client.job(self.id)
        assert answer.status_code == 200
        body: dict[str, Any] = answer.json()
        return body

    @property
    def status(self) -> str:
        """The job's state."""
        return str(self.shown()["status"])

    @property
    def dispatch(self) -> dict[str, Any]:
        """The job's dispatch as it is shown."""
        return dict(self.shown()["dispatch"] or {})

    def trail(self) -> list[dict[str, Any]]:
        """The whole trail."""
        answer = self.client.events(self.id, params={"limit": 200})
        assert answer.status_code == 200
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    def event_types(self) -> list[str]:
        """What the trail's lines are about."""
        return [line["event_type"] for line in self.trail()]

    def everything(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """All that a reader can see of the job: to show that nothing was written."""
        return self.shown(), self.trail()


def refusal(answer: requests.Response) -> tuple[int, str, dict[str, Any] | None]:
    """Take an error apart: status, code, details."""
    body = answer.json()
    assert body.keys() <= {"code", "message", "details"}
    return answer.status_code, body["code"], body.get("details")


def forbidden_step(current: str, attempted: str, *allowed: str) -> tuple[int, str, dict[str, Any]]:
    """The refusal of a step that the state machine forbids; without `allowed`, of a terminal state."""
    code = "FSM_TRANSITION_INVALID" if allowed else "FSM_TERMINAL_IMMUTABLE"
    details = {
        "current_status": current,
        "attempted_status": attempted,
        "allowed_next_statuses": list(allowed),
    }
    return 409, code, details


def at_once(count: int, call: Any) -> list[Any]:
    """Call `call(number)` in `count` threads that all start together; return what each returned."""
    barrier = Barrier(count)

    def start(number: int) -> Any:
        barrier.wait(10)
        return call(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(start, range(count)))
