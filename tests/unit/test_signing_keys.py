"""The issuer's keys, over real HTTP, with the clock in the test's hand: who waits, and what is asked when."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from api.signing_keys import LIFETIME_SECONDS, SigningKeys
from devstack.ports import HOST
from devstack.waiting import wait_until
from domain.errors import ServiceUnavailable, Unauthorized

_PUBLIC = rsa.generate_private_key(public_exponent=65_537, key_size=2_048).public_key()


def jwks(*key_ids: str) -> bytes:
    keys = [{**RSAAlgorithm.to_jwk(_PUBLIC, as_dict=True), "kid": key_id} for key_id in key_ids]
    return json.dumps({"keys": keys}).encode()


class Issuer:
    """Publishes `body` with `status`, once `gate` is open; counts how often it was asked."""

    def __init__(self) -> None:
        self.status, self.body, self.asked = 200, jwks("one"), 0
        self.gate = threading.Event()
        self.gate.set()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                issuer.gate.wait(10)
                self.send_response(issuer.status)
                self.send_header("Content-Length", str(len(issuer.body)))
                self.end_headers()
                self.wfile.write(issuer.body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer((HOST, 0), Handler)
        self.url = f"http://{HOST}:{self.server.server_address[1]}/jwks"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    running = Issuer()
    yield running
    running.gate.set()
    running.server.shutdown()
    running.server.server_close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(issuer: Issuer, clock: Clock) -> SigningKeys:
    return SigningKeys(issuer.url, clock=clock)


def test_the_first_caller_waits_and_the_next_ones_ask_nothing(
    keys: SigningKeys, issuer: Issuer
) -> None:
    for _ in range(5):
        assert keys.key("one").public_numbers() == _PUBLIC.public_numbers()
    assert issuer.asked == 1


def test_a_known_key_is_had_at_once_while_the_issuer_is_slow(
    keys: SigningKeys, issuer: Issuer, clock: Clock
) -> None:
    keys.key("one")
    clock.now += 10
    issuer.gate.clear()
    strangers = [threading.Thread(target=_refused, args=(keys, f"invented-{n}")) for n in range(20)]
    for each in strangers:
        each.start()
    wait_until(lambda: issuer.asked == 2, 30, "a refresh is under way")
    began = time.monotonic()
    for _ in range(100):
        assert keys.key("one") is not None
    assert not issuer.gate.is_set()
    assert time.monotonic() - began < 1.5, "shorter than one wait for the issuer"
    issuer.gate.set()
    for each in strangers:
        each.join(10)
    assert issuer.asked == 2, "one refresh for all of them"


def _refused(keys: SigningKeys, key_id: str) -> None:
    with pytest.raises((Unauthorized, ServiceUnavailable)):
        keys.key(key_id)


def test_an_unknown_key_is_looked_for_once_a_pause(
    keys: SigningKeys, issuer: Issuer, clock: Clock
) -> None:
    keys.key("one")
    for _ in range(10):
        with pytest.raises(Unauthorized):
            keys.key("two")
    assert issuer.asked == 1, "the first fetch has just been"
    issuer.body = jwks("one", "two")
    clock.now += 6
    assert keys.key("two") is not None
    assert issuer.asked == 2


@pytest.mark.parametrize(
    ("status", "body"), [(500, b"oops"), (200, b"<html>"), (200, b""), (200, b'{"keys": []}')]
)
def test_an_issuer_that_fails_is_asked_once_a_pause_and_believed_when_it_recovers(
    keys: SigningKeys, issuer: Issuer, clock: Clock, status: int, body: bytes
) -> None:
    issuer.status, issuer.body = status, body
    for _ in range(10):
        with pytest.raises(ServiceUnavailable):
            keys.key("one")
    assert issuer.asked == 1
    issuer.status, issuer.body = 200, jwks("one")
    clock.now += 6
    assert keys.key("one") is not None


def test_a_withdrawn_key_is_refused_within_its_lifetime(
    keys: SigningKeys, issuer: Issuer, clock: Clock
) -> None:
    keys.key("one")
    issuer.body = jwks("two")
    clock.now += LIFETIME_SECONDS + 1
    with pytest.raises(Unauthorized):
        keys.key("one")


def test_keys_are_refreshed_before_they_expire_without_anyone_waiting(
    keys: SigningKeys, issuer: Issuer, clock: Clock
) -> None:
    keys.key("one")
    clock.now += LIFETIME_SECONDS - 10
    issuer.gate.clear()
    assert keys.key("one") is not None
    issuer.gate.set()
    wait_until(lambda: keys.valid_for > 50, 30, "they are fetched in the background")


def test_no_proxy_of_the_environment_can_replace_the_keys(
    keys: SigningKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://{HOST}:9")
    monkeypatch.setenv("no_proxy", "")
    assert keys.key("one") is not None
