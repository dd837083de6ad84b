"""The issuer's keys, over real HTTP with a fake clock: who waits, and when the issuer is asked."""

import gzip
import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
import requests
from jwt.algorithms import RSAAlgorithm

from api.signing_keys import LIFETIME_SECONDS, SigningKeys
from devstack.ports import HOST
from devstack.waiting import wait_until
from domain.errors import ServiceUnavailable, Unauthorized
from tests.acceptance.tokens import RSA_KEY, Issuer
from tests.support.behaviours import Behaviour, Exchange, drip_body, drip_head
from tests.support.full_listener import port_that_takes_no_connection

PUBLIC_KEY = RSA_KEY.public_key()
PAUSE_SECONDS = 6


def jwks(*key_ids: str) -> tuple[int, bytes]:
    keys = [{**RSAAlgorithm.to_jwk(PUBLIC_KEY, as_dict=True), "kid": key_id} for key_id in key_ids]
    return 200, json.dumps({"keys": keys}).encode()


class CountingIssuer(Issuer):
    """Counts the fetches of its keys, and replies to them while `gate` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.fetches, self.gate, self.reply = 0, threading.Event(), jwks("one")
        self.gate.set()
        self.default = self._reply

    def _reply(self, exchange: Exchange) -> None:
        self.fetches += 1
        self.gate.wait(10)
        exchange.answer(*self.reply, {})


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def issuer() -> Iterator[CountingIssuer]:
    with CountingIssuer() as running:
        yield running
        running.gate.set()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(issuer: CountingIssuer, clock: Clock) -> SigningKeys:
    return SigningKeys(issuer.url, clock=clock)


def test_the_first_caller_waits_for_the_keys_and_later_ones_use_them(
    keys: SigningKeys, issuer: CountingIssuer
) -> None:
    for _ in range(5):
        assert keys.key("one").public_numbers() == PUBLIC_KEY.public_numbers()
    assert issuer.fetches == 1


def test_a_known_key_is_returned_at_once_while_the_issuer_is_slow(
    keys: SigningKeys, issuer: CountingIssuer, clock: Clock
) -> None:
    refusals: list[type] = []

    def ask_for_unknown_key(number: int) -> None:
        with pytest.raises((Unauthorized, ServiceUnavailable)) as refused:
            keys.key(f"invented-{number}")
        refusals.append(refused.type)

    keys.key("one")
    clock.now += 10
    issuer.gate.clear()
    callers = [threading.Thread(target=ask_for_unknown_key, args=(n,)) for n in range(20)]
    for caller in callers:
        caller.start()
    wait_until(lambda: issuer.fetches == 2, 30, "a refresh has begun")
    wait_until(lambda: ServiceUnavailable in refusals, 30, "only some wait for it")
    began = time.monotonic()
    for _ in range(100):
        assert keys.key("one") is not None
    assert not issuer.gate.is_set()
    assert time.monotonic() - began < 1.5, "shorter than one wait for the issuer"
    issuer.gate.set()
    for caller in callers:
        caller.join(10)
    assert issuer.fetches == 2, "one refresh for all of them"


def test_an_unknown_key_is_looked_up_once_per_pause(
    keys: SigningKeys, issuer: CountingIssuer, clock: Clock
) -> None:
    keys.key("one")
    for _ in range(10):
        with pytest.raises(Unauthorized):
            keys.key("two")
    assert issuer.fetches == 1, "the pause after the first fetch"
    issuer.reply = jwks("one", "two")
    clock.now += PAUSE_SECONDS
    assert keys.key("two") is not None
    assert issuer.fetches == 2


def test_a_key_without_an_id_is_found_for_tokens_that_name_none(
    keys: SigningKeys, issuer: CountingIssuer
) -> None:
    published = RSAAlgorithm.to_jwk(PUBLIC_KEY, as_dict=True)
    issuer.reply = 200, json.dumps({"keys": [published]}).encode()
    assert keys.key("").public_numbers() == PUBLIC_KEY.public_numbers()


def test_a_key_for_encryption_verifies_no_signature(
    keys: SigningKeys, issuer: CountingIssuer
) -> None:
    issuer.reply = 200, jwks("one")[1].replace(b'"kid"', b'"use": "enc", "kid"')
    with pytest.raises(Unauthorized):
        keys.key("one")


def test_a_compressed_answer_is_read(keys: SigningKeys, issuer: CountingIssuer) -> None:
    body = gzip.compress(jwks("one")[1])
    issuer.default = lambda exchange: exchange.answer(200, body, {"Content-Encoding": "gzip"})
    assert keys.key("one") is not None


def test_callers_who_have_waited_make_room_for_later_ones(keys: SigningKeys, clock: Clock) -> None:
    for number in range(10):  # more than may wait at the same time
        clock.now += PAUSE_SECONDS
        with pytest.raises(Unauthorized):
            keys.key(f"invented-{number}")


@pytest.mark.parametrize(
    "answer",
    [(500, b"oops"), (200, b"<html>"), (200, b""), (200, b'{"keys": []}'), (500, jwks("two")[1])],
)
def test_a_failing_issuer_is_asked_once_per_pause_and_used_when_it_recovers(
    keys: SigningKeys, issuer: CountingIssuer, clock: Clock, answer: tuple[int, bytes]
) -> None:
    issuer.reply = answer
    for _ in range(10):
        with pytest.raises(ServiceUnavailable):
            keys.key("one")
    assert issuer.fetches == 1
    issuer.reply = jwks("one")
    clock.now += PAUSE_SECONDS
    assert keys.key("one") is not None


def test_a_refresh_that_could_not_start_is_tried_again(
    keys: SigningKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError):
            keys.key("one")
    assert keys.key("one") is not None


def test_a_withdrawn_key_is_refused_after_its_lifetime(
    keys: SigningKeys, issuer: CountingIssuer, clock: Clock
) -> None:
    keys.key("one")
    issuer.reply = jwks("two")
    clock.now += LIFETIME_SECONDS + 1
    with pytest.raises(Unauthorized):
        keys.key("one")


def test_keys_are_refreshed_in_the_background_before_they_expire(
    keys: SigningKeys, issuer: CountingIssuer, clock: Clock
) -> None:
    keys.key("one")
    clock.now += LIFETIME_SECONDS - 10
    issuer.gate.clear()
    assert keys.key("one") is not None
    issuer.gate.set()
    wait_until(lambda: keys.valid_for > 50, 30, "they are fetched in the background")


def test_keys_are_not_refreshed_while_they_are_new(
    keys: SigningKeys, issuer: CountingIssuer, clock: Clock
) -> None:
    keys.key("one")
    clock.now += 25
    issuer.gate.clear()
    keys.key("one")
    clock.now += 4
    issuer.gate.set()
    with pytest.raises(Unauthorized):
        keys.key("two")
    assert keys.valid_for == LIFETIME_SECONDS, "this call began the only refresh"


def test_a_proxy_of_the_environment_is_not_used(
    keys: SigningKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://{HOST}:9")
    monkeypatch.setenv("no_proxy", "")
    assert keys.key("one") is not None


@pytest.mark.parametrize("endless", [drip_head(), drip_body()], ids=["head", "body"])
def test_an_issuer_whose_answer_never_ends_is_given_up_and_used_when_it_recovers(
    keys: SigningKeys, issuer: CountingIssuer, clock: Clock, endless: Behaviour
) -> None:
    good, issuer.default = issuer.default, endless
    with pytest.raises(ServiceUnavailable):
        keys.key("one")
    issuer.default = good

    def is_known() -> bool:
        clock.now += PAUSE_SECONDS
        with suppress(ServiceUnavailable):
            return keys.key("one") is not None
        return False

    wait_until(is_known, 30, "the keys are fetched")


def test_an_issuer_that_takes_no_connection_is_given_up() -> None:
    with port_that_takes_no_connection() as port:
        keys = SigningKeys(f"http://{HOST}:{port}/keys")
        gave_up = threading.Event()

        def fetch() -> None:
            with suppress(requests.ConnectTimeout):
                keys.fetch()
            gave_up.set()

        threading.Thread(target=fetch, daemon=True).start()
        assert gave_up.wait(20), "the kernel would try for two minutes"


def test_the_body_of_a_redirect_is_not_read_in_full(
    keys: SigningKeys, issuer: CountingIssuer
) -> None:
    sent = 0

    def endless_redirect(exchange: Exchange) -> None:
        nonlocal sent
        exchange.begin(302, {"Location": "/elsewhere"})
        while sent < 256:
            exchange.send(b"x" * 2**20)
            sent += 1

    issuer.default = endless_redirect
    with pytest.raises(ServiceUnavailable):
        keys.key("one")
    assert sent < 64, "megabytes"
