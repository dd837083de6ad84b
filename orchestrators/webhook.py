"""An orchestrator that was written for Take One, or any HTTP endpoint: one POST of JSON starts the workflow."""

from collections.abc import Mapping
from datetime import timedelta

import orjson

from orchestrators.base import (
    GATEWAY_STATUSES,
    Adapter,
    Answer,
    Dispatch,
    Request,
    Run,
    Start,
    StartAnswer,
    refusal,
)
from orchestrators.signatures import Signer


class Webhook(Adapter):
    """Starts by a POST to `url` with an `Idempotency-Key`, signed if there are secrets."""

    def __init__(
        self,
        url: str,
        signer: Signer,
        window: timedelta | None = None,
        cancel_url: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._url, self._cancel_url, self._signer = url, cancel_url, signer
        self._given = headers or {}
        self.window = window
        self.can_cancel = bool(cancel_url)

    def start(self, dispatch: Dispatch, prepared: str) -> Request:
        """The contract's body."""
        body, key = dispatch.body, dispatch.dispatch_id
        return Request("POST", self._url, body, self._headers(key, body, dispatch))

    def read_start(self, answer: Answer) -> StartAnswer:
        """Any 2xx accepts, whatever its body; another whole answer refuses, unless a gateway gave it."""
        if answer.is_success:
            return StartAnswer(Start.ACCEPTED)
        if answer.status in GATEWAY_STATUSES or not answer.is_whole:
            return StartAnswer(Start.UNKNOWN)
        return refusal(answer)

    def cancel(self, dispatch: Dispatch, run: Run | None, prepared: str) -> Request | None:
        """A POST to the cancel URL; None if there is none."""
        if not self._cancel_url:
            return None
        fields = {"job_id": dispatch.fields["job_id"], "dispatch_id": dispatch.dispatch_id}
        if dispatch.execution_id is not None:
            fields["execution_id"] = dispatch.execution_id
        body, key = orjson.dumps(fields), f"cancel-{dispatch.dispatch_id}"
        return Request("POST", self._cancel_url, body, self._headers(key, body, dispatch))

    def _headers(self, key: str, body: bytes, dispatch: Dispatch) -> dict[str, str]:
        signed = self._signer.headers(key, body, dispatch.now)
        return {**self._given, "Idempotency-Key": key, **signed}
