"""Requests that no client library would send, and checks of the answers."""

import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import requests

from tests.support import openapi

TIMEOUT_SECONDS = 10.0

CODES_BY_STATUS = {
    **{status: {"VALIDATION_ERROR"} for status in (400, 413, 414, 415, 417, 431)},
    401: {"UNAUTHORIZED"},
    403: {"FORBIDDEN"},
    404: {"RESOURCE_NOT_FOUND"},
    405: {"METHOD_NOT_ALLOWED"},
    409: {"FSM_TRANSITION_INVALID", "FSM_TERMINAL_IMMUTABLE", "CALLBACK_OUT_OF_ORDER"},
}

#: The web server answers bytes that are not a valid request by itself, with an empty body.
SERVERS_OWN = (400, 414, 431)


@dataclass(frozen=True)
class Answer:
    """A whole answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def ask(
    base_url: str,
    method: str,
    target: str,
    headers: Mapping[str, str | bytes] | None = None,
    body: bytes | None = None,
) -> Answer:
    """Send a request with `target` unchanged; check the answer against the specification."""
    where = urlsplit(base_url)
    connection = http.client.HTTPConnection(where.netloc, timeout=TIMEOUT_SECONDS)
    try:
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = _read(connection.getresponse())
    finally:
        connection.close()
    if answer.body or answer.status not in SERVERS_OWN:
        openapi.check(method, urlsplit(target).path, answer.status, answer.headers, answer.body)
    return answer


def send_bytes(base_url: str, data: bytes, *, is_end: bool = False) -> Answer:
    """Send raw bytes and read the answer; `is_end`: close the sending side first."""
    where = urlsplit(base_url)
    with socket.create_connection(
        (where.hostname or "", where.port or 0), TIMEOUT_SECONDS
    ) as connection:
        connection.sendall(data)
        if is_end:
            connection.shutdown(socket.SHUT_WR)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return _read(response)


def _read(response: http.client.HTTPResponse) -> Answer:
    pairs = [(name.lower(), value) for name, value in response.getheaders()]
    headers = dict(pairs)
    assert len(headers) == len(pairs), f"duplicate header: {pairs}"
    return Answer(response.status, headers, response.read())


def of(answer: requests.Response) -> Answer:
    """Convert an answer that requests has read."""
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return Answer(answer.status_code, headers, answer.content)


def assert_refused(answer: Answer, *statuses: int) -> None:
    """A 4xx (one of `statuses`, if given) with the contract's error body."""
    assert answer.status in (statuses or CODES_BY_STATUS), (answer.status, answer.body[:500])
    assert answer.headers["content-type"] == "application/json"
    error = json.loads(answer.body)
    assert error["code"] in CODES_BY_STATUS[answer.status]
    assert isinstance(error["message"], str)
    assert error["message"]
    if error["code"] in {"VALIDATION_ERROR", *CODES_BY_STATUS[409]}:
        assert error.keys() == {"code", "message", "details"}
        assert error["details"]
    else:
        assert error.keys() == {"code", "message"}
    assert ("www-authenticate" in answer.headers) is (answer.status == 401)


def assert_refused_by_server(answer: Answer, *statuses: int) -> None:
    """Refused by the web server with an empty 4xx, or by the application as in `assert_refused`."""
    if answer.body:
        assert_refused(answer, *statuses)
        return
    assert answer.status in (statuses or SERVERS_OWN), answer.status
