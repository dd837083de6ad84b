"""What an adapter, and the example for its engine, must do on the real engine: the same for each."""

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
from orchestrators.base import Cancel
from orchestrators.engine import Engine
from tests.engines.callbacks import CallbackReceiver, refused
from tests.engines.clients import engine_client, started
from tests.engines.conftest import NewDispatch
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


class EngineServer(Startable):
    """A real engine with the example's workflow; the attributes are what engines differ in.

    `kind`, `url` and `workflow` are Take One's settings. `refusals` are changes of settings, by their short
    names, each with why a start is then refused.
    """

    kind: str
    url: str
    workflow: str
    refusals: Mapping[Refusal, Mapping[str, str]]
    first_start = 200  # the status of the answer to a start
    repeated_start = ClaimEvent.ACCEPTED  # what comes of a start under an id that is taken
    cancelled = RunState.CANCELLED  # what the engine says of a run that it was told to cancel

    @abstractmethod
    def is_start(self, request: Request) -> bool:
        """Whether a request to the engine starts a run."""

    def settings(self, url: str = "") -> dict[str, str]:
        """Take One's settings of the orchestrator, by their short names; at a gateway's URL if one is given."""
        return {"kind": self.kind, "url": url or self.url, "workflow": self.workflow}

    def speak(self, url: str = "", **changed: str) -> Engine:
        """The engine as a worker speaks to it; behind a gateway with little patience."""
        patience = 3 if url else 10
        return engine_client(**{**self.settings(url), "timeout_seconds": patience, **changed})

    def is_cancelled(self, dispatch_id: str) -> bool:
        """Whether it says of a run that was told to end that it has ended so."""
        return self.speak().ask(dispatch_id).state is self.cancelled

    def gateway(self) -> Gateway:
        """A gateway before the engine."""
        return Gateway(self.url, self.is_start)

    @abstractmethod
    def runs(self, dispatch_id: str) -> int:
        """How many runs there are of a dispatch, ended ones included."""

    @abstractmethod
    def kill_run(self, dispatch_id: str) -> None:
        """End a run at once, without a word of its workflow."""

    @abstractmethod
    def kill_server(self) -> None:
        """End the server at once; what executes the runs stays."""

    @abstractmethod
    def start_server(self) -> None:
        """Start the server, with the data that it had, and wait until it serves."""

    @contextmanager
    def away(self) -> Iterator[None]:
        """Kills the server, and starts it again afterwards."""
        self.kill_server()
        try:
            yield
        finally:
            self.start_server()


def wait_for(engine: Engine, dispatch_id: str, state: RunState) -> None:
    """Wait until the engine says so of a dispatch."""
    what = f"{dispatch_id} is {state}"
    wait_until(lambda: engine.ask(dispatch_id).state is state, 60, what)


