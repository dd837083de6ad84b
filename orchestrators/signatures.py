"""Standard Webhooks (standardwebhooks.com): signatures of dispatches and of callbacks.

Adds to the package of that name: several secrets, and headers malformed in ways that it does not expect.
"""

from collections.abc import Mapping, Sequence
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
        results = [_verifies(webhook, body, dict(headers)) for webhook in self._webhooks]
        return any(results)


def _verifies(webhook: Webhook, body: bytes, headers: dict[str, str]) -> bool:
    try:
        webhook.verify(body, headers, json_parse=False)
    except (WebhookVerificationError, ValueError):  # ValueError: it cannot be decoded
        return False
    return True
