"""What readers and generators of clients need of the specification, beyond what linters ask."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from domain import errors
from domain.claim import Claim
from domain.job import Job
from domain.job_fsm import JobStatus
from orchestrators.base import Answer, Exchange
from orchestrators.engine import outcome_of
from orchestrators.payload import payload
from orchestrators.signatures import Signer
from orchestrators.webhook import Webhook
from tests.support import openapi
from tests.unit.records import a_claim, a_job, a_retry_claim

PROJECT_ID = "3f0c8a52-6a1e-4a43-9d0f-2b7f4a1c9e10"
# Of Python alone: \A, \Z, (?P<name>…), (?i) and the like.
NOT_ECMA = re.compile(r"\\[AZ]|\(\?[^:=!<]|\(\?<[^=!]")


def nodes(part: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every mapping of the document, examples left out, with where it stands."""
    if isinstance(part, dict):
        yield path, part
        for name, each in part.items():
            if name not in ("example", "examples"):
                yield from nodes(each, f"{path}/{name}")
    elif isinstance(part, list):
        for number, each in enumerate(part):
            yield from nodes(each, f"{path}/{number}")


def all_operations() -> list[tuple[str, dict[str, Any]]]:
    return [
        (path, node) for path, node in nodes(openapi.document()) if "operationId" in node
        and re.match(r"/(paths|webhooks)/.*/(get|post|put|patch|delete)$", path)
    ]  # fmt: skip


def test_everything_says_what_it_is() -> None:
    def needs_it(path: str) -> bool:
        named = r"/components/(schemas|headers|parameters|responses|securitySchemes)/\w+$"
        return bool(re.match(named, path) or re.search(r"/(properties/\w+|parameters/\d+)$", path))

    silent = [
        path for path, node in nodes(openapi.document())
        if needs_it(path) and not openapi.resolved(node).get("description")
    ]  # fmt: skip
    silent += [path for path, node in all_operations() if not node.get("description")]
    assert silent == []


def test_every_pattern_is_anchored_and_no_dialect_of_python() -> None:
    patterns = [
        node["pattern"] for _, node in nodes(openapi.document())
        if isinstance(node.get("pattern"), str)
    ]  # fmt: skip
    assert len(patterns) > 5
    wrong = [
        each for each in patterns
        if not (each.startswith("^") and each.endswith("$")) or NOT_ECMA.search(each)
    ]  # fmt: skip
    assert wrong == []


def test_a_status_is_jobstatus_and_a_code_errorcode_wherever_one_stands() -> None:
    spelled_out = [
        path for path, node in nodes(openapi.document())
        if {"TRANSCRIBING", "FORBIDDEN"} & set(map(str, node.get("enum", [])))
    ]  # fmt: skip
    assert spelled_out == ["/components/schemas/JobStatus", "/components/schemas/ErrorCode"]


def test_the_states_are_those_of_the_code() -> None:
    assert openapi.document()["components"]["schemas"]["JobStatus"]["enum"] == list(JobStatus)


def test_each_operation_says_who_may_call_it() -> None:
    assert [path for path, operation in all_operations() if "security" not in operation] == []


def test_each_answer_says_which_headers_it_always_has() -> None:
    wanted = {
        "401": "WWW-Authenticate",
        "429": "Retry-After",
        "502": "Retry-After",
        "503": "Retry-After",
    }
    missing = [
        (method, path, status, name)
        for method, path, operation in openapi.operations()
        for status, answer in operation["responses"].items()
        for name in ("X-Request-Id", wanted.get(status, "X-Request-Id"))
        if name not in openapi.resolved(answer).get("headers", {})
    ]
    assert missing == []


def test_the_examples_are_as_their_schemas_say() -> None:
    count = 0
    for path, node in nodes(openapi.document()):
        given = [node["example"]] if "example" in node else []
        given += [each["value"] for each in node.get("examples", {}).values()]
        for example in given:
            count += 1
            assert "schema" in node, path
            openapi.check_schema(node["schema"], example)
    assert count > 50


def test_a_refusal_shows_what_the_examples_of_its_code_show_in_their_order() -> None:
    described = {
        (example["value"]["code"], tuple(example["value"].get("details", ())))
        for _, node in nodes(openapi.document())
        for example in node.get("examples", {}).values()
        if "code" in example["value"] and example["value"]["code"] != "VALIDATION_ERROR"
    }
    raised = {
        (each.code, each.shows)
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, errors.TakeOneError) and each.code
    }
    assert raised == described


def the_job() -> Job:
    return a_job().model_copy(update={"project_id": PROJECT_ID})


@pytest.mark.parametrize(("webhook", "claim"), [("run", a_claim()), ("retry", a_retry_claim())])
def test_a_dispatch_is_sent_as_the_webhook_says(webhook: str, claim: Claim) -> None:
    openapi.check_webhook(webhook, payload(the_job(), claim, "https://takeone.example.org"))


def test_a_dispatch_that_is_not_as_the_webhook_says_is_told_apart() -> None:
    good = payload(the_job(), a_claim(), "https://takeone.example.org")
    for bad in (good | {"owner": "alice"}, good | {"video_uri": None}, good | {"job_id": "7"}):
        with pytest.raises(AssertionError):
            openapi.check_webhook("run", bad)
    with pytest.raises(AssertionError):
        openapi.check_webhook("retry", good)


@pytest.mark.parametrize("webhook", ["run", "retry", "cancel"])
def test_the_service_concludes_from_an_answer_what_the_webhook_says(webhook: str) -> None:
    answers = openapi.document()["webhooks"][webhook]["post"]["responses"]
    for status in range(200, 600):
        described = answers.get(str(status)) or answers[f"{status // 100}XX"]
        outcome = outcome_of(Webhook("", Signer([])), Exchange(True, Answer(status, {}, b"", True)))
        assert openapi.resolved(described)["x-outcome"] == outcome.event.value, status