class EngineContract:
    """Its subclasses are in modules that have the fixture `server`."""

    @pytest.fixture
    def gateway(self, server: EngineServer) -> Iterator[Gateway]:
        """A gateway before the engine."""
        with server.gateway() as running:
            yield running

    @pytest.fixture
    def engine(self, server: EngineServer) -> Engine:
        """The engine, without a gateway."""
        return server.speak()

    def test_the_example_walks_the_job_to_its_draft(
        self, engine: Engine, new_dispatch: NewDispatch, callbacks: CallbackReceiver
    ) -> None:
        dispatch = new_dispatch()
        job_id = str(dispatch.fields["job_id"])
        assert engine.ask(dispatch.dispatch_id).state is RunState.NOT_FOUND
        assert started(engine, dispatch).event is ClaimEvent.ACCEPTED
        wait_for(engine, dispatch.dispatch_id, RunState.SUCCEEDED)
        assert callbacks.statuses(job_id) == STEPS
        reports = callbacks.reports(job_id)
        assert {report["dispatch_id"] for report in reports} == {dispatch.dispatch_id}
        assert len({report["execution_id"] for report in reports}) == 1
        artifacts = [set(report.get("artifact_updates", ())) for report in reports]
        assert artifacts[1::2] == [{"audio_uri"}, {"transcript_uri"}, {"draft_uri"}]

    def test_a_retry_goes_on_from_its_checkpoint(
        self, engine: Engine, new_dispatch: NewDispatch, callbacks: CallbackReceiver
    ) -> None:
        dispatch = new_dispatch(
            resume_from_status="TRANSCRIPT_READY", checkpoint_ref="s3://t", model_profile="standard"
        )
        assert started(engine, dispatch).event is ClaimEvent.ACCEPTED
        wait_for(engine, dispatch.dispatch_id, RunState.SUCCEEDED)
        assert callbacks.statuses(str(dispatch.fields["job_id"])) == ["GENERATING", "DRAFT_READY"]

    def test_one_id_is_one_run_also_after_its_end(
        self, server: EngineServer, engine: Engine, new_dispatch: NewDispatch
    ) -> None:
        dispatch = new_dispatch()
        with ThreadPoolExecutor(16) as pool:
            outcomes = list(pool.map(lambda _: started(engine, dispatch).event, range(16)))
        assert sorted(outcomes) == sorted([ClaimEvent.ACCEPTED, *[server.repeated_start] * 15])
        wait_for(engine, dispatch.dispatch_id, RunState.SUCCEEDED)
        later = replace(dispatch, now=dispatch.now + timedelta(minutes=5))
        assert started(engine, later).event is server.repeated_start
        assert engine.ask(dispatch.dispatch_id).state is RunState.SUCCEEDED
        assert server.runs(dispatch.dispatch_id) == 1

    def test_a_report_is_repeated_with_the_same_body_until_it_is_answered(
        self, engine: Engine, new_dispatch: NewDispatch, callbacks: CallbackReceiver
    ) -> None:
        dispatch = new_dispatch()
        job_id = str(dispatch.fields["job_id"])
        away = refused(503, "SERVICE_UNAVAILABLE")
        callbacks.behaviours[job_id] = in_turn(away, away, callbacks.default)
        started(engine, dispatch)
        wait_for(engine, dispatch.dispatch_id, RunState.SUCCEEDED)
        reports = callbacks.reports(job_id)
        assert reports[0] == reports[1] == reports[2]
        assert callbacks.statuses(job_id)[2:] == STEPS

    def test_a_failure_is_reported(
        self, engine: Engine, new_dispatch: NewDispatch, callbacks: CallbackReceiver
    ) -> None:
        dispatch = new_dispatch("s3://uploads/one.mp4?fail=transcription")
        started(engine, dispatch)
        wait_for(engine, dispatch.dispatch_id, RunState.FAILED)
        job_id = str(dispatch.fields["job_id"])
        callbacks.wait_for(
            job_id, "FAILED"
        )  # some engines call the hook after they have set the state
        assert callbacks.statuses(job_id) == [*STEPS[:3], "FAILED"]
        assert callbacks.reports(job_id)[-1]["failed_stage"] == "TRANSCRIBING"

    @pytest.mark.parametrize("code", ["EXECUTION_SUPERSEDED", "FSM_TERMINAL_IMMUTABLE"])
    def test_it_stops_where_it_is_told_to(
        self, code: str, engine: Engine, new_dispatch: NewDispatch, callbacks: CallbackReceiver
    ) -> None:
        dispatch = new_dispatch()
        job_id = str(dispatch.fields["job_id"])
        callbacks.behaviours[job_id] = refused(409, code)
        started(engine, dispatch)
        wait_for(engine, dispatch.dispatch_id, RunState.SUCCEEDED)
        assert callbacks.statuses(job_id) == STEPS[:1]

    def test_it_goes_on_where_a_later_step_was_reported_already(
        self, engine: Engine, new_dispatch: NewDispatch, callbacks: CallbackReceiver
    ) -> None:
        dispatch = new_dispatch()
        job_id = str(dispatch.fields["job_id"])
        callbacks.behaviours[job_id] = refused(409, "CALLBACK_OUT_OF_ORDER")
        started(engine, dispatch)
        wait_for(engine, dispatch.dispatch_id, RunState.SUCCEEDED)
        assert callbacks.statuses(job_id) == STEPS

    def test_a_running_run_is_cancelled(
        self,
        server: EngineServer,
        engine: Engine,
        new_dispatch: NewDispatch,
        callbacks: CallbackReceiver,
    ) -> None:
        dispatch = new_dispatch()
        job_id = str(dispatch.fields["job_id"])
        # Keeps the run where it is, until the job says that it is cancelled.
        callbacks.behaviours[job_id] = refused(503, "SERVICE_UNAVAILABLE")
        started(engine, dispatch)
        callbacks.wait_for(job_id, "AUDIO_EXTRACTING")
        assert engine.ask(dispatch.dispatch_id).state is RunState.RUNNING
        assert engine.cancel(dispatch) is Cancel.DONE
        callbacks.behaviours[job_id] = refused(409, "FSM_TERMINAL_IMMUTABLE")
        wait_for(engine, dispatch.dispatch_id, server.cancelled)
        assert engine.cancel(dispatch) is Cancel.DONE
        assert set(callbacks.statuses(job_id)) - {"FAILED"} == {"AUDIO_EXTRACTING"}

    def test_a_cancel_leaves_a_finished_run_and_finds_no_other(
        self, engine: Engine, new_dispatch: NewDispatch
    ) -> None:
        dispatch = new_dispatch()
        assert engine.cancel(dispatch) is Cancel.NOT_FOUND
        started(engine, dispatch)
        wait_for(engine, dispatch.dispatch_id, RunState.SUCCEEDED)
        assert engine.cancel(dispatch) is Cancel.DONE
        assert engine.ask(dispatch.dispatch_id).state is RunState.SUCCEEDED

    def test_an_answer_that_is_lost_is_found_out_at_once(
        self, server: EngineServer, gateway: Gateway, new_dispatch: NewDispatch
    ) -> None:
        engine, dispatch = server.speak(gateway.url), new_dispatch()
        gateway.drop_next_answers()
        assert started(engine, dispatch).event is ClaimEvent.FOUND
        assert [start.answered for start in gateway.starts] == [server.first_start]

    @pytest.mark.parametrize("status", [502, 504])
    def test_a_gateways_word_says_nothing(
        self, status: int, server: EngineServer, gateway: Gateway, new_dispatch: NewDispatch
    ) -> None:
        engine, dispatch = server.speak(gateway.url), new_dispatch()
        gateway.answer_next_start(status)
        assert started(engine, dispatch).event is ClaimEvent.LOST
        assert engine.ask(dispatch.dispatch_id).state is RunState.NOT_FOUND

    def test_a_start_that_was_held_arrives_and_is_one_run_with_its_repeat(
        self, server: EngineServer, gateway: Gateway, new_dispatch: NewDispatch
    ) -> None:
        engine, dispatch = server.speak(gateway.url), new_dispatch()
        gateway.hold_next_start(6)
        assert started(engine, dispatch).event is ClaimEvent.LOST
        assert started(engine, dispatch).event is ClaimEvent.ACCEPTED
        wait_until(lambda: gateway.starts[0].answered, 20, "the start that was held arrives")
        assert server.runs(dispatch.dispatch_id) == 1

    def test_a_server_that_is_away_took_nothing_and_keeps_its_runs(
        self,
        server: EngineServer,
        engine: Engine,
        new_dispatch: NewDispatch,
        callbacks: CallbackReceiver,
    ) -> None:
        before, meanwhile = new_dispatch(), new_dispatch()
        job_id = str(before.fields["job_id"])
        callbacks.behaviours[job_id] = refused(503, "SERVICE_UNAVAILABLE")
        started(engine, before)
        callbacks.wait_for(job_id, "AUDIO_EXTRACTING")
        with server.away():
            assert started(server.speak(), meanwhile).event is ClaimEvent.NOT_STARTED
            assert engine.ask(before.dispatch_id).state is RunState.NO_ANSWER
            assert engine.cancel(before) is Cancel.NO_ANSWER
            assert len(list(engine.problems())) >= 1
            callbacks.behaviours.pop(job_id)
        wait_for(engine, before.dispatch_id, RunState.SUCCEEDED)
        assert set(callbacks.statuses(job_id)) == set(STEPS)
