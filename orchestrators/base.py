"""What an orchestrator adapter is: which requests to send, and what each answer means.

An adapter does no I/O and reads no clock. `orchestrators.engine` sends for all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import orjson

from domain.claim import ClaimEvent, Refusal, RunState

# A gateway that gave up on the engine does not know what the engine did: by its standard codes, and by those
# of CDNs (520 to 527) and load balancers (460).
GATEWAY_STATUSES = frozenset({408, 460, 502, 503, 504, *range(520, 528)})

_REFUSALS = {
    400: Refusal.INVALID_PARAMETERS,
    401: Refusal.UNAUTHORIZED,
    403: Refusal.UNAUTHORIZED,
    404: Refusal.UNKNOWN_WORKFLOW,
    422: Refusal.INVALID_PARAMETERS,
    429: Refusal.UNAVAILABLE,
}


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request to an engine."""

    method: str
    url: str
    body: bytes = b""
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer's status, headers and body (64 KiB at the most); `is_whole` unless it broke off."""

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
        """Why the engine refused, as the status suggests.

        None where it did not, or where the answer does not tell what it did: by a gateway's word, a fault of
        the server, or an answer that broke off.
        """
        is_no_word = self.status in GATEWAY_STATUSES or self.status >= 500
        if self.is_success or is_no_word or not self.is_whole:
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
        found = self.json()
        return found if isinstance(found, dict) else {}

    def objects(self, name: str) -> list[dict[str, Any]]:
        """The objects in the array that the body has under this name; none if it has no such array."""
        found = self.fields().get(name)
        return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


@dataclass(frozen=True, slots=True)
class Exchange:
    """What became of a request: whether any byte of it was sent, and the answer, if its head came whole."""

    is_sent: bool
    answer: Answer | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What may be concluded of a dispatch: the claim's event, and the reason that callers are shown."""

    event: ClaimEvent
    reason: str | None = None
    http_status: int | None = None


@dataclass(frozen=True, slots=True)
class Dispatch:
    """What an engine is told: the contract's fields, also as the JSON `body` that is sent, and the time.

    `execution_id` is the engine's own name of the run, if a callback has told it.
    """

    dispatch_id: str
    fields: Mapping[str, str | None]
    now: datetime
    execution_id: str | None = None

    @property
    def body(self) -> bytes:
        """The fields as JSON; the same bytes for the same fields."""
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
    """How one kind of engine is spoken to.

    `prepared` is what has to be known before a start (a token, an internal id): what `prepare` was answered.
    It is empty where nothing has to be.
    """

    # How long the engine recognises a start under the same dispatch id: None for not at all,
    # `timedelta.max` for ever.
    window: timedelta | None
    can_be_asked = True
    can_cancel = True
    # For an engine that would spoil a finished run, or that wants its own id of the run.
    asks_before_cancel = False
    _headers: Mapping[str, str]

    def prepare(self) -> Request | None:
        """What to ask before anything else; None if nothing needs to be known."""
        return None

    def read_prepare(self, answer: Answer) -> str | Refusal:
        """What `prepare` was answered, or why there is no going on."""
        raise NotImplementedError

    def is_stale(self, answer: Answer) -> bool:
        """Whether an answer says that what was prepared is no longer good; nothing was done then."""
        return False

    def start(self, dispatch: Dispatch, prepared: str) -> Request:
        """The request that starts the workflow under the dispatch id."""
        raise NotImplementedError

    def is_accepted(self, answer: Answer) -> bool:
        """Whether the body of a 2xx to `start` is the engine's own, and says that it has the run."""
        raise NotImplementedError

    def read_start(self, answer: Answer) -> ClaimEvent | Refusal:
        """What the answer to `start` means: ACCEPTED, LOST or why it was refused.

        A success without the engine's own mark may come from a page in between. That the id is taken is LOST:
        it is accepted once asking confirms it.
        """
        is_accepted = answer.is_success and self.is_accepted(answer)
        return ClaimEvent.ACCEPTED if is_accepted else answer.refusal or ClaimEvent.LOST

    def ask(self, dispatch_id: str, prepared: str) -> Request:
        """The question whether the engine has this dispatch; only where it `can_be_asked`."""
        raise NotImplementedError

    def read_ask(self, answer: Answer) -> Run:
        """What the answer to `ask` means. NOT_FOUND only for the engine's own word."""
        raise NotImplementedError

    def ask_for_cancel(self, dispatch: Dispatch, prepared: str) -> Request:
        """What is asked before a cancel, for an engine that `asks_before_cancel`; `read_ask` reads it."""
        return self.ask(dispatch.dispatch_id, prepared)

    def cancel(self, dispatch: Dispatch, run: Run | None, prepared: str) -> Request | None:
        """The request that ends the run, only where the engine `can_cancel`; None without the id it needs.

        `run`, where the engine `asks_before_cancel`, is running.
        """
        raise NotImplementedError

    def is_cancelled(self, answer: Answer) -> bool:
        """Whether the body of a 2xx to `cancel` is the engine's own, and says that the run will end."""
        return True

    def read_cancel(self, answer: Answer) -> Cancel:
        """What the answer to `cancel` means."""
        if answer.is_success:
            return Cancel.DONE if self.is_cancelled(answer) else Cancel.NO_ANSWER
        # Without valid credentials, or too often: that says nothing of the run, and may be mended.
        if answer.refusal is None or answer.status in (401, 403, 429):
            return Cancel.NO_ANSWER
        return Cancel.NOT_FOUND if answer.status == 404 else Cancel.REFUSED

    def checks(self, prepared: str) -> Mapping[str, Request]:
        """What `doctor` asks, by name: that the workflow is there and not paused, that runs are picked up."""
        return {}

    def problem(self, check: str, answer: Answer) -> str | None:
        """What is wrong by the answer to a check, for an operator; None if nothing is.

        What to do about it may follow after "; ".
        """
        raise NotImplementedError

    def _get(self, url: str) -> Request:
        return Request("GET", url, headers=self._headers)

    def _post(self, url: str, fields: Mapping[str, object]) -> Request:
        return Request("POST", url, orjson.dumps(fields), self._headers)
