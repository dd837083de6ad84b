"""What each adapter, and the example for its engine, must do on the real engine."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from devstack.processes import Startable
from devstack.waiting import wait_until
from domain.claim import ClaimEvent, Refusal, RunState
from orchestrators.base import Cancel, Dispatch
from orchestrators.engine import Engine
from tests.engines.callbacks import CallbackReceiver, refused
from tests.engines.clients import NewDispatch, engine_client, started
from tests.engines.gateway import Gateway
from tests.support.behaviours import Request, in_turn

STEPS = [
    "AUDIO_EXTRACTING",
    "AUDIO_READY",
    "TRANSCRIBING",
    "TRANSCRIPT_READY",
    "GENERATING",
    "DRAFT_READY",
]
UNAVAILABLE = refused(503, "SERVICE_UNAVAILABLE")


class EngineServer(Startable):
    """A real engine with the example's workflow. The attributes are the differences between engines.

    `kind`, `url` and `workflow` are Take One's settings. `refusals` maps a reason to changed settings (by
    their short names) with which a start is refused for that reason.
    """

    kind: str
    url: str
    workflow: str
    refusals: Mapping[Refusal, Mapping[str, str]]
    first_start = 200  # the status of the answer to a start
    repeated_start = ClaimEvent.ACCEPTED  # the result of a start under an id that is taken
    start_after_end = ClaimEvent.ACCEPTED  # the same once that run has ended
    cancelled = frozenset({RunState.CANCELLED})  # the states of a run that was cancelled

    @abstractmethod
    def is_start(self, request: Request) -> bool:
        """Whether a request to the engine starts a run."""

    def settings(self, url: str = "") -> dict[str, str]:
        """Take One's settings of the orchestrator, by their short names; `url` may be a gateway's."""
        return {"kind": self.kind, "url": url or self.url, "workflow": self.workflow}

    def connect(self, url: str = "", **changed: str) -> Engine:
        """A worker's client of the engine; at a gateway's `url`, with a shorter timeout."""
        timeout = 3 if url else 10
        return engine_client(**{**self.settings(url), "timeout_seconds": timeout, **changed})

    def is_cancelled(self, dispatch_id: str) -> bool:
        """Whether the run of a dispatch is in the state of a cancelled one."""
        return self.connect().ask(dispatch_id).state in self.cancelled

    def gateway(self) -> Gateway:
        """A gateway in front of the engine."""
        return Gateway(self.url, self.is_start)

    @abstractmethod
    def runs(self, dispatch_id: str) -> int:
        """The number of runs of a dispatch, also those that have ended."""

    @abstractmethod
    def kill_run(self, dispatch_id: str) -> None:
        """End a run at once, so that its workflow cannot report."""

    @abstractmethod
    def kill_server(self) -> None:
        """Kill the server, but not the process that executes the runs."""

    @abstractmethod
    def start_server(self) -> None:
        """Start the server with the data that it had, and wait until it serves."""

    @contextmanager
    def away(self) -> Iterator[None]:
        """Kill the server, and start it again afterwards."""
        self.kill_server()
        try:
            yield
        finally:
            self.start_server()


def wait_for(engine: Engine, dispatch: Dispatch, state: RunState) -> None:
    """Wait until the engine says that the run of a dispatch is in a state."""
    dispatch_id = dispatch.dispatch_id
    what = f"{dispatch_id} is {state}"
    wait_until(lambda: engine.ask(dispatch_id).state is state, 60, what)


def assert_refused(
    server: EngineServer, engine: Engine, dispatch: Dispatch, reason: Refusal
) -> None:
    """A start is refused for this reason, and starts nothing."""
    outcome = started(engine, dispatch)
    assert (outcome.event, outcome.reason) == (ClaimEvent.REFUSED, reason)
    assert server.runs(dispatch.dispatch_id) == 0


class EngineContract:
    """Subclass it in a module that has the fixture `server`."""

    def test_the_example_takes_the_job_to_its_draft(
        self, engine: Engine, new_dispatch: NewDispatch, callbacks: CallbackReceiver
    ) -> None:
        dispatch = new_dispatch()
        assert engine.ask(dispatch.dispatch_id).state is RunState.NOT_FOUND
        assert started(engine, dispatch).event is ClaimEvent.ACCEPTED
        wait_for(engine, dispatch, RunState.SUCCEEDED)
        assert callbacks.statuses(dispatch) == STEPS
        reports = callbacks.reports(dispatch)
        assert {report["dispatch_id"] for report in reports} == {dispatch.dispatch_id}
        assert len({report["execution_id"] for report in reports}) == 1
        times = [report["occurred_at"] for report in reports]
        assert times == sorted(times)
        artifacts = [set(report.get("artifact_updates", ())) for report in reports]
        assert artifacts[1::2] == [{"audio_uri"}, {"transcript_uri"}, {"draft_uri"}]

    def test_a_retry_resumes_after_its_checkpoint(
        self, engine: Engine, new_dispatch: NewDispatch, callbacks: CallbackReceiver
    ) -> None:
        dispatch = new_dispatch(
            resume_from_status="TRANSCRIPT_READY", checkpoint_ref="s3://t", model_profile="standard"
        )
        assert started(engine, dispatch).event is ClaimEvent.ACCEPTED
        wait_for(engine, dispatch, RunState.SUCCEEDED)
        assert callbacks.statuses(dispatch) == ["GENERATING", "DRAFT_READY"]

    def test_starts_under_one_id_are_one_run_even_after_its_end(
        self, server: EngineServer, engine: Engine, new_dispatch: NewDispatch
    ) -> None:
        dispatch = new_dispatch()
        with ThreadPoolExecutor(16) as pool:
            outcomes = list(pool.map(lambda _: started(engine, dispatch).event, range(16)))
        assert sorted(outcomes) == sorted([ClaimEvent.ACCEPTED, *[server.repeated_start] * 15])
        wait_for(engine, dispatch, RunState.SUCCEEDED)
        later = replace(dispatch, now=dispatch.now + timedelta(minutes=5))
        assert started(engine, later).event is server.start_after_end
        assert engine.ask(dispatch.dispatch_id).state is RunState.SUCCEEDED
        assert server.runs(dispatch.dispatch_id) == 1

    def test_a_report_is_repeated_with_the_same_body_until_it_is_answered(
        self, engine: Engine, new_dispatch: NewDispatch, callbacks: CallbackReceiver
    ) -> None:
        dispatch = new_dispatch()
        callbacks.answer(dispatch, in_turn(UNAVAILABLE, UNAVAILABLE, callbacks.default))
        started(engine, dispatch)
        wait_for(engine, dispatch, RunState.SUCCEEDED)
        reports = callbacks.reports(dispatch)
        assert reports[0] == reports[1] == reports[2]
        assert callbacks.statuses(dispatch)[2:] == STEPS

    def test_a_failure_is_reported(
        self, engine: Engine, new_dispatch: NewDispatch, callbacks: CallbackReceiver
    ) -> None:
        dispatch = new_dispatch("s3://uploads/one.mp4?fail=transcription")
        started(engine, dispatch)
        wait_for(engine, dispatch, RunState.FAILED)
        callbacks.wait_for(dispatch, "FAILED")  # engines may set the state before they report
        assert callbacks.statuses(dispatch) == [*STEPS[:3], "FAILED"]
        assert callbacks.reports(dispatch)[-1]["failed_stage"] == "TRANSCRIBING"

    @pytest.mark.parametrize("code", ["EXECUTION_SUPERSEDED", "FSM_TERMINAL_IMMUTABLE"])
    def test_a_run_stops_when_its_report_is_refused_for_good(
        self, code: str, engine: Engine, new_dispatch: NewDispatch, callbacks: CallbackReceiver
    ) -> None:
        dispatch = new_dispatch()
        callbacks.answer(dispatch, refused(409, code))
        started(engine, dispatch)
        wait_for(engine, dispatch, RunState.SUCCEEDED)
        assert callbacks.statuses(dispatch) == STEPS[:1]

    def test_a_run_continues_when_a_later_step_was_reported_already(
        self, engine: Engine, new_dispatch: NewDispatch, callbacks: CallbackReceiver
    ) -> None:
        dispatch = new_dispatch()
        callbacks.answer(dispatch, refused(409, "CALLBACK_OUT_OF_ORDER"))
        started(engine, dispatch)
        wait_for(engine, dispatch, RunState.SUCCEEDED)
        assert callbacks.statuses(dispatch) == STEPS

    def test_a_running_run_is_cancelled(
        self,
        server: EngineServer,
        engine: Engine,
        new_dispatch: NewDispatch,
        callbacks: CallbackReceiver,
    ) -> None:
        dispatch = new_dispatch()
        # The run repeats this report until the job is cancelled.
        callbacks.answer(dispatch, UNAVAILABLE)
        started(engine, dispatch)
        callbacks.wait_for(dispatch, "AUDIO_EXTRACTING")
        assert engine.ask(dispatch.dispatch_id).state is RunState.RUNNING
        assert engine.cancel(dispatch) is Cancel.DONE
        callbacks.answer(dispatch, refused(409, "FSM_TERMINAL_IMMUTABLE"))
        what = f"{dispatch.dispatch_id} is cancelled"
        wait_until(lambda: server.is_cancelled(dispatch.dispatch_id), 60, what)
        assert engine.cancel(dispatch) is Cancel.DONE
        assert set(callbacks.statuses(dispatch)) - {"FAILED"} == {"AUDIO_EXTRACTING"}

    def test_a_cancel_leaves_a_finished_run_as_it_is(
        self, engine: Engine, new_dispatch: NewDispatch
    ) -> None:
        dispatch = new_dispatch()
        assert engine.cancel(dispatch) is Cancel.NOT_FOUND
        started(engine, dispatch)
        wait_for(engine, dispatch, RunState.SUCCEEDED)
        assert engine.cancel(dispatch) is Cancel.DONE
        assert engine.ask(dispatch.dispatch_id).state is RunState.SUCCEEDED

    def test_a_run_whose_answer_is_lost_is_found_at_once(
        self, server: EngineServer, gateway: Gateway, new_dispatch: NewDispatch
    ) -> None:
        engine, dispatch = server.connect(gateway.url), new_dispatch()
        gateway.drop_next_answers()
        assert started(engine, dispatch).event is ClaimEvent.FOUND
        assert [start.answered for start in gateway.starts] == [server.first_start]

    @pytest.mark.parametrize("status", [502, 504])
    def test_a_gateways_error_proves_nothing(
        self, status: int, server: EngineServer, gateway: Gateway, new_dispatch: NewDispatch
    ) -> None:
        engine, dispatch = server.connect(gateway.url), new_dispatch()
        gateway.answer_next_start(status)
        assert started(engine, dispatch).event is ClaimEvent.LOST
        assert engine.ask(dispatch.dispatch_id).state is RunState.NOT_FOUND

    def test_a_delayed_start_and_its_repeat_are_one_run(
        self, server: EngineServer, gateway: Gateway, new_dispatch: NewDispatch
    ) -> None:
        engine, dispatch = server.connect(gateway.url), new_dispatch()
        gateway.hold_next_start(6)
        assert started(engine, dispatch).event is ClaimEvent.LOST
        assert started(engine, dispatch).event is ClaimEvent.ACCEPTED
        wait_until(lambda: gateway.starts[0].answered, 20, "the delayed start arrives")
        assert server.runs(dispatch.dispatch_id) == 1

    def test_a_stopped_server_accepts_nothing_and_keeps_its_runs(
        self,
        server: EngineServer,
        engine: Engine,
        new_dispatch: NewDispatch,
        callbacks: CallbackReceiver,
    ) -> None:
        before, meanwhile = new_dispatch(), new_dispatch()
        callbacks.answer(before, UNAVAILABLE)
        started(engine, before)
        callbacks.wait_for(before, "AUDIO_EXTRACTING")
        with server.away():
            assert started(server.connect(), meanwhile).event is ClaimEvent.NOT_STARTED
            assert engine.ask(before.dispatch_id).state is RunState.NO_ANSWER
            assert engine.cancel(before) is Cancel.NO_ANSWER
            assert len(list(engine.problems())) >= 1
            callbacks.answer(before, callbacks.default)
        wait_for(engine, before, RunState.SUCCEEDED)
        assert set(callbacks.statuses(before)) == set(STEPS)
