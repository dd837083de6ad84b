"""A webhook: any HTTP endpoint where one POST of JSON starts the workflow."""

from collections.abc import Mapping
from datetime import datetime, timedelta

import orjson

from domain.claim import ClaimEvent, Refusal
from orchestrators.base import GATEWAY_STATUSES, Adapter, Answer, Dispatch, Request, Run
from orchestrators.signatures import Signer


class Webhook(Adapter):
    """Starts by a POST to `url` with an `Idempotency-Key`, signed if there are secrets.

    `window` is how long the endpoint recognises that key. `headers` go with each request.
    """

    can_be_asked = False

    def __init__(
        self,
        url: str,
        signer: Signer,
        window: timedelta | None = None,
        cancel_url: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._url, self._cancel_url, self._signer = url, cancel_url, signer
        self._headers = headers or {}
        self.window = window
        self.can_cancel = bool(cancel_url)

    def start(self, dispatch: Dispatch, prepared: str) -> Request:
        return self._signed(self._url, dispatch.dispatch_id, dispatch.body, dispatch.now)

    def is_accepted(self, answer: Answer) -> bool:
        """The contract says that any 2xx accepts."""
        return True

    def read_start(self, answer: Answer) -> ClaimEvent | Refusal:
        """A 5xx refuses too, unless it is a gateway's."""
        if answer.status >= 500 and answer.is_whole and answer.status not in GATEWAY_STATUSES:
            return Refusal.REFUSED
        return super().read_start(answer)

    def cancel(self, dispatch: Dispatch, run: Run | None, prepared: str) -> Request:
        fields = {"job_id": dispatch.fields["job_id"], "dispatch_id": dispatch.dispatch_id}
        if dispatch.execution_id is not None:
            fields["execution_id"] = dispatch.execution_id
        key = f"cancel-{dispatch.dispatch_id}"
        return self._signed(self._cancel_url, key, orjson.dumps(fields), dispatch.now)

    def _signed(self, url: str, key: str, body: bytes, now: datetime) -> Request:
        signature = self._signer.headers(key, body, now)
        return Request("POST", url, body, {**self._headers, "Idempotency-Key": key, **signature})
