"""What the whole service must do with a real engine and its example: Redis, web and a worker.

Starts go through a gateway that can lose them, and reports through one that can hold them. No test settles a
dispatch by hand.
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from devstack.processes import Startable
from devstack.stack import Stack
from devstack.waiting import wait_until
from domain.claim import OUTCOME_UNKNOWN, RunState
from domain.job import RUN_FAILED
from tasks.dispatch import PREVIOUS_RUN_ACTIVE
from tests.acceptance.test_doctor import findings
from tests.conftest import CALLBACK_SECRETS, NewStack
from tests.engines.callbacks import CallbackGateway
from tests.engines.contract import STEPS, EngineServer
from tests.engines.gateway import Gateway
from tests.support.client import ApiClient
from tests.support.job_handle import JobHandle, at_once, refusal

JOBS, RUNS_EACH = 20, 3
ANSWER_SECONDS = 30.0
# Take One asks about a run that has not reported for this long.
SILENT_SECONDS = "3"
FAILED = "ORCHESTRATOR_DISPATCH_FAILED"
CHANGED, NOTIFIED = "job.status_changed", "orchestrator.cancel_notified"


class TakeOne(Startable):
    """The service. It starts runs through `gateway`, and gets their reports through `reports`.

    `changed` are settings of the orchestrator, by their short names.
    """

    def __init__(self, server: EngineServer, new_stack: NewStack, **changed: str) -> None:
        self.gateway, self.reports = server.gateway(), CallbackGateway()
        named = {**server.settings(self.gateway.url), **changed}
        self.stack: Stack = new_stack(
            TAKEONE_PUBLIC_URL=self.reports.url,
            TAKEONE_RUN_WAIT_SECONDS="12",
            TAKEONE_FIRST_REPORT_SECONDS=SILENT_SECONDS,
            TAKEONE_SILENT_AFTER_SECONDS=SILENT_SECONDS,
            **{f"TAKEONE_ORCHESTRATOR_{name.upper()}": value for name, value in named.items()},
        )
        self.reports.engine_url = self.stack.api_url

    def start(self) -> None:
        """Start everything except the engine."""
        self.gateway.start()
        self.reports.start()
        self.stack.start()

    def stop(self) -> None:
        """Stop it."""
        self.stack.stop()
        self.reports.stop()
        self.gateway.stop()

    def uploaded(self) -> JobHandle:
        """A new job in UPLOADED."""
        client = ApiClient(self.stack.api_url, "alice", timeout_seconds=30)
        return JobHandle.uploaded(client, CALLBACK_SECRETS[0])


class Scenarios:
    """Subclass it in a module that has the fixture `server`.

    `start_seconds` limits a start, `end_seconds` anything else that the engine does.
    """

    start_seconds = 3.0
    end_seconds = 60.0

    @pytest.fixture(scope="class")
    @classmethod
    def take_one(cls, server: EngineServer, new_stack: NewStack) -> Iterator[TakeOne]:
        """The service, shared by these tests."""
        with TakeOne(server, new_stack, timeout_seconds=str(cls.start_seconds)) as running:
            yield running

    @pytest.fixture
    def gateway(self, take_one: TakeOne) -> Gateway:
        """The gateway in front of the engine, reset."""
        take_one.gateway.reset_behaviour()
        return take_one.gateway

    @pytest.fixture
    def reports(self, take_one: TakeOne) -> CallbackGateway:
        """The gateway for the reports."""
        return take_one.reports

    @pytest.fixture
    def job(self, take_one: TakeOne) -> JobHandle:
        """A job in UPLOADED."""
        return take_one.uploaded()

    @property
    def held_seconds(self) -> float:
        """Long enough for Take One to give up a start and repeat it."""
        return max(8.0, self.start_seconds + 5)

    def wait_for_status(self, job: JobHandle, status: str) -> None:
        """Wait until the job is in a state."""
        wait_until(lambda: job.status == status, self.end_seconds, f"job {job.id} is {status}")

    def assert_settled_as_one_run(self, job: JobHandle, server: EngineServer) -> None:
        """Wait until the dispatch is settled, not by an operator, and its one run has ended."""
        wait_until(lambda: job.dispatch["phase"] == "SENT", self.end_seconds, "it is settled")
        self.wait_for_status(job, "DRAFT_READY")
        assert server.runs(job.run_id) == 1
        assert "dispatch.settled" not in job.event_types()

    def test_many_concurrent_calls_make_one_run_for_each_job(
        self, take_one: TakeOne, gateway: Gateway, server: EngineServer
    ) -> None:
        jobs = [take_one.uploaded() for _ in range(JOBS)]
        calls = jobs * RUNS_EACH
        answers = at_once(len(calls), lambda number: calls[number].client.run(calls[number].id))
        counts = Counter(answer.status_code for answer in answers)
        assert counts == {202: JOBS, 200: JOBS * (RUNS_EACH - 1)}
        for job in jobs:
            self.assert_settled_as_one_run(job, server)
            steps = [event["new_status"] for event in job.trail() if event["event_type"] == CHANGED]
            assert list(dict.fromkeys(steps)) == STEPS
            assert {"audio_uri", "transcript_uri", "draft_uri"} <= job.shown()["manifest"].keys()
        assert len(gateway.starts) == JOBS

    def test_a_run_whose_answer_is_lost_is_found_while_the_caller_waits(
        self, gateway: Gateway, reports: CallbackGateway, job: JobHandle, server: EngineServer
    ) -> None:
        reports.hold(job.id, STEPS[0])  # a report would settle it too
        gateway.drop_next_answers()
        assert job.client.run(job.id).status_code == 202
        assert job.dispatch["phase"] == "SENT"
        assert "dispatch.found" in job.event_types()
        reports.release(job.id)
        self.assert_settled_as_one_run(job, server)
        assert [start.answered for start in gateway.starts] == [server.first_start]

    def test_a_delayed_start_is_one_run(
        self, gateway: Gateway, job: JobHandle, server: EngineServer
    ) -> None:
        gateway.hold_next_start(self.held_seconds)
        assert_unknown(job.client.run(job.id))
        self.assert_settled_as_one_run(job, server)
        held = gateway.starts[0]
        wait_until(lambda: held.answered, self.end_seconds, "the delayed start arrives")
        assert server.runs(job.run_id) == 1

    def test_a_refusal_has_a_reason_and_leaves_the_job_as_it_is(
        self, server: EngineServer, new_stack: NewStack
    ) -> None:
        for reason, changed in server.refusals.items():
            with TakeOne(server, new_stack, **changed) as refused:
                job = refused.uploaded()
                answer = job.client.run(job.id)
                assert refusal(answer) == (502, FAILED, {"reason": reason})
                assert job.status == "UPLOADED"
                (event,) = [e for e in job.trail() if e["event_type"] == "dispatch.refused"]
                assert str(event["reason"]).split()[0] == reason
                states = {item["state"] for item in findings(refused.stack.settings, "workflow")}
                assert states == {"WRONG"}
            assert server.connect().ask(job.run_id).state is RunState.NOT_FOUND

    def test_doctor_finds_the_workflow_ready(self, take_one: TakeOne) -> None:
        for about in ("workflow", "dispatches"):
            found = findings(take_one.stack.settings, about)
            assert [item["state"] for item in found] == ["ok"]

    def test_an_engine_that_stops_during_a_start_gets_one_run(
        self, gateway: Gateway, job: JobHandle, server: EngineServer
    ) -> None:
        gateway.hold_next_start(2)
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(job.client.run, job.id)
            wait_until(lambda: gateway.starts, ANSWER_SECONDS, "the start is under way")
            with server.away():
                assert_unknown(running.result())
        self.assert_settled_as_one_run(job, server)

    def test_an_engine_that_stops_while_a_dispatch_is_unknown_gets_one_run(
        self, gateway: Gateway, job: JobHandle, server: EngineServer
    ) -> None:
        for _ in range(10):  # so that no start arrives before it stops
            gateway.answer_next_start(504)
        assert_unknown(job.client.run(job.id))
        with server.away():
            gateway.reset_behaviour()
            wait_until(lambda: len(gateway.requests) > 1, ANSWER_SECONDS, "it is asked in vain")
            assert job.dispatch["phase"] == "UNKNOWN"
        self.assert_settled_as_one_run(job, server)

    def test_a_cancel_before_the_start_arrives_ends_the_run(
        self, gateway: Gateway, reports: CallbackGateway, job: JobHandle, server: EngineServer
    ) -> None:
        reports.hold(job.id, STEPS[0])
        gateway.hold_next_start(self.held_seconds)
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(job.client.run, job.id)
            wait_until(lambda: gateway.starts, ANSWER_SECONDS, "the start is under way")
            assert job.client.cancel(job.id).status_code == 200
            assert running.result().status_code in (409, 502)
        self.assert_run_is_cancelled(job, server)
        assert len(gateway.starts) == 1

    def test_a_cancel_ends_a_running_run(
        self, gateway: Gateway, reports: CallbackGateway, job: JobHandle, server: EngineServer
    ) -> None:
        self.run_up_to_its_transcription(job, reports)
        assert job.client.cancel(job.id).status_code == 200
        self.assert_run_is_cancelled(job, server)
        assert len(gateway.starts) == 1

    def assert_run_is_cancelled(self, job: JobHandle, server: EngineServer) -> None:
        """Wait until the engine has cancelled the run, and the trail says that it was notified."""
        what = f"{job.run_id} is cancelled"
        wait_until(lambda: server.is_cancelled(job.run_id), self.end_seconds, what)

        def is_notified() -> bool:
            events = [event for event in job.trail() if event["event_type"] == NOTIFIED]
            return any(event["reason"] == "accepted" for event in events)

        wait_until(is_notified, ANSWER_SECONDS, "the trail says so")
        assert job.status == "CANCELLED"
        assert server.runs(job.run_id) == 1

    def run_up_to_its_transcription(self, job: JobHandle, reports: CallbackGateway) -> None:
        """Run it, and hold the run before its transcription."""
        reports.hold(job.id, "TRANSCRIBING")
        assert job.client.run(job.id).status_code == 202
        self.wait_for_status(job, "AUDIO_READY")

    @pytest.mark.usefixtures("gateway")
    def test_a_retry_waits_until_the_run_before_it_has_ended(
        self, reports: CallbackGateway, job: JobHandle, server: EngineServer
    ) -> None:
        self.run_up_to_its_transcription(job, reports)
        job.reported("FAILED", dispatch_id=job.run_id)
        answer = job.retry("again")
        assert refusal(answer) == (502, FAILED, {"reason": PREVIOUS_RUN_ACTIVE})
        assert job.status == "FAILED"
        server.kill_run(job.run_id)
        wait_until(lambda: has_ended(server, job.run_id), self.end_seconds, "it has ended")
        self.assert_retried(job, reports, server)

    @pytest.mark.usefixtures("gateway")
    def test_a_run_that_ends_without_a_report_fails_its_job(
        self, reports: CallbackGateway, job: JobHandle, server: EngineServer
    ) -> None:
        self.run_up_to_its_transcription(job, reports)
        reports.hold(job.id, "TRANSCRIBING", "FAILED")
        server.kill_run(job.run_id)
        # The job fails at the second answer that says so, half a minute after the first.
        self.wait_for_status(job, "FAILED")
        assert job.shown()["failure"]["code"] == RUN_FAILED
        assert "orchestrator.run_failed" in job.event_types()
        self.assert_retried(job, reports, server)

    def assert_retried(
        self, job: JobHandle, reports: CallbackGateway, server: EngineServer
    ) -> None:
        """Retry it, and wait until that run has ended."""
        reports.release(job.id)
        answer = job.retry("again")
        assert answer.status_code == 202, answer.text
        assert answer.json()["resume_from_status"] == "AUDIO_READY"
        retried = answer.json()["dispatch_id"]
        assert retried != job.run_id
        self.wait_for_status(job, "DRAFT_READY")
        wait_until(
            lambda: server.connect().ask(retried).state is RunState.SUCCEEDED, 60, "it has ended"
        )
        assert server.runs(retried) == server.runs(job.run_id) == 1


def assert_unknown(answer: requests.Response) -> None:
    """The answer says that the outcome is unknown."""
    assert refusal(answer) == (502, FAILED, {"reason": OUTCOME_UNKNOWN})


def has_ended(server: EngineServer, dispatch_id: str) -> bool:
    """Whether the engine says that a run has ended."""
    return server.connect().ask(dispatch_id).state not in (RunState.RUNNING, RunState.NO_ANSWER)
