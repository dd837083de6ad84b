"""Standard Webhooks (standardwebhooks.com): signatures of dispatches and of callbacks.

Adds to the package of that name: several secrets, and headers malformed in ways that it does not expect.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

SIGNATURE_HEADER = "webhook-signature"


class Signer:
    """Signs with the first of its secrets, and verifies with any."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._webhooks = [Webhook(secret) for secret in secrets]

    def headers(self, message_id: str, body: bytes, now: datetime) -> dict[str, str]:
        """The headers for `body`; none if there is no secret. `now` is cut to a second."""
        if not self._webhooks:
            return {}
        moment = now.astimezone(UTC)
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(int(moment.timestamp())),
            SIGNATURE_HEADER: self._webhooks[0].sign(message_id, moment, body.decode()),
        }

    def is_signed(self, body: bytes, headers: Mapping[str, str]) -> bool:
        """Whether `body` was signed with one of the secrets, within five minutes of now.

        Every secret is tried, so that the time taken does not reveal which one matched.
        """
        is_signed = False
        for webhook in self._webhooks:
            with suppress(WebhookVerificationError, ValueError):  # ValueError: it cannot be decoded
                webhook.verify(body, dict(headers), json_parse=False)
                is_signed = True
        return is_signed
