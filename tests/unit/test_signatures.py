"""Standard Webhooks signatures: rotation of secrets, and malformed headers."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks.webhooks import Webhook

from orchestrators.signatures import Signer
from settings.types import is_signing_secret

# The example of the specification's text.
SPEC_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OLD, NEW = "whsec_" + "b2xk" * 8, "whsec_" + "bmV3" * 8
BODY = b'{"test": 2432232314}'


def signed(secret: str = NEW, seconds_ago: float = 0) -> dict[str, str]:
    return Signer([secret]).headers(
        "msg_1", BODY, datetime.now(UTC) - timedelta(seconds=seconds_ago)
    )


def test_the_specifications_example() -> None:
    moment = datetime.fromtimestamp(1614265330, UTC)
    headers = Signer([SPEC_SECRET]).headers("msg_p5jXN8AQM9LWM0D4loKWxJek", BODY, moment)
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_the_first_secret_signs() -> None:
    headers = Signer([NEW, OLD]).headers("msg_1", BODY, datetime.now(UTC))
    Webhook(NEW).verify(BODY, headers)


def test_without_a_secret_nothing_is_signed_or_verified() -> None:
    assert Signer([]).headers("msg_1", BODY, datetime.now(UTC)) == {}
    assert not Signer([]).is_signed(BODY, signed())


@pytest.mark.parametrize("secret", [OLD, NEW])
def test_every_secret_verifies(secret: str) -> None:
    assert Signer([NEW, OLD]).is_signed(BODY, signed(secret))


def test_one_valid_signature_among_several_is_enough() -> None:
    headers = signed()
    headers["webhook-signature"] = f"v1a,abc v1,d3Jvbmc= {headers['webhook-signature']}"
    assert Signer([NEW]).is_signed(BODY, headers)


def test_a_body_that_is_not_json_verifies() -> None:
    headers = Signer([NEW]).headers("msg_1", b"no JSON", datetime.now(UTC))
    assert Signer([NEW]).is_signed(b"no JSON", headers)


@pytest.mark.parametrize("seconds_ago", [0, 290, -290])
def test_a_signature_is_valid_for_five_minutes(seconds_ago: float) -> None:
    assert Signer([NEW]).is_signed(BODY, signed(seconds_ago=seconds_ago))


def _without(name: str) -> Callable[[dict[str, str]], object]:
    return lambda headers: headers.pop(name)


def _with(name: str, value: str) -> Callable[[dict[str, str]], object]:
    return lambda headers: headers.update({name: value})


@pytest.mark.parametrize(
    "change",
    [
        _without("webhook-id"),
        _without("webhook-timestamp"),
        _without("webhook-signature"),
        _with("webhook-id", "msg_2"),
        _with("webhook-timestamp", "1614265330"),
        _with("webhook-timestamp", "9" * 400),
        _with("webhook-timestamp", "nan"),
        _with("webhook-timestamp", "soon"),
        _with("webhook-signature", "v1"),
        _with("webhook-signature", "v1,"),
        _with("webhook-signature", "v1,!"),
        _with("webhook-signature", "v1,\xe4\xe4\xe4\xe4"),
        _with("webhook-signature", "a,b,c"),
        _with("webhook-signature", " "),
    ],
)
def test_malformed_headers_do_not_verify(change: Callable[[dict[str, str]], object]) -> None:
    headers = signed()
    change(headers)
    assert not Signer([NEW]).is_signed(BODY, headers)


@pytest.mark.parametrize("body", [b"", BODY + b" ", b"\xff\xfe", BODY[:-1]])
def test_another_body_does_not_verify(body: bytes) -> None:
    assert not Signer([NEW]).is_signed(body, signed())


@pytest.mark.parametrize("seconds_ago", [310, -310])
def test_a_signature_is_invalid_after_five_minutes(seconds_ago: float) -> None:
    assert not Signer([NEW]).is_signed(BODY, signed(seconds_ago=seconds_ago))


@pytest.mark.parametrize("secret", [NEW, SPEC_SECRET])
def test_the_form_of_a_signing_secret(secret: str) -> None:
    assert is_signing_secret(secret)
    assert not is_signing_secret(secret.removeprefix("whsec_"))
    assert not is_signing_secret(secret[:20])
