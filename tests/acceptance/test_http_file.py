"""docs/takeone.http is generated from the specification, and the service accepts every call in it."""

import re
from typing import Any

import requests

from devstack.client import now
from devstack.processes import ROOT
from devstack.stack import Stack
from docs.http_file import http_file
from tests.support.client import ApiClient

REFUSES_THE_CALL = {400, 401, 403, 404, 405, 413, 415, 500}
FILE = ROOT / "docs" / "takeone.http"


def test_the_file_is_up_to_date_with_the_specification() -> None:
    assert FILE.read_text() == http_file(), "run `make docs`"


def test_every_call_of_the_file_succeeds_from_top_to_bottom(
    stack: Stack, callback_secret: str
) -> None:
    values = {
        "host": stack.api_url,
        "token": "test:reader:editor",
        "callbackSecret": callback_secret,
        "$datetime iso8601": now(),
    }
    answers: dict[str, requests.Response] = {}
    for block in FILE.read_text().split("\n### ")[1:]:
        name, answer = send(stack, block, values)
        answers[name] = answer
        if name.startswith("create"):
            values[f"{name}.id"] = answer.json()["id"]
    refused = {name: answer.text for name, answer in answers.items()
               if answer.status_code in REFUSES_THE_CALL}  # fmt: skip
    assert refused == {}
    assert answers["runJob"].status_code == 202
    assert answers["reportJobStatus"].status_code == 204
    assert answers["cancelJob"].json()["status"] == "CANCELLED"
    assert len(answers) >= 14


def send(stack: Stack, block: str, values: dict[str, str]) -> tuple[str, requests.Response]:
    """Send one call of the file as an editor's plug-in would; return its name and the answer."""

    def value(match: re.Match[str]) -> str:
        return values[match[1]]

    head, _, body = re.sub(r"\{\{(.+?)\}\}", value, block).strip().partition("\n\n")
    _, name, request, *lines = head.splitlines()
    method, url = request.split(" ")
    headers: dict[str, Any] = dict(line.split(": ", 1) for line in lines)
    client = ApiClient(stack.api_url, token="")
    path = url.removeprefix(stack.api_url)
    answer = client.call(method, path, data=body or None, headers=headers)
    return name.removeprefix("# @name "), answer
