"""An engine that can be asked (here with Restate's protocol): lost answers are settled without help."""

import json
import threading
from collections.abc import Iterator

import pytest

from devstack.stack import Stack
from devstack.waiting import wait_until
from domain.claim import FencingToken
from domain.record import TaskKind
from tasks import message
from tasks.queues import FOLLOW_UPS, queue_keys
from tests.acceptance.outcomes import assert_accepted, not_dispatched
from tests.acceptance.programs import takeone
from tests.conftest import NewStack
from tests.support.behaviours import JSON, Exchange
from tests.support.client import ApiClient, status_report
from tests.support.job_handle import JobHandle, at_once, refusal
from tests.support.log_lines import wait_for_line
from tests.support.orchestrator import StubOrchestrator

TOKEN = "a-bearer-token-that-no-log-shows"
ENGINES_WORDS = "words-of-the-engine"
SOON = 20.0
ENDED = {"failed": (500, "boom"), "cancelled": (409, "cancelled")}


class Restate:
    """A stub of Restate: `runs` has the state of each run, by idempotency key.

    `starts`, `asks` and `cancels` list the keys of the requests received, `executions` those of the runs begun.
    `on_start` has the outcome of a key's next starts: "accepted", "refused", "lost" (before it arrived), or
    any other text: it arrived and the answer was lost.
    While `is_deaf`, asks are answered 503; while `slow` is cleared, they wait.
    """

    def __init__(self) -> None:
        self.runs: dict[str, str] = {}
        self.on_start: dict[str, str] = {}
        self.starts: list[str] = []
        self.asks: list[str] = []
        self.cancels: list[str] = []
        self.executions: list[str] = []
        self.is_deaf = False
        self.slow = threading.Event()
        self.slow.set()

    def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        path, key = exchange.request.path, exchange.request.dispatch_id or ""
        assert exchange.request.headers["authorization"] == f"Bearer {TOKEN}" or "query" in path
        if path == "/Take/run/send":
            self._start(exchange, key)
        elif path.startswith("/restate/invocation/Take/run/"):
            self._ask(exchange, path.split("/")[5])
        elif path == "/query":
            query = exchange.request.json["query"]
            key = query.rpartition("= '")[2].rstrip("'")
            row = {"id": f"inv-{key}", "status": "running"}
            self._say(exchange, 200, {"rows": [row] if key in self.runs else []})
        else:
            self.cancels.append(path.split("/")[2].removeprefix("inv-"))
            exchange.answer(202, b"", {})

    def arrive(self, key: str) -> None:
        """Receive a start: execute it unless its key is known."""
        if key not in self.runs:
            self.runs[key] = "running"
            self.executions.append(key)

    def _start(self, exchange: Exchange, key: str) -> None:
        self.starts.append(key)
        outcome = self.on_start.get(key, "accepted")
        if outcome == "refused":
            self._say(exchange, 404, {"message": ENGINES_WORDS})
            return
        if outcome != "lost":
            self.arrive(key)
        if outcome == "accepted":
            self._say(exchange, 200, {"invocationId": f"inv-{key}", "status": "Accepted"})
        else:
            exchange.close()

    def _ask(self, exchange: Exchange, key: str) -> None:
        self.asks.append(key)
        self.slow.wait(10)
        state = self.runs.get(key)
        if self.is_deaf:
            self._say(exchange, 503, {"message": ENGINES_WORDS})
        elif state is None:
            self._say(exchange, 404, {"source": "ingress", "message": "invocation not found"})
        elif state in ENDED:
            status, message = ENDED[state]
            self._say(exchange, status, {"source": "invocation", "message": message})
        elif state == "running":
            self._say(exchange, 470, {"source": "ingress", "message": ENGINES_WORDS})
        else:
            exchange.answer(200, b"{}", JSON | {"x-restate-id": f"inv-{key}"})

    @staticmethod
    def _say(exchange: Exchange, status: int, body: object) -> None:
        exchange.answer(status, json.dumps(body).encode(), JSON)


