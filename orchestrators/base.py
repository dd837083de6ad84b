"""What an orchestrator adapter is: which requests to send, and what each answer means.

An adapter does no I/O and reads no clock; `orchestrators.engine` sends its requests.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any, Self
from urllib.parse import quote

import orjson

from domain.claim import Claim, ClaimEvent, Refusal, RetryTerms, RunState
from domain.job import Job

# A gateway that gave up does not know what the engine did. These are the standard statuses, and those of CDNs
# (520 to 527), load balancers (460) and gateways to gRPC, such as Temporal's own (499: the call was cancelled).
GATEWAY_STATUSES = frozenset({408, 460, 499, 502, 503, 504, *range(520, 528)})

_REFUSALS = {
    400: Refusal.INVALID_PARAMETERS,
    401: Refusal.UNAUTHORIZED,
    403: Refusal.UNAUTHORIZED,
    404: Refusal.UNKNOWN_WORKFLOW,
    422: Refusal.INVALID_PARAMETERS,
    429: Refusal.UNAVAILABLE,
}

# `quote` that leaves no "/" as it is: for one segment of a path.
quoted = partial(quote, safe="")


def bearer(token: str) -> dict[str, str]:
    """The header for a bearer token; none for an empty one. In UTF-8: any token can be sent."""
    header = f"Bearer {token}".encode().decode("latin-1")
    return {"Authorization": header} if token else {}


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request to an engine."""

    method: str
    url: str
    body: bytes = b""
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer: status, headers and the first 64 KiB of the body; not `is_whole` if it broke off."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_whole: bool = True

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @property
    def refusal(self) -> Refusal | None:
        """Why the engine refused, judged by the status.

        None for a success, and where the answer does not prove a refusal: the status is a gateway's or a server
        error, or the answer broke off.
        """
        is_unclear = self.status in GATEWAY_STATUSES or self.status >= 500 or not self.is_whole
        if self.is_success or is_unclear:
            return None
        return _REFUSALS.get(self.status, Refusal.REFUSED)

    def json(self) -> object:
        """The body, if it is whole and JSON; else None."""
        try:
            return orjson.loads(self.body) if self.is_whole else None
        except orjson.JSONDecodeError:
            return None

    def fields(self) -> Mapping[str, Any]:
        """The body, if it is whole and a JSON object; else an empty mapping."""
        body = self.json()
        return body if isinstance(body, dict) else {}

    def objects(self, name: str) -> list[dict[str, Any]]:
        """The objects in the array `name` of the body; none if there is no such array."""
        items = self.fields().get(name)
        return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


@dataclass(frozen=True, slots=True)
class Exchange:
    """The result of a request: whether any byte of it was sent, and the answer, if its head came whole."""

    is_sent: bool
    answer: Answer | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is proven about a dispatch: the claim's event, and the reason that callers are shown."""

    event: ClaimEvent
    reason: str | None = None
    http_status: int | None = None


@dataclass(frozen=True, slots=True)
class Dispatch:
    """What is sent to an engine: the contract's fields. `now` is for signatures.

    `execution_id` is the engine's own id of the run, if a callback reported it.
    """

    dispatch_id: str
    fields: Mapping[str, str | None]
    now: datetime
    execution_id: str | None = None

    @classmethod
    def of(cls, job: Job, claim: Claim, callback_base: str, now: datetime) -> Self:
        """The dispatch of a claim, the same for every engine; that of a retry also says where it resumes."""
        fields: dict[str, str | None] = {
            "job_id": job.id,
            "project_id": job.project_id,
            "video_uri": job.manifest.video_uri,
            "callback_url": f"{callback_base}/api/v1/internal/jobs/{job.id}/status",
            "dispatch_id": claim.dispatch_id,
        }
        if claim.retry is not None:
            fields |= claim.retry.model_dump(mode="json", include=set(RetryTerms.model_fields))
        return cls(claim.dispatch_id, fields, now, claim.execution_id)

    @property
    def body(self) -> bytes:
        """The fields as JSON; equal fields give equal bytes."""
        return orjson.dumps(dict(self.fields))


