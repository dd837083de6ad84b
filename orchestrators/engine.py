"""Speaks to the engine: sends what the adapter makes, and says what may be concluded from the answers."""

import threading
import time
from collections.abc import Callable, Iterator

import structlog

from domain.claim import OUTCOME_UNKNOWN, ClaimEvent, Refusal, RunState
from orchestrators.base import (
    Adapter,
    Answer,
    Cancel,
    Dispatch,
    Exchange,
    Outcome,
    Prepared,
    Request,
    Run,
    Start,
    StartAnswer,
)
from orchestrators.client import OrchestratorClient

log = structlog.get_logger("orchestrators")

# A run whose answer was lost is asked about at once, and twice more: engines list a run a moment later.
_ASK_AGAIN_SECONDS = (0.0, 0.3, 1.0)
ASK_SECONDS = 5.0
# A value with a life of its own is used for this part of it.
_USED_LIFE = 0.8


def outcome_of(adapter: Adapter, exchange: Exchange) -> Outcome:
    """What may be concluded from how a start went (design, "Outcomes of a start").

    Without a whole answer only the proof of what was sent counts. That an id is taken is no acceptance: the
    same status may mean something else.
    """
    answer = exchange.answer
    if answer is None and not exchange.is_sent:
        return Outcome(ClaimEvent.NOT_STARTED, ClaimEvent.NOT_STARTED)
    meaning = adapter.read_start(answer) if answer else StartAnswer(Start.UNKNOWN)
    status = answer.status if answer else None
    if meaning.start is Start.ACCEPTED:
        return Outcome(ClaimEvent.ACCEPTED, None, status)
    if meaning.start is Start.REFUSED:
        return Outcome(ClaimEvent.REFUSED, meaning.refusal or Refusal.REFUSED, status)
    return Outcome(ClaimEvent.LOST, OUTCOME_UNKNOWN, status)


class Engine:
    """One a process; threads share it."""

    def __init__(self, client: OrchestratorClient, adapter: Adapter) -> None:
        self._client, self.adapter = client, adapter
        self._lock = threading.Lock()
        self._prepared: Prepared | None = None
        self._good_until = 0.0

    def start(
        self, dispatch: Dispatch, still_wanted: Callable[[], bool], began: float | None = None
    ) -> Outcome:
        """Start the workflow; if the answer is lost or says that the id is taken, ask.

        `began`, a `time.monotonic()`, is when the time limit of the exchange begins to count. Raises only
        before anything was sent.
        """
        since = time.monotonic() if began is None else began
        prepared = self._value(time.monotonic())
        if not isinstance(prepared, str):
            return prepared
        request = self.adapter.start(dispatch, prepared)
        exchange = self._client.send(request, still_wanted, since)
        try:
            if exchange.answer is not None and self.adapter.is_stale(exchange.answer):
                prepared = self._value(time.monotonic(), prepared)
                if not isinstance(prepared, str):
                    return prepared
                request = self.adapter.start(dispatch, prepared)
                exchange = self._client.send(request, still_wanted, since)
            outcome = outcome_of(self.adapter, exchange)
            if outcome.event is ClaimEvent.LOST and self._is_found(dispatch.dispatch_id):
                return Outcome(ClaimEvent.FOUND, None, outcome.http_status)
        except Exception:  # an answer that no adapter foresaw says nothing of what was sent
            log.error("orchestrator.not_understood", exc_info=True)
            return Outcome(ClaimEvent.LOST, OUTCOME_UNKNOWN)
        return outcome

    def ask(self, dispatch_id: str) -> Run:
        """What the engine says of a dispatch; NO_ANSWER where it cannot be asked, or does not say."""
        return self._asked(lambda prepared: self.adapter.ask(dispatch_id, prepared))

    def cancel(self, dispatch: Dispatch) -> Cancel:
        """End the run of a dispatch; where the adapter wants it, the engine is asked first."""
        run: Run | None = None
        if self.adapter.asks_before_cancel:
            run = self._asked(lambda prepared: self.adapter.ask_for_cancel(dispatch, prepared))
        if run is not None and run.state is not RunState.RUNNING:
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
        for check in self.adapter.checks(prepared):
            exchange = self._client.send(check.request, _always, seconds=ASK_SECONDS)
            if exchange.answer is None:
                yield f"the orchestrator does not answer ({check.name})"
                continue
            problem = self.adapter.problem(check, exchange.answer)
            if problem is not None:
                yield problem

    def _is_found(self, dispatch_id: str) -> bool:
        if not self.adapter.can_be_asked:
            return False
        for pause in _ASK_AGAIN_SECONDS:
            time.sleep(pause)
            state = self.ask(dispatch_id).state
            if state not in (RunState.NOT_FOUND, RunState.NO_ANSWER):
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
        if self._prepared is not None and self._is_good(stale):
            return self._prepared.value
        request = self.adapter.prepare()
        if request is None:
            return ""
        if not self._lock.acquire(timeout=max(0.0, began + ASK_SECONDS - time.monotonic())):
            return Outcome(ClaimEvent.NOT_STARTED, Refusal.UNAVAILABLE)
        try:
            if self._prepared is not None and self._is_good(stale):
                return self._prepared.value
            answer = self._client.send(request, _always, began, ASK_SECONDS).answer
            found = self.adapter.read_prepare(answer) if answer else Refusal.UNAVAILABLE
            if isinstance(found, Refusal):
                event = ClaimEvent.REFUSED if answer else ClaimEvent.NOT_STARTED
                return Outcome(event, found, answer.status if answer else None)
            self._prepared = found
            life = float("inf") if found.seconds is None else found.seconds * _USED_LIFE
            self._good_until = time.monotonic() + life
            return found.value
        finally:
            self._lock.release()

    def _is_good(self, stale: str | None) -> bool:
        assert self._prepared is not None
        return self._prepared.value != stale and time.monotonic() < self._good_until


def _always() -> bool:
    return True