@pytest.fixture(scope="module")
def stub() -> Iterator[StubOrchestrator]:
    """The HTTP server of the engine."""
    with StubOrchestrator() as running:
        yield running


@pytest.fixture(scope="module")
def asking(new_stack: NewStack, stub: StubOrchestrator) -> Iterator[Stack]:
    """A service whose orchestrator can be asked."""
    url = stub.url.removesuffix("/dispatches")
    with new_stack(
        TAKEONE_ORCHESTRATOR_URL=url,
        TAKEONE_ORCHESTRATOR_CANCEL_URL=url,
        TAKEONE_ORCHESTRATOR_KIND="restate",
        TAKEONE_ORCHESTRATOR_WORKFLOW="Take/run",
        TAKEONE_ORCHESTRATOR_CREDENTIALS=TOKEN,
        TAKEONE_FIRST_REPORT_SECONDS="1",
    ) as running:
        yield running


@pytest.fixture
def engine(stub: StubOrchestrator) -> Restate:
    """An engine without any run."""
    stub.default = engine = Restate()
    return engine


@pytest.fixture
def handle(asking: Stack, callback_secret: str, engine: Restate) -> JobHandle:
    """A job in UPLOADED."""
    return JobHandle.uploaded(ApiClient(asking.api_url, "alice"), callback_secret)


def of(handle: JobHandle, dispatch_ids: list[str]) -> list[str]:
    """The ids of this job only: requests of an earlier test may still arrive."""
    return [dispatch_id for dispatch_id in dispatch_ids if handle.id in dispatch_id]


def is_sent(handle: JobHandle) -> bool:
    return bool(handle.dispatch.get("phase") == "SENT")


def lose_answer(handle: JobHandle, engine: Restate) -> None:
    """Make the outcome of a run unknown: the engine has the run, and answers nothing from now on."""
    engine.is_deaf = True
    engine.on_start[handle.run_id] = "arrived, and the answer lost"
    assert refusal(handle.client.run(handle.id)) == not_dispatched("outcome_unknown")


def test_a_lost_answer_is_settled_while_the_caller_waits(
    handle: JobHandle, engine: Restate
) -> None:
    engine.on_start[handle.run_id] = "arrived, and the answer lost"
    assert_accepted(handle.client.run(handle.id))
    assert of(handle, engine.starts) == of(handle, engine.executions) == [handle.run_id]
    assert handle.event_types()[-3:-1] == ["dispatch.sent", "dispatch.found"]


def test_a_start_that_did_not_arrive_is_sent_again_under_its_id_and_never_released(
    handle: JobHandle, engine: Restate
) -> None:
    engine.on_start[handle.run_id] = "lost"
    assert refusal(handle.client.run(handle.id)) == not_dispatched("outcome_unknown")
    wait_until(lambda: len(of(handle, engine.starts)) >= 2, SOON, "it is sent again")
    engine.arrive(handle.run_id)  # the first request, delayed
    engine.on_start.clear()
    wait_until(lambda: is_sent(handle), SOON, "it is settled")
    assert of(handle, engine.executions) == [handle.run_id]
    assert "dispatch.released" not in handle.event_types()


def test_a_refused_resend_does_not_release_a_first_send_that_may_have_started(
    handle: JobHandle, engine: Restate
) -> None:
    engine.on_start[handle.run_id] = "lost"
    handle.client.run(handle.id)
    engine.on_start[handle.run_id] = "refused"
    resent = len(of(handle, engine.starts)) + 1
    wait_until(
        lambda: len(of(handle, engine.starts)) > resent, SOON, "it is sent and refused again"
    )
    wait_until(lambda: handle.dispatch["phase"] == "UNKNOWN", SOON, "it is unknown")
    engine.arrive(handle.run_id)
    wait_until(lambda: is_sent(handle), SOON, "it is found")
    assert of(handle, engine.executions) == [handle.run_id]
    assert "dispatch.released" not in handle.event_types()


