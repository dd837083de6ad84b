"""Requests that no client library would send, and what every answer to them must look like."""

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
    400: {"VALIDATION_ERROR"},
    401: {"UNAUTHORIZED"},
    403: {"FORBIDDEN"},
    404: {"RESOURCE_NOT_FOUND"},
    405: {"METHOD_NOT_ALLOWED"},
    409: {"FSM_TRANSITION_INVALID", "FSM_TERMINAL_IMMUTABLE", "CALLBACK_OUT_OF_ORDER"},
    413: {"VALIDATION_ERROR"},
    414: {"VALIDATION_ERROR"},
    415: {"VALIDATION_ERROR"},
    417: {"VALIDATION_ERROR"},
    431: {"VALIDATION_ERROR"},
}


#: What never becomes a request may have the server's own empty answer.
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
    """Send a request with `target` exactly as it is written; the answer is held to the specification."""
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


def send_bytes(base_url: str, data: bytes) -> Answer:
    """Send bytes as they are, and read the answer."""
    where = urlsplit(base_url)
    with socket.create_connection(
        (where.hostname or "", where.port or 0), TIMEOUT_SECONDS
    ) as connection:
        connection.sendall(data)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return _read(response)


def _read(response: http.client.HTTPResponse) -> Answer:
    pairs = [(name.lower(), value) for name, value in response.getheaders()]
    headers = dict(pairs)
    assert len(headers) == len(pairs), f"a header comes twice: {pairs}"
    return Answer(response.status, headers, response.read())


def of(answer: requests.Response) -> Answer:
    """The same of an answer that requests has read."""
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return Answer(answer.status_code, headers, answer.content)


def assert_refused(answer: Answer, *statuses: int) -> None:
    """A 4xx (one of `statuses`, if given) in the contract's one shape of an error."""
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
    """What never becomes a request: the server's own empty 4xx, or one in the contract's shape."""
    if answer.body:
        assert_refused(answer, *statuses)
        return
    assert answer.status in (statuses or SERVERS_OWN), answer.status
