"""Rules for the specification that linters do not have: for its readers, and for generated clients."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from devstack.processes import ROOT
from domain import errors
from domain.claim import Claim
from domain.job_fsm import TERMINAL_STATUSES, TRANSITIONS, JobStatus
from orchestrators.base import Answer, Dispatch, Exchange
from orchestrators.engine import start_outcome
from orchestrators.signatures import Signer
from orchestrators.webhook import Webhook
from tests.support import openapi
from tests.unit.records import NOW, a_claim, a_job, a_retry_claim

PROJECT_ID = "3f0c8a52-6a1e-4a43-9d0f-2b7f4a1c9e10"
# Only Python has these: \A, \Z, (?P<name>…), (?i) and the like.
NOT_ECMA = re.compile(r"\\[AZ]|\(\?[^:=!<]|\(\?<[^=!]")


def nodes(part: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The path and the node of every mapping in the document, without examples."""
    if isinstance(part, dict):
        yield path, part
        for name, child in part.items():
            if name not in ("example", "examples"):
                yield from nodes(child, f"{path}/{name}")
    elif isinstance(part, list):
        for number, child in enumerate(part):
            yield from nodes(child, f"{path}/{number}")


def all_operations() -> list[tuple[str, dict[str, Any]]]:
    return [
        (path, node) for path, node in nodes(openapi.document()) if "operationId" in node
        and re.match(r"/(paths|webhooks)/.*/(get|post|put|patch|delete)$", path)
    ]  # fmt: skip


def test_everything_has_a_description() -> None:
    described = re.compile(
        r"/components/(schemas|headers|parameters|responses|securitySchemes)/\w+$"
        r"|.*/(properties/\w+|parameters/\d+)$"
    )
    parts = [(path, node) for path, node in nodes(openapi.document()) if described.match(path)]
    missing = [
        path for path, node in [*parts, *all_operations()]
        if not openapi.resolved(node).get("description")
    ]  # fmt: skip
    assert missing == []


def test_every_pattern_is_anchored_and_valid_in_ecmascript() -> None:
    patterns = [
        node["pattern"] for _, node in nodes(openapi.document())
        if isinstance(node.get("pattern"), str)
    ]  # fmt: skip
    assert len(patterns) > 5
    wrong = [
        pattern for pattern in patterns
        if not (pattern.startswith("^") and pattern.endswith("$")) or NOT_ECMA.search(pattern)
    ]  # fmt: skip
    assert wrong == []


def test_states_and_error_codes_are_listed_in_one_schema_each() -> None:
    spelled_out = [
        path for path, node in nodes(openapi.document())
        if {"TRANSCRIBING", "FORBIDDEN"} & set(map(str, node.get("enum", [])))
    ]  # fmt: skip
    assert spelled_out == ["/components/schemas/JobStatus", "/components/schemas/ErrorCode"]


def test_the_job_states_match_the_code() -> None:
    assert openapi.document()["components"]["schemas"]["JobStatus"]["enum"] == list(JobStatus)


def test_the_console_offers_to_fail_a_job_in_the_states_that_may_fail() -> None:
    words = (ROOT / "api/console/words.js").read_text()
    lists = dict(re.findall(r"export const ([A-Z]+) = (\[[^\]]+\])", words))
    may_fail = [status for status in JobStatus if JobStatus.FAILED in TRANSITIONS[status]]
    assert json.loads(lists["WORKING"]) == may_fail
    assert set(json.loads(lists["TERMINAL"])) == TERMINAL_STATUSES


def test_each_operation_has_a_security_requirement() -> None:
    assert [path for path, operation in all_operations() if "security" not in operation] == []


def test_each_response_documents_its_headers() -> None:
    required = {
        "401": "WWW-Authenticate",
        "429": "Retry-After",
        "502": "Retry-After",
        "503": "Retry-After",
    }
    missing = [
        (method, path, status, name)
        for method, path, operation in openapi.operations()
        for status, response in operation["responses"].items()
        for name in ("X-Request-Id", required.get(status, "X-Request-Id"))
        if name not in openapi.resolved(response).get("headers", {})
    ]
    assert missing == []


def test_the_examples_match_their_schemas() -> None:
    count = 0
    for path, node in nodes(openapi.document()):
        examples = [node["example"]] if "example" in node else []
        examples += [example["value"] for example in node.get("examples", {}).values()]
        for example in examples:
            count += 1
            assert "schema" in node, path
            openapi.check_schema(node["schema"], example)
    assert count > 50


def test_each_error_has_the_details_of_the_examples_of_its_code_in_their_order() -> None:
    described = {
        (example["value"]["code"], tuple(example["value"].get("details", ())))
        for _, node in nodes(openapi.document())
        for example in node.get("examples", {}).values()
        if "code" in example["value"] and example["value"]["code"] != "VALIDATION_ERROR"
    }
    raised = {
        (kind.code, kind.shows)
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.TakeOneError) and kind.code
    }
    assert raised == described


def the_fields(claim: Claim) -> dict[str, str | None]:
    """What is sent for a claim."""
    job = a_job().model_copy(update={"project_id": PROJECT_ID})
    return dict(Dispatch.of(job, claim, "https://takeone.example.org", NOW).fields)


@pytest.mark.parametrize(("webhook", "claim"), [("run", a_claim()), ("retry", a_retry_claim())])
def test_a_dispatch_is_sent_as_the_webhook_says(webhook: str, claim: Claim) -> None:
    openapi.check_webhook(webhook, the_fields(claim))


def test_the_check_of_dispatches_finds_those_that_differ_from_the_webhook() -> None:
    good = the_fields(a_claim())
    for bad in (good | {"owner": "alice"}, good | {"video_uri": None}, good | {"job_id": "7"}):
        with pytest.raises(AssertionError):
            openapi.check_webhook("run", bad)
    with pytest.raises(AssertionError):
        openapi.check_webhook("retry", good)


@pytest.mark.parametrize("webhook", ["run", "retry", "cancel"])
def test_the_outcome_of_each_answer_is_the_one_that_the_webhook_documents(webhook: str) -> None:
    responses = openapi.document()["webhooks"][webhook]["post"]["responses"]
    for status in range(200, 600):
        described = responses.get(str(status)) or responses[f"{status // 100}XX"]
        outcome = start_outcome(
            Webhook("", Signer([])), Exchange(True, Answer(status, {}, b"", True))
        )
        assert openapi.resolved(described)["x-outcome"] == outcome.event.value, status