def test_nothing_is_sent_while_the_engine_is_silent_and_the_dispatch_settles_once_it_answers(
    handle: JobHandle, engine: Restate
) -> None:
    lose_answer(handle, engine)
    asked = len(of(handle, engine.asks))
    wait_until(lambda: len(of(handle, engine.asks)) >= asked + 2, SOON, "it is asked about again")
    assert (of(handle, engine.starts), handle.dispatch["phase"]) == ([handle.run_id], "UNKNOWN")
    engine.is_deaf = False
    wait_until(lambda: is_sent(handle), SOON, "it is settled")
    assert handle.status == "AUDIO_EXTRACTING"
    assert of(handle, engine.starts) == [handle.run_id]


@pytest.mark.redis_broker
def test_a_message_of_an_ask_that_was_answered_asks_nothing(
    asking: Stack, handle: JobHandle, engine: Restate
) -> None:
    handle.lead_to("AUDIO_READY")
    token = FencingToken(handle.id, handle.run_id, 1)
    late = message.encode(TaskKind.ASK, f"ask-{handle.id}", token, FOLLOW_UPS)
    with asking.redis.client() as client:
        client.lpush(*queue_keys([FOLLOW_UPS]), late)
    wait_for_line(asking.workers[0], "ask.not_wanted", handle.id)
    assert of(handle, engine.asks) == []


def test_runs_during_an_unknown_outcome_share_one_ask(handle: JobHandle, engine: Restate) -> None:
    lose_answer(handle, engine)
    engine.is_deaf = False
    engine.slow.clear()
    asked = len(of(handle, engine.asks))
    threading.Timer(1.5, engine.slow.set).start()
    answers = at_once(6, lambda _: handle.client.run(handle.id))
    assert [answer.status_code for answer in answers] == [200] * 6
    assert {answer.json()["status"] for answer in answers} == {"AUDIO_EXTRACTING"}
    # One for all of them, and at most one that was already on its way.
    assert len(of(handle, engine.asks)) <= asked + 2
    assert of(handle, engine.starts) == [handle.run_id]


def test_a_run_whose_ask_is_not_answered_in_time_gets_outcome_unknown(
    handle: JobHandle, engine: Restate
) -> None:
    lose_answer(handle, engine)
    engine.slow.clear()
    try:
        answer = handle.client.run(handle.id, headers={"Prefer": "wait=1"})
        assert refusal(answer) == not_dispatched("outcome_unknown")
    finally:
        engine.slow.set()


def test_a_dispatch_that_still_runs_at_the_engine_bars_retry_and_release(
    handle: JobHandle, engine: Restate, asking: Stack
) -> None:
    assert handle.client.run(handle.id).status_code == 202
    handle.reported("FAILED", dispatch_id=handle.run_id)
    for _ in range(2):  # a retry that was refused does not hide the run
        assert refusal(handle.retry("one")) == not_dispatched("previous_run_active")
    assert of(handle, engine.executions) == [handle.run_id]
    engine.runs[handle.run_id] = "failed"
    first = handle.retry("one")
    assert first.status_code == 202
    # An operator may not release it while it runs, and a release does not admit the next retry.
    settle = f"dispatches settle {handle.id} --as release --reason dead"
    ended = takeone(settle, asking.settings)
    assert ended.returncode == 1
    assert "JOB_ALREADY_RUNNING" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert is_sent(handle)
    unnamed = {
        name: value
        for name, value in asking.settings.items()
        if not name.startswith("TAKEONE_ORCHESTRATOR_")
    }
    released = takeone(settle, unnamed)
    assert released.returncode == 0, "without an engine to ask, the operator decides"
    # The released run is still active.
    assert refusal(handle.retry("two")) == not_dispatched("previous_run_active")
    engine.runs[first.json()["dispatch_id"]] = "cancelled"
    second = handle.retry("two")
    assert second.status_code == 202
    assert len(of(handle, engine.executions)) == 3
    engine.runs[second.json()["dispatch_id"]] = "succeeded"
    assert takeone(settle, asking.settings).returncode == 0, "it runs no more"


