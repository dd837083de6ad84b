"""The engine over a real socket: unreadable answers, expired tokens, and jobs cancelled meanwhile."""

import itertools
import time

import pytest

from domain.claim import ClaimEvent, Refusal, RunState
from orchestrators.base import Answer, Cancel, Dispatch, Outcome, Request, Run
from orchestrators.client import OrchestratorClient
from orchestrators.engine import Engine
from orchestrators.signatures import Signer
from orchestrators.webhook import Webhook
from services.assembly import utc_now
from settings import Settings
from tests.support.behaviours import Behaviour, Exchange, answer, close_after_read, in_turn
from tests.support.orchestrator import StubOrchestrator

DISPATCH = Dispatch("run-job", {"job_id": "job"}, utc_now())


class Failing(Webhook):
    """Fails to read the answer to a start."""

    def read_start(self, answer: Answer) -> ClaimEvent | Refusal:
        raise KeyError(answer.status)


class Preparing(Webhook):
    """Gets a token before each start, at the same address."""

    can_be_asked = True

    def prepare(self) -> Request | None:
        return Request("GET", self._url)

    def read_prepare(self, answer: Answer) -> str | Refusal:
        return answer.headers.get("X-Token") or Refusal.UNAUTHORIZED

    def start(self, dispatch: Dispatch, prepared: str) -> Request:
        return Request("POST", self._url, dispatch.body, {"X-Token": prepared})

    def ask(self, dispatch_id: str, prepared: str) -> Request:
        return Request("POST", self._url, b"", {"X-Token": prepared})

    def read_ask(self, answer: Answer) -> Run:
        return Run(RunState.RUNNING if answer.is_success else RunState.NO_ANSWER)

    def is_stale(self, answer: Answer) -> bool:
        return answer.status == 401


class Asking(Webhook):
    """Asks for a run before cancelling it, and always finds it in `state`."""

    asks_before_cancel = True

    def __init__(self, url: str, state: RunState) -> None:
        super().__init__(url, Signer(()), cancel_url=url)
        self._state = state

    def ask(self, dispatch_id: str, prepared: str) -> Request:
        return Request("GET", self._url)

    def read_ask(self, answer: Answer) -> Run:
        return Run(self._state)


class Tokens:
    """Issues the tokens 1, 2 …, and accepts starts with only the `good` one."""

    def __init__(self, good: str) -> None:
        self._good, self._issued = good, itertools.count(1)

    def __call__(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.method == "GET":
            exchange.answer(200, b"", {"X-Token": str(next(self._issued))})
        else:
            exchange.answer(202 if request.headers["x-token"] == self._good else 401, b"", {})


def client() -> OrchestratorClient:
    return OrchestratorClient(Settings(env="development", orchestrator_connect_tries=1))


def test_an_answer_that_the_adapter_fails_to_read_counts_as_lost() -> None:
    with StubOrchestrator() as stub:
        engine = Engine(client(), Failing(stub.url, Signer(())))
        outcome = engine.start(DISPATCH, lambda: True, time.monotonic())
        assert len(stub.requests) == 1
    assert outcome.event is ClaimEvent.LOST


def test_a_token_is_used_until_it_has_expired() -> None:
    with StubOrchestrator(Tokens("1")) as stub:
        engine = Engine(client(), Preparing(stub.url, Signer(())))
        for _ in range(2):
            outcome = engine.start(DISPATCH, lambda: True, time.monotonic())
            assert outcome.event is ClaimEvent.ACCEPTED
        assert [request.method for request in stub.requests] == ["GET", "POST", "POST"]


@pytest.mark.parametrize(("good", "event"), [("2", "accepted"), ("3", "refused")])
def test_an_expired_token_is_renewed_once(good: str, event: str) -> None:
    with StubOrchestrator(Tokens(good)) as stub:
        engine = Engine(client(), Preparing(stub.url, Signer(())))
        outcome = engine.start(DISPATCH, lambda: True, time.monotonic())
        assert [request.method for request in stub.requests] == ["GET", "POST", "GET", "POST"]
    assert outcome.event == event


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (answer(403, b"", {}), Outcome(ClaimEvent.REFUSED, Refusal.UNAUTHORIZED, 403)),
        (close_after_read(), Outcome(ClaimEvent.NOT_STARTED, Refusal.UNAVAILABLE)),
    ],
)
def test_without_a_token_nothing_is_started_or_asked(
    behaviour: Behaviour, expected: Outcome
) -> None:
    with StubOrchestrator(behaviour) as stub:
        engine = Engine(client(), Preparing(stub.url, Signer(())))
        assert engine.start(DISPATCH, lambda: True, time.monotonic()) == expected
        assert engine.ask("run-job").state is RunState.NO_ANSWER
        assert [request.method for request in stub.requests] == ["GET", "GET"]


@pytest.mark.parametrize(("good", "state"), [("2", RunState.RUNNING), ("3", RunState.NO_ANSWER)])
def test_a_question_renews_an_expired_token_once(good: str, state: RunState) -> None:
    with StubOrchestrator(Tokens(good)) as stub:
        assert Engine(client(), Preparing(stub.url, Signer(()))).ask("run-job").state is state
        assert [request.method for request in stub.requests] == ["GET", "POST", "GET", "POST"]


def test_a_question_without_an_answer_is_asked_once() -> None:
    token = answer(200, b"", {"X-Token": "1"})
    with StubOrchestrator(in_turn(token, close_after_read())) as stub:
        run = Engine(client(), Preparing(stub.url, Signer(()))).ask("run-job")
        assert run.state is RunState.NO_ANSWER
        assert [request.method for request in stub.requests] == ["GET", "POST"]


@pytest.mark.parametrize(
    ("state", "result", "methods"),
    [
        (RunState.RUNNING, Cancel.DONE, ["GET", "POST"]),
        (RunState.SUCCEEDED, Cancel.DONE, ["GET"]),
        (RunState.FAILED, Cancel.DONE, ["GET"]),
        (RunState.CANCELLED, Cancel.DONE, ["GET"]),
        (RunState.NOT_FOUND, Cancel.NOT_FOUND, ["GET"]),
        (RunState.NO_ANSWER, Cancel.NO_ANSWER, ["GET"]),
    ],
)
def test_an_adapter_that_asks_first_cancels_only_a_running_run(
    state: RunState, result: Cancel, methods: list[str]
) -> None:
    with StubOrchestrator() as stub:
        assert Engine(client(), Asking(stub.url, state)).cancel(DISPATCH) is result
        assert [request.method for request in stub.requests] == methods


def test_a_job_cancelled_during_preparation_is_not_started() -> None:
    with StubOrchestrator(answer(200, b"", {"X-Token": "t"}, after=0.3)) as stub:
        engine = Engine(client(), Preparing(stub.url, Signer(())))
        began = time.monotonic()
        outcome = engine.start(DISPATCH, lambda: False, began)
        assert [request.method for request in stub.requests] == ["GET"]
    assert outcome.event is ClaimEvent.NOT_STARTED
