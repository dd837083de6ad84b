"""Talks to the engine: sends what the adapter makes, and returns what the answers prove."""

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import structlog

from domain.claim import FOUND, OUTCOME_UNKNOWN, ClaimEvent, Refusal, RunState
from orchestrators.base import Adapter, Answer, Cancel, Dispatch, Exchange, Outcome, Request, Run
from orchestrators.client import OrchestratorClient

log = structlog.get_logger("orchestrators")

# Pauses before each question about a run whose answer was lost: engines list a run a moment later.
_ASK_PAUSES = (0.0, 0.3, 1.0)
_ASK_SECONDS = 5.0
_LOST = Outcome(ClaimEvent.LOST, OUTCOME_UNKNOWN)
_NOT_STARTED = Outcome(ClaimEvent.NOT_STARTED, ClaimEvent.NOT_STARTED)
_WITHOUT_A_RUN = {RunState.NOT_FOUND: Cancel.NOT_FOUND, RunState.NO_ANSWER: Cancel.NO_ANSWER}
_NOT_PREPARED = Outcome(ClaimEvent.NOT_STARTED, Refusal.UNAVAILABLE)


def start_outcome(adapter: Adapter, exchange: Exchange) -> Outcome:
    """What the exchange of a start proves (spec/decisions/0022).

    Without an answer only the proof of what was sent counts.
    """
    answer = exchange.answer
    if answer is None:
        return _LOST if exchange.is_sent else _NOT_STARTED
    meaning = adapter.read_start(answer)
    if isinstance(meaning, Refusal):
        return Outcome(ClaimEvent.REFUSED, meaning, answer.status)
    reason = OUTCOME_UNKNOWN if meaning is ClaimEvent.LOST else None
    return Outcome(meaning, reason, answer.status)


class Engine:
    """The engine that the settings name. One per process; threads share it."""

    def __init__(self, client: OrchestratorClient, adapter: Adapter) -> None:
        self._client, self.adapter = client, adapter
        self._lock = threading.Lock()
        self._prepared: str | None = None

    def start(self, dispatch: Dispatch, still_wanted: Callable[[], bool], began: float) -> Outcome:
        """Start the workflow; if the answer is lost or says that the id is taken, ask for the run.

        The time limit of the exchange counts from `began`, a `time.monotonic()`. Raises only before anything
        was sent.
        """
        exchange = Exchange(is_sent=False)
        try:
            for prepared in self._prepared_values():
                if isinstance(prepared, Outcome):
                    return prepared
                request = self.adapter.start(dispatch, prepared)
                exchange = self._client.send(request, still_wanted, began)
                if exchange.answer is None or not self.adapter.is_stale(exchange.answer):
                    break
            outcome = start_outcome(self.adapter, exchange)
            if outcome.event is ClaimEvent.LOST and self._is_found(dispatch.dispatch_id):
                return Outcome(ClaimEvent.FOUND, None, outcome.http_status)
        except Exception:  # after an answer that the adapter did not expect, the run may be there
            if not exchange.is_sent:
                raise
            log.error("orchestrator.not_understood", exc_info=True)
            return _LOST
        return outcome

    def ask(self, dispatch_id: str) -> Run:
        """The state of a dispatch's run; NO_ANSWER if the engine does not tell."""
        return self._run(partial(self.adapter.ask, dispatch_id))

    def cancel(self, dispatch: Dispatch) -> Cancel:
        """End the run of a dispatch."""
        run: Run | None = None
        if self.adapter.asks_before_cancel:
            run = self._run(partial(self.adapter.ask_before_cancel, dispatch.dispatch_id))
            if run.state is not RunState.RUNNING:
                return _WITHOUT_A_RUN.get(run.state, Cancel.DONE)
        answer = self._answer(partial(self.adapter.cancel, dispatch, run))
        return self.adapter.read_cancel(answer) if answer else Cancel.NO_ANSWER

    def problems(self) -> Iterator[str]:
        """What would keep the engine from starting the workflow; advice may follow after "; "."""
        prepared = self._prepare(None)
        if isinstance(prepared, Outcome):
            yield f"the orchestrator: {prepared.reason}"
            return
        for check, request in self.adapter.checks(prepared).items():
            answer = self._client.send(request, seconds=_ASK_SECONDS).answer
            if answer is None:
                yield f"the orchestrator does not answer ({check})"
            elif problem := self.adapter.problem(check, answer):
                yield problem

    def _is_found(self, dispatch_id: str) -> bool:
        if not self.adapter.can_be_asked:
            return False
        for pause in _ASK_PAUSES:
            time.sleep(pause)
            if self.ask(dispatch_id).state in FOUND:
                return True
        return False

    def _run(self, make: Callable[[str], Request]) -> Run:
        answer = self._answer(make)
        return self.adapter.read_ask(answer) if answer else Run(RunState.NO_ANSWER)

    def _answer(self, make: Callable[[str], Request | None]) -> Answer | None:
        """The answer to the request that `make` makes of the prepared value."""
        began = time.monotonic()
        answer: Answer | None = None
        for prepared in self._prepared_values():
            request = make(prepared) if isinstance(prepared, str) else None
            if request is None:
                return None
            answer = self._client.send(request, began=began, seconds=_ASK_SECONDS).answer
            if answer is None or not self.adapter.is_stale(answer):
                break
        return answer

    def _prepared_values(self) -> Iterator[str | Outcome]:
        """The prepared value, and once more for a caller that found it stale."""
        value = self._prepare(None)
        yield value
        yield self._prepare(str(value))

    def _prepare(self, stale: str | None) -> str | Outcome:
        """The prepared value that is not `stale`, or the outcome of a start that cannot be made without it.

        One thread fetches it while the others wait; nothing of a start was sent by then.
        """
        began = time.monotonic()
        if not self._lock.acquire(timeout=_ASK_SECONDS):
            return _NOT_PREPARED
        try:
            if self._prepared is not None and self._prepared != stale:
                return self._prepared
            request = self.adapter.prepare()
            if request is None:
                return ""
            answer = self._client.send(request, began=began, seconds=_ASK_SECONDS).answer
            if answer is None:
                return _NOT_PREPARED
            value = self.adapter.read_prepare(answer)
            if isinstance(value, Refusal):
                return Outcome(ClaimEvent.REFUSED, value, answer.status)
            self._prepared = value
            return value
        finally:
            self._lock.release()