def test_a_run_that_was_refused_although_the_engine_has_it_does_not_bar_itself(
    handle: JobHandle, engine: Restate
) -> None:
    engine.on_start[handle.run_id] = "refused"
    assert handle.client.run(handle.id).status_code == 502
    engine.arrive(handle.run_id)  # a gateway refused it
    del engine.on_start[handle.run_id]
    assert handle.client.run(handle.id).status_code == 202
    assert of(handle, engine.executions) == [handle.run_id]


def test_a_run_that_ends_a_moment_after_its_own_report_does_not_bar_the_retry(
    handle: JobHandle, engine: Restate
) -> None:
    assert handle.client.run(handle.id).status_code == 202
    handle.reported("FAILED", dispatch_id=handle.run_id)
    threading.Timer(0.7, engine.runs.update, [{handle.run_id: "failed"}]).start()
    assert handle.retry("one").status_code == 202
    assert len(of(handle, engine.executions)) == 2


def test_releasing_a_dispatch_that_the_engine_has_settles_it_as_sent(
    handle: JobHandle, engine: Restate, asking: Stack
) -> None:
    lose_answer(handle, engine)
    engine.is_deaf, engine.runs[handle.run_id] = False, "succeeded"
    ended = takeone(f"dispatches settle {handle.id} --as release --reason gone", asking.settings)
    assert ended.returncode == 1
    assert is_sent(handle)


def test_a_cancel_before_the_start_arrived_is_sent_once_the_run_is_found(
    handle: JobHandle, engine: Restate
) -> None:
    engine.is_deaf = True
    engine.on_start[handle.run_id] = "lost"
    handle.client.run(handle.id)
    assert handle.client.cancel(handle.id).status_code == 200
    engine.is_deaf = False
    asked = len(of(handle, engine.asks))
    wait_until(lambda: len(of(handle, engine.asks)) > asked, SOON, "it is asked about")
    assert of(handle, engine.cancels) == []
    engine.arrive(handle.run_id)
    wait_until(lambda: of(handle, engine.cancels), 2 * SOON, "it is cancelled there")
    assert of(handle, engine.cancels) == [handle.run_id]
    assert (handle.status, of(handle, engine.starts)) == ("CANCELLED", [handle.run_id])


def test_a_run_that_failed_at_the_engine_fails_the_job_and_its_last_report_is_still_applied(
    handle: JobHandle, engine: Restate
) -> None:
    assert handle.client.run(handle.id).status_code == 202
    engine.runs[handle.run_id] = "failed"
    wait_until(lambda: handle.status == "FAILED", 60, "the second answer, 30 s after the first")
    assert handle.shown()["failure"]["code"] == "ORCHESTRATOR_RUN_FAILED"
    last = status_report(
        "FAILED", dispatch_id=handle.run_id, failure_code="OUT_OF_MEMORY",
        artifact_updates={"audio_uri": "s3://audio"},
    )  # fmt: skip
    assert handle.send(last).status_code == 204
    assert handle.shown()["failure"]["code"] == "OUT_OF_MEMORY"
    assert handle.shown()["manifest"]["audio_uri"] == "s3://audio"
    retried = handle.retry("after")
    assert (retried.status_code, retried.json()["resume_from_status"]) == (202, "AUDIO_READY")
    late = status_report("FAILED", dispatch_id=handle.run_id)
    assert refusal(handle.send(late))[1] == "EXECUTION_SUPERSEDED"


def test_logs_hold_no_credential_and_no_text_of_the_engine(
    asking: Stack, handle: JobHandle, engine: Restate
) -> None:
    engine.on_start[handle.run_id] = "refused"
    assert handle.client.run(handle.id).status_code == 502
    wait_for_line(asking.workers[0], "dispatch.refused", handle.id)
    for process in asking.processes:
        log = process.log()
        assert log
        assert TOKEN not in log
        assert ENGINES_WORDS not in log
