"""The engine over a real socket: what an adapter did not foresee, and what changes while it prepares."""

import time

from domain.claim import ClaimEvent, Refusal
from orchestrators.base import Answer, Dispatch, Prepared, Request, StartAnswer
from orchestrators.client import OrchestratorClient
from orchestrators.engine import Engine
from orchestrators.signatures import Signer
from orchestrators.webhook import Webhook
from services.assembly import utc_now
from settings import Settings
from tests.support.behaviours import accept
from tests.support.orchestrator import StubOrchestrator

DISPATCH = Dispatch("run-job", {"job_id": "job"}, utc_now())


class Puzzled(Webhook):
    """It cannot read the answer to a start."""

    def read_start(self, answer: Answer) -> StartAnswer:
        """Fail."""
        raise KeyError(answer.status)


class Preparing(Webhook):
    """It asks for a token first, at the same address."""

    def prepare(self) -> Request | None:
        """Ask."""
        return Request("GET", self._url)

    def read_prepare(self, answer: Answer) -> Prepared | Refusal:
        """Any answer will do."""
        return Prepared("token")


def client() -> OrchestratorClient:
    return OrchestratorClient(Settings(env="development", orchestrator_connect_tries=1))


def test_an_answer_that_no_adapter_foresaw_is_lost_and_never_taken_for_nothing_sent() -> None:
    with StubOrchestrator() as stub:
        outcome = Engine(client(), Puzzled(stub.url, Signer(()))).start(DISPATCH, lambda: True)
        assert len(stub.requests) == 1
    assert outcome.event is ClaimEvent.LOST


def test_a_job_that_is_cancelled_while_its_start_is_prepared_is_not_started() -> None:
    with StubOrchestrator(accept(after=0.3)) as stub:
        engine = Engine(client(), Preparing(stub.url, Signer(())))
        began = time.monotonic()
        outcome = engine.start(DISPATCH, lambda: False, began)
        assert [request.method for request in stub.requests] == ["GET"]
    assert outcome.event is ClaimEvent.NOT_STARTED
