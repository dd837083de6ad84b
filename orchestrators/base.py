"""What an orchestrator adapter is: which requests to send, and what each answer means.

An adapter does no I/O and reads no clock. `orchestrators.engine` sends for all of them.
"""

from collections.abc import Iterable, Mapping
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

    def json(self) -> Any:
        """The body, if it is whole and JSON; else None."""
        try:
            return orjson.loads(self.body) if self.is_whole else None
        except orjson.JSONDecodeError:
            return None

    def fields(self) -> Mapping[str, Any]:
        """The body, if it is whole and a JSON object; else an empty mapping."""
        found = self.json()
        return found if isinstance(found, dict) else {}


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


class Start(StrEnum):
    """What an answer to a start means."""

    ACCEPTED = "accepted"
    REFUSED = "refused"  # a whole answer that says no
    EXISTS = "exists"  # "this id is taken": accepted once asking confirms it
    UNKNOWN = "unknown"  # anything else


@dataclass(frozen=True, slots=True)
class StartAnswer:
    """The meaning of an answer to a start; `refusal` says why, in a word of ours."""

    start: Start
    refusal: Refusal | None = None


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


@dataclass(frozen=True, slots=True)
class Prepared:
    """What has to be known before a start (a token, an internal id), and for how many seconds it is good."""

    value: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One question of `takeone doctor` to the engine; `problem` reads the answer: None is good."""

    name: str
    request: Request


class Adapter:
    """How one kind of engine is spoken to. The defaults are those of an engine that can do little.

    `window` is how long the engine recognises a start under the same dispatch id: None for not at all,
    `timedelta.max` for ever.
    """

    window: timedelta | None = None
    can_be_asked = False
    can_cancel = False
    # For an engine that would spoil a finished run, or that wants its own id of the run.
    asks_before_cancel = False

    def prepare(self) -> Request | None:
        """What to ask before anything else; None if nothing needs to be known."""
        return None

    def read_prepare(self, answer: Answer) -> Prepared | Refusal:
        """What `prepare` was answered, or why there is no going on."""
        raise NotImplementedError

    def is_stale(self, answer: Answer) -> bool:
        """Whether an answer says that what was prepared is no longer good; nothing was done then."""
        return False

    def start(self, dispatch: Dispatch, prepared: str) -> Request:
        """The request that starts the workflow under the dispatch id."""
        raise NotImplementedError

    def read_start(self, answer: Answer) -> StartAnswer:
        """What the answer to `start` means, by its status and a marker in its body."""
        raise NotImplementedError

    def ask(self, dispatch_id: str, prepared: str) -> Request | None:
        """The question whether the engine has this dispatch; None where it cannot be asked."""
        return None

    def read_ask(self, answer: Answer) -> Run:
        """What the answer to `ask` means. NOT_FOUND only for the engine's own word."""
        raise NotImplementedError

    def ask_for_cancel(self, dispatch: Dispatch, prepared: str) -> Request | None:
        """What is asked before a cancel, for an engine that `asks_before_cancel`; `read_ask` reads it."""
        return self.ask(dispatch.dispatch_id, prepared)

    def cancel(self, dispatch: Dispatch, run: Run | None, prepared: str) -> Request | None:
        """The request that ends the run; None where the engine has no such thing.

        `run` is what asking has just found, where it was asked.
        """
        return None

    def read_cancel(self, answer: Answer) -> Cancel:
        """What the answer to `cancel` means."""
        return general_cancel(answer)

    def checks(self, prepared: str) -> Iterable[Check]:
        """What `doctor` asks: that the workflow is there and not paused, that runs would be picked up."""
        return ()

    def problem(self, check: Check, answer: Answer) -> str | None:
        """What is wrong by the answer to `check`, for an operator; None if nothing is.

        What to do about it may follow after "; ".
        """
        return None


def general_start(answer: Answer) -> StartAnswer:
    """What an answer means that shows none of the engine's own marks.

    A success without the mark may come from a page in between; a gateway's word, and a fault of the server,
    do not tell what the engine did.
    """
    if answer.is_success or answer.status >= 500 or answer.status in GATEWAY_STATUSES:
        return StartAnswer(Start.UNKNOWN)
    return refusal(answer) if answer.is_whole else StartAnswer(Start.UNKNOWN)


def refusal(answer: Answer) -> StartAnswer:
    """A refusal, with the reason that its status suggests."""
    return StartAnswer(Start.REFUSED, _REFUSALS.get(answer.status, Refusal.REFUSED))


def general_cancel(answer: Answer) -> Cancel:
    """What an answer to a cancel means by its status."""
    if answer.is_success:
        return Cancel.DONE
    is_no_word = answer.status in GATEWAY_STATUSES or answer.status >= 500
    # Without valid credentials, or too often: that says nothing of the run, and may be mended.
    if not answer.is_whole or is_no_word or answer.status in (401, 403, 429):
        return Cancel.NO_ANSWER
    return Cancel.NOT_FOUND if answer.status == 404 else Cancel.REFUSED


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a JSON array; none of anything else."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