@dataclass(frozen=True, slots=True)
class Run:
    """The state of a run, and the engine's own id of it where that is not the dispatch id."""

    state: RunState
    run_id: str | None = None


class Cancel(StrEnum):
    """What an answer to a cancel means."""

    DONE = "accepted"  # the engine will end the run, or it has ended
    NOT_FOUND = "not_found"
    REFUSED = "refused"
    NO_ANSWER = "no_answer"


class Adapter:
    """The requests and answers of one kind of engine.

    `prepared` is a value that a start needs and the engine gives (a token, an internal id): the result of
    `read_prepare`, or empty if there is nothing to prepare.
    """

    # How long the engine recognises a repeated start under one dispatch id: None for not at all,
    # `timedelta.max` for ever.
    window: timedelta | None = None
    can_be_asked = True
    can_cancel = True
    # For an engine whose cancel spoils a finished run, or needs the engine's own id of the run.
    asks_before_cancel = False
    _headers: Mapping[str, str]

    def prepare(self) -> Request | None:
        """The request for the prepared value; None if there is nothing to prepare."""
        return None

    def read_prepare(self, answer: Answer) -> str | Refusal:
        """The prepared value, or why there is none."""
        raise NotImplementedError

    def is_stale(self, answer: Answer) -> bool:
        """Whether an answer says that the prepared value is no longer valid, so that nothing was done."""
        return False

    def start(self, dispatch: Dispatch, prepared: str) -> Request:
        """The request that starts the workflow under the dispatch id."""
        raise NotImplementedError

    def is_accepted(self, answer: Answer) -> bool:
        """Whether the body of a 2xx to `start` is the engine's own and says that it has the run."""
        raise NotImplementedError

    def read_start(self, answer: Answer) -> ClaimEvent | Refusal:
        """What the answer to `start` means: ACCEPTED, LOST or why it was refused.

        A 2xx without the engine's own mark may come from a gateway. An id that is taken is LOST too, until
        `ask` finds the run.
        """
        is_accepted = answer.is_success and self.is_accepted(answer)
        return ClaimEvent.ACCEPTED if is_accepted else answer.refusal or ClaimEvent.LOST

    def ask(self, dispatch_id: str, prepared: str) -> Request:
        """The request for the state of a run; only where the engine `can_be_asked`."""
        raise NotImplementedError

    def read_ask(self, answer: Answer) -> Run:
        """What the answer to `ask` means. NOT_FOUND only with the engine's own mark."""
        raise NotImplementedError

    def ask_before_cancel(self, dispatch_id: str, prepared: str) -> Request:
        """The question before a cancel, if the adapter `asks_before_cancel`; `read_ask` reads its answer."""
        return self.ask(dispatch_id, prepared)

    def cancel(self, dispatch: Dispatch, run: Run | None, prepared: str) -> Request | None:
        """The request that ends a run, only where the engine `can_cancel`; None without the id it needs.

        `run` is given, and running, if the adapter `asks_before_cancel`.
        """
        raise NotImplementedError

    def is_cancelled(self, answer: Answer) -> bool:
        """Whether the body of a 2xx to `cancel` is the engine's own and says that the run will end."""
        return True

    def read_cancel(self, answer: Answer) -> Cancel:
        """What the answer to `cancel` means."""
        if answer.is_success:
            return Cancel.DONE if self.is_cancelled(answer) else Cancel.NO_ANSWER
        # Invalid credentials and rate limits say nothing about the run, and may pass.
        if answer.refusal is None or answer.status in (401, 403, 429):
            return Cancel.NO_ANSWER
        return Cancel.NOT_FOUND if answer.status == 404 else Cancel.REFUSED

    def checks(self, prepared: str) -> Mapping[str, Request]:
        """The requests of `doctor`, by name: does the workflow exist, and will its runs be picked up?"""
        return {}

    def problem(self, check: str, answer: Answer) -> str | None:
        """What the answer to a check shows to be wrong, for an operator; advice may follow after "; "."""
        raise NotImplementedError

    def _get(self, url: str) -> Request:
        return Request("GET", url, headers=self._headers)

    def _post(self, url: str, fields: Mapping[str, object]) -> Request:
        return Request("POST", url, orjson.dumps(fields), self._headers)
