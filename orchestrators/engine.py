"""Speaks to the engine: sends what the adapter makes, and says what may be concluded from the answers."""

import threading
import time
from collections.abc import Callable, Iterator

import structlog

from domain.claim import FOUND, OUTCOME_UNKNOWN, ClaimEvent, Refusal, RunState
from orchestrators.base import Adapter, Answer, Cancel, Dispatch, Exchange, Outcome, Request, Run
from orchestrators.client import OrchestratorClient

log = structlog.get_logger("orchestrators")

# A run whose answer was lost is asked about at once, and twice more: engines list a run a moment later.
_ASK_AGAIN_SECONDS = (0.0, 0.3, 1.0)
ASK_SECONDS = 5.0
_LOST = Outcome(ClaimEvent.LOST, OUTCOME_UNKNOWN)
_NOT_STARTED = Outcome(ClaimEvent.NOT_STARTED, ClaimEvent.NOT_STARTED)
_NOT_PREPARED = Outcome(ClaimEvent.NOT_STARTED, Refusal.UNAVAILABLE)


def outcome_of(adapter: Adapter, exchange: Exchange) -> Outcome:
    """What may be concluded from how a start went (spec/decisions/0022).

    Without a whole answer only the proof of what was sent counts. That an id is taken is no acceptance: the
    same status may mean something else.
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
    """One a process; threads share it."""

    def __init__(self, client: OrchestratorClient, adapter: Adapter) -> None:
        self._client, self.adapter = client, adapter
        self._lock = threading.Lock()
        self._prepared: str | None = None

    def start(self, dispatch: Dispatch, still_wanted: Callable[[], bool], began: float) -> Outcome:
        """Start the workflow; if the answer is lost or says that the id is taken, ask.

        `began`, a `time.monotonic()`, is when the time limit of the exchange begins to count. Raises only
        before anything was sent.
        """
        stale: str | None = None
        exchange = Exchange(is_sent=False)
        try:
            for _ in range(2):
                prepared = self._value(time.monotonic(), stale)
                if isinstance(prepared, Outcome):
                    return prepared
                request = self.adapter.start(dispatch, prepared)
                exchange = self._client.send(request, still_wanted, began)
                if exchange.answer is None or not self.adapter.is_stale(exchange.answer):
                    break
                stale = prepared
            outcome = outcome_of(self.adapter, exchange)
            if outcome.event is ClaimEvent.LOST and self._is_found(dispatch.dispatch_id):
                return Outcome(ClaimEvent.FOUND, None, outcome.http_status)
        except Exception:  # an answer that no adapter foresaw says nothing of what was sent
            if not exchange.is_sent:
                raise
            log.error("orchestrator.not_understood", exc_info=True)
            return _LOST
        return outcome

    def ask(self, dispatch_id: str) -> Run:
        """What the engine says of a dispatch; NO_ANSWER where it does not say."""
        return self._asked(lambda prepared: self.adapter.ask(dispatch_id, prepared))

    def cancel(self, dispatch: Dispatch) -> Cancel:
        """End the run of a dispatch; where the adapter wants it, the engine is asked first."""
        run: Run | None = None
        if self.adapter.asks_before_cancel:
            run = self._asked(lambda prepared: self.adapter.ask_for_cancel(dispatch, prepared))
            if run.state is not RunState.RUNNING:
                named = {RunState.NOT_FOUND: Cancel.NOT_FOUND, RunState.NO_ANSWER: Cancel.NO_ANSWER}
                return named.get(run.state, Cancel.DONE)
        answer = self._answer(lambda prepared: self.adapter.cancel(dispatch, run, prepared))
        return self.adapter.read_cancel(answer) if answer else Cancel.NO_ANSWER

    def problems(self) -> Iterator[str]:
        """What would keep the engine from starting the workflow; "; " may part it from what to do."""
        prepared = self._value(time.monotonic())
        if not isinstance(prepared, str):
            yield f"the orchestrator: {prepared.reason}"
            return
        for check, request in self.adapter.checks(prepared).items():
            answer = self._client.send(request, _always, seconds=ASK_SECONDS).answer
            if answer is None:
                yield f"the orchestrator does not answer ({check})"
            elif problem := self.adapter.problem(check, answer):
                yield problem

    def _is_found(self, dispatch_id: str) -> bool:
        if not self.adapter.can_be_asked:
            return False
        for pause in _ASK_AGAIN_SECONDS:
            time.sleep(pause)
            if self.ask(dispatch_id).state in FOUND:
                return True
        return False

    def _asked(self, make: Callable[[str], Request | None]) -> Run:
        answer = self._answer(make)
        return self.adapter.read_ask(answer) if answer else Run(RunState.NO_ANSWER)

    def _answer(self, make: Callable[[str], Request | None]) -> Answer | None:
        """The answer to what `make` makes of the prepared value, which is renewed once if it is stale."""
        began = time.monotonic()
        stale: str | None = None
        answer: Answer | None = None
        for _ in range(2):
            prepared = self._value(began, stale)
            request = make(prepared) if isinstance(prepared, str) else None
            if request is None:
                return None
            answer = self._client.send(request, _always, began, ASK_SECONDS).answer
            if answer is None or not self.adapter.is_stale(answer):
                break
            stale = str(prepared)
        return answer

    def _value(self, began: float, stale: str | None = None) -> str | Outcome:
        """What has to be known before a request, or the outcome of a start that cannot be made.

        One thread renews it while others wait, none for longer than an ask may take since `began`. Nothing of
        a start has left by then.
        """
        known = self._known(stale)
        request = self.adapter.prepare() if known is None else None
        if request is None:
            return known or ""
        if not self._lock.acquire(timeout=max(0.0, began + ASK_SECONDS - time.monotonic())):
            return _NOT_PREPARED
        try:
            known = self._known(stale)
            if known is not None:
                return known
            answer = self._client.send(request, _always, began, ASK_SECONDS).answer
            if answer is None:
                return _NOT_PREPARED
            found = self.adapter.read_prepare(answer)
            if isinstance(found, Refusal):
                return Outcome(ClaimEvent.REFUSED, found, answer.status)
            self._prepared = found
            return found
        finally:
            self._lock.release()

    def _known(self, stale: str | None) -> str | None:
        return self._prepared if self._prepared != stale else None


def _always() -> bool:
    return True
