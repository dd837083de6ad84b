"""Standard Webhooks (standardwebhooks.com): signatures of what we send, and of what comes back.

The package does the arithmetic. Here is what it leaves open: several secrets, and headers that are not
even wrong in the way it expects.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

SIGNATURE_HEADER = "webhook-signature"


class Signer:
    """Signs with the first of its secrets, and verifies with every one."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._webhooks = [Webhook(secret) for secret in secrets]

    def headers(self, message_id: str, body: bytes, now: datetime) -> dict[str, str]:
        """The headers that go with `body`; none if there is no secret. `now` is cut to a second."""
        if not self._webhooks:
            return {}
        moment = now.astimezone(UTC)
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(int(moment.timestamp())),
            SIGNATURE_HEADER: self._webhooks[0].sign(message_id, moment, body.decode()),
        }

    def is_signed(self, body: bytes, headers: Mapping[str, str]) -> bool:
        """Whether `body` was signed with one of the secrets less than five minutes ago (or ahead).

        Every secret is tried, so that the time taken does not tell which one it was.
        """
        given = dict(headers)
        tried = [_verifies(webhook, body, given) for webhook in self._webhooks]
        return any(tried)


def _verifies(webhook: Webhook, body: bytes, headers: dict[str, str]) -> bool:
    try:
        webhook.verify(body, headers, json_parse=False)
    except (WebhookVerificationError, ValueError):  # what cannot be decoded is not signed either
        return False
    return True
