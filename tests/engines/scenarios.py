"""What a whole Take One must do with a real engine: Redis, web and a worker, and the engine's own example.

Starts go through a gateway that can lose them, and reports through one that can hold them. Nothing here
settles a dispatch by hand.
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
from tests.engines.contract import STEPS, EngineServer, wait_for
from tests.engines.gateway import Gateway
from tests.support.client import ApiClient
from tests.support.job_handle import JobHandle, at_once, refusal

JOBS, RUNS_EACH = 20, 3
ANSWER_SECONDS = 30.0
# A run that says nothing is asked about after so long.
QUIET_SECONDS = "3"
FAILED = "ORCHESTRATOR_DISPATCH_FAILED"
CHANGED, TOLD = "job.status_changed", "orchestrator.cancel_notified"


class TakeOne(Startable):
    """The service, whose orchestrator is the engine behind `gateway`; its reports come by `reports`.

    `changed` are settings of the orchestrator, by their short names.
    """

    def __init__(self, server: EngineServer, new_stack: NewStack, **changed: str) -> None:
        self.gateway, self.reports = server.gateway(), CallbackGateway()
        named = {**server.settings(self.gateway.url), **changed}
        self.stack: Stack = new_stack(
            TAKEONE_PUBLIC_URL=self.reports.url,
            TAKEONE_RUN_WAIT_SECONDS="12",
            TAKEONE_FIRST_REPORT_SECONDS=QUIET_SECONDS,
            TAKEONE_SILENT_AFTER_SECONDS=QUIET_SECONDS,
            **{f"TAKEONE_ORCHESTRATOR_{name.upper()}": value for name, value in named.items()},
        )
        self.reports.engine_url = self.stack.api_url

    def start(self) -> None:
        """Start all but the engine."""
        self.gateway.start()
        self.reports.start()
        self.stack.start()

    def stop(self) -> None:
        """Stop it again."""
        self.stack.stop()
        self.reports.stop()
        self.gateway.stop()

    def uploaded(self) -> JobHandle:
        """A new job in UPLOADED."""
        client = ApiClient(self.stack.api_url, "alice", timeout_seconds=30)
        return JobHandle.uploaded(client, CALLBACK_SECRETS[0])


class Scenarios:
    """Its subclasses are in modules that have the fixture `server`.

    `start_seconds` is the patience with a start, `end_seconds` that with anything that the engine does.
    """

    start_seconds = 3.0
    end_seconds = 60.0

    @pytest.fixture(scope="class")
    @classmethod
    def take_one(cls, server: EngineServer, new_stack: NewStack) -> Iterator[TakeOne]:
        """A Take One that these tests share."""
        with TakeOne(server, new_stack, timeout_seconds=str(cls.start_seconds)) as running:
            yield running

    @pytest.fixture
    def gateway(self, take_one: TakeOne) -> Gateway:
        """The gateway before the engine, with nothing left of the test before."""
        take_one.gateway.reset_behaviour()
        return take_one.gateway

    @pytest.fixture
    def reports(self, take_one: TakeOne) -> CallbackGateway:
        """The gateway on the way back."""
        return take_one.reports

    @pytest.fixture
    def job(self, take_one: TakeOne) -> JobHandle:
        """A job in UPLOADED."""
        return take_one.uploaded()

    @property
    def held_seconds(self) -> float:
        """Long enough for a start to be given up and sent again meanwhile."""
        return max(8.0, self.start_seconds + 5)

    def wait_for_status(self, job: JobHandle, status: str) -> None:
        """Wait until the job is in a state."""
        wait_until(lambda: job.status == status, self.end_seconds, f"job {job.id} is {status}")

    def is_one_run_that_ends_well(self, job: JobHandle, server: EngineServer) -> None:
        """Wait until a dispatch that was unknown is settled, without a person, and its run is through."""
        wait_until(lambda: job.dispatch["phase"] == "SENT", self.end_seconds, "it is settled")
        self.wait_for_status(job, "DRAFT_READY")
        assert server.runs(job.run_id) == 1
        assert "dispatch.settled" not in job.event_types()

    def test_jobs_that_are_run_at_once_and_often_are_one_run_each(
        self, take_one: TakeOne, gateway: Gateway, server: EngineServer
    ) -> None:
        jobs = [take_one.uploaded() for _ in range(JOBS)]
        each = [job for job in jobs for _ in range(RUNS_EACH)]
        answers = at_once(len(each), lambda number: each[number].client.run(each[number].id))
        counted = Counter(answer.status_code for answer in answers)
        assert counted == {202: JOBS, 200: JOBS * (RUNS_EACH - 1)}
        for job in jobs:
            self.is_one_run_that_ends_well(job, server)
            steps = [line["new_status"] for line in job.trail() if line["event_type"] == CHANGED]
            assert list(dict.fromkeys(steps)) == STEPS
            assert {"audio_uri", "transcript_uri", "draft_uri"} <= job.shown()["manifest"].keys()
        assert len(gateway.starts) == JOBS

    def test_a_start_whose_answer_is_lost_is_found_while_the_caller_waits(
        self, gateway: Gateway, reports: CallbackGateway, job: JobHandle, server: EngineServer
    ) -> None:
        reports.hold(job.id, STEPS[0])  # a report would prove it too
        gateway.drop_next_answers()
        assert job.client.run(job.id).status_code == 202
        assert job.dispatch["phase"] == "SENT"
        assert "dispatch.found" in job.event_types()
        reports.release(job.id)
        self.is_one_run_that_ends_well(job, server)
        assert [start.answered for start in gateway.starts] == [server.first_start]

    def test_a_start_that_is_held_up_is_one_run(
        self, gateway: Gateway, job: JobHandle, server: EngineServer
    ) -> None:
        gateway.hold_next_start(self.held_seconds)
        assert_unknown(job.client.run(job.id))
        self.is_one_run_that_ends_well(job, server)
        held = gateway.starts[0]
        wait_until(lambda: held.answered, self.end_seconds, "the start that was held arrives")
        assert server.runs(job.run_id) == 1

    def test_a_refusal_says_why_and_changes_nothing(
        self, server: EngineServer, new_stack: NewStack
    ) -> None:
        for reason, changed in server.refusals.items():
            with TakeOne(server, new_stack, **changed) as refused:
                job = refused.uploaded()
                answer = job.client.run(job.id)
                assert refusal(answer) == (502, FAILED, {"reason": reason})
                assert job.status == "UPLOADED"
                [line] = [each for each in job.trail() if each["event_type"] == "dispatch.refused"]
                assert str(line["reason"]).split()[0] == reason
                assert {each["state"] for each in findings(refused.stack.settings, "workflow")} == {
                    "WRONG"
                }
            assert server.speak().ask(job.run_id).state is RunState.NOT_FOUND

    def test_doctor_finds_the_workflow_ready(self, take_one: TakeOne) -> None:
        assert [each["state"] for each in findings(take_one.stack.settings, "workflow")] == ["ok"]
        assert [each["state"] for each in findings(take_one.stack.settings, "dispatches")] == ["ok"]

    def test_the_engine_is_stopped_between_claim_and_start(
        self, gateway: Gateway, job: JobHandle, server: EngineServer
    ) -> None:
        gateway.hold_next_start(2)
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(job.client.run, job.id)
            wait_until(lambda: gateway.starts, ANSWER_SECONDS, "the start is under way")
            with server.away():
                assert_unknown(running.result())
        self.is_one_run_that_ends_well(job, server)

    def test_the_engine_is_stopped_while_a_dispatch_is_unknown(
        self, gateway: Gateway, job: JobHandle, server: EngineServer
    ) -> None:
        for _ in range(10):  # so that no start arrives before it is stopped
            gateway.answer_next_start(504)
        assert_unknown(job.client.run(job.id))
        with server.away():
            gateway.reset_behaviour()
            wait_until(lambda: len(gateway.requests) > 1, ANSWER_SECONDS, "it is asked in vain")
            assert job.dispatch["phase"] == "UNKNOWN"
        self.is_one_run_that_ends_well(job, server)

    def test_a_job_that_is_cancelled_before_its_start_arrives_is_cancelled_there(
        self, gateway: Gateway, reports: CallbackGateway, job: JobHandle, server: EngineServer
    ) -> None:
        reports.hold(job.id, STEPS[0])
        gateway.hold_next_start(self.held_seconds)
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(job.client.run, job.id)
            wait_until(lambda: gateway.starts, ANSWER_SECONDS, "the start is under way")
            assert job.client.cancel(job.id).status_code == 200
            assert running.result().status_code in (409, 502)
        self.is_cancelled_there(job, server)
        assert len(gateway.starts) == 1

    def test_a_run_that_works_is_cancelled_there(
        self, gateway: Gateway, reports: CallbackGateway, job: JobHandle, server: EngineServer
    ) -> None:
        self.run_up_to_its_transcription(job, reports)
        assert job.client.cancel(job.id).status_code == 200
        self.is_cancelled_there(job, server)
        assert len(gateway.starts) == 1

    def is_cancelled_there(self, job: JobHandle, server: EngineServer) -> None:
        """Wait until the engine was told, and says so of the run."""
        what = f"{job.run_id} is cancelled there"
        wait_until(lambda: server.is_cancelled(job.run_id), self.end_seconds, what)
        told = lambda: [each["reason"] for each in job.trail() if each["event_type"] == TOLD]  # noqa: E731
        wait_until(lambda: "accepted" in told(), ANSWER_SECONDS, "the trail says so")
        assert job.status == "CANCELLED"
        assert server.runs(job.run_id) == 1

    def run_up_to_its_transcription(self, job: JobHandle, reports: CallbackGateway) -> None:
        """Run it, and let the run wait there."""
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
        self.is_retried(job, reports, server)

    @pytest.mark.usefixtures("gateway")
    def test_a_run_that_dies_without_a_word_fails_its_job(
        self, reports: CallbackGateway, job: JobHandle, server: EngineServer
    ) -> None:
        self.run_up_to_its_transcription(job, reports)
        reports.hold(job.id, "TRANSCRIBING", "FAILED")
        server.kill_run(job.run_id)
        # It is failed at the second answer that says so, half a minute after the first.
        self.wait_for_status(job, "FAILED")
        assert job.shown()["failure"]["code"] == RUN_FAILED
        assert "orchestrator.run_failed" in job.event_types()
        self.is_retried(job, reports, server)

    def is_retried(self, job: JobHandle, reports: CallbackGateway, server: EngineServer) -> None:
        """Retry it, and wait until that run is through."""
        reports.release(job.id)
        answer = job.retry("again")
        assert answer.status_code == 202, answer.text
        assert answer.json()["resume_from_status"] == "AUDIO_READY"
        retried = answer.json()["dispatch_id"]
        assert retried != job.run_id
        self.wait_for_status(job, "DRAFT_READY")
        wait_for(server.speak(), retried, RunState.SUCCEEDED)
        assert server.runs(retried) == server.runs(job.run_id) == 1


def assert_unknown(answer: requests.Response) -> None:
    """The caller is told that the outcome is not known."""
    assert refusal(answer) == (502, FAILED, {"reason": OUTCOME_UNKNOWN})


def has_ended(server: EngineServer, dispatch_id: str) -> bool:
    """Whether the engine says so of a run."""
    return server.speak().ask(dispatch_id).state not in (RunState.RUNNING, RunState.NO_ANSWER)
