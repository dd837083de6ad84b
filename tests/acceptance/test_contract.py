"""Documents and code say the same: the API's specification, the FSM's table, and Celery's message."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from celery import Celery
from kombu import Connection, Queue

from api import errors as api_errors
from api.requests import ValidationError
from devstack.processes import ROOT
from devstack.stack import Stack
from domain import errors
from domain.claim import NEXT_PHASE, ClaimEvent, FencingToken, Phase
from domain.errors import FsmTerminalImmutable, FsmTransitionInvalid
from domain.job_fsm import TERMINAL_STATUSES, TRANSITIONS, JobStatus, ensure_transition
from tasks import message
from tests.support import openapi
from tests.support.client import ApiClient
from tests.unit.records import NOW, POLICY, a_claim

Document = dict[str, Any]
FSM_DOCUMENT = Path(ROOT / "spec/domain/job_fsm.md")


def test_the_specification_is_served_as_it_is(stack: Stack) -> None:
    anyone = ApiClient(stack.api_url, token="")
    served = anyone.call("GET", "/openapi.yaml")
    assert served.content == (ROOT / "spec/api/openapi.yaml").read_bytes()
    as_json = anyone.call("GET", "/openapi.json")
    assert as_json.json() == yaml.safe_load(served.content)


def test_the_service_has_the_routes_of_the_specification_and_no_others(stack: Stack) -> None:
    anyone = ApiClient(stack.api_url, token="")
    for path, item in openapi.document()["paths"].items():
        for method in set(openapi.METHODS) - {"head"}:  # Flask answers it wherever there is a GET
            answer = anyone.call(method.upper(), path.format(projectId="x", jobId="x"))
            assert (answer.status_code in (404, 405)) == (method not in item), (method, path)


def test_every_code_of_the_service_is_in_the_specification_and_the_reverse() -> None:
    kinds = [
        each
        for each in [*vars(errors).values(), ValidationError]
        if isinstance(each, type) and issubclass(each, errors.TakeOneError)
    ]
    ours = {each.code for each in kinds} - {""}
    ours |= {code for code, _ in api_errors._CODES.values()} | {api_errors._INTERNAL[0]}
    error = openapi.document()["components"]["schemas"]["Error"]
    assert ours == set(openapi.resolved(error["properties"]["code"])["enum"])


def rows(heading: str) -> list[list[str]]:
    """The rows of the document's table whose head begins with `heading`."""
    text = FSM_DOCUMENT.read_text()
    table = text[text.index(f"| {heading} |") :].split("\n\n")[0]
    cells = [
        [cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()
    ]
    return cells[2:]


def test_the_states_and_steps_of_the_code_are_those_of_the_document() -> None:
    table = {
        JobStatus(start): [] if targets == "—" else [JobStatus(t) for t in targets.split(", ")]
        for start, targets in rows("from")
    }
    assert list(table) == list(JobStatus)
    assert {start: list(targets) for start, targets in TRANSITIONS.items()} == table
    assert {start for start, targets in table.items() if not targets} == set(TERMINAL_STATUSES)


def test_the_gate_lets_through_what_the_document_allows_and_nothing_else() -> None:
    allowed = {
        (JobStatus(start), target) for start, to in rows("from") for target in to.split(", ")
    }
    for start in JobStatus:
        for target in JobStatus:
            if (start, target) in allowed:
                ensure_transition(start, target)
                continue
            refusal = FsmTerminalImmutable if start in TERMINAL_STATUSES else FsmTransitionInvalid
            with pytest.raises(refusal) as refused:
                ensure_transition(start, target)
            assert refused.value.details["allowed_next_statuses"] == list(TRANSITIONS[start])


def test_the_phases_of_the_code_step_as_the_document_says() -> None:
    documented = {(start, to) for start, _, _, to in rows("phase")}
    names = {phase: "free" if phase is Phase.RELEASED else phase.value for phase in Phase}
    stepped = {(names[start], names[to]) for (start, _), to in NEXT_PHASE.items()}
    # The outcome of a send may be another while an earlier one is unresolved.
    sent_twice = [a_claim(phase, sends=2) for phase in Phase]
    stepped |= {
        (names[claim.phase], names[after.phase])
        for claim in sent_twice
        for event in ClaimEvent
        if (after := claim.after(event, NOW, POLICY)) is not None
    }
    # Making a claim, and retrying after one, are rules of admission, not steps of a claim.
    made = {("free", "CLAIMED"), ("SENT", "CLAIMED")}
    assert stepped - {("UNKNOWN", "UNKNOWN")} == documented - made


TOKEN = FencingToken(
    "8d6f2c1e-0b7a-4f53-9a55-61f1f4a0c7d2", "run-8d6f2c1e-0b7a-4f53-9a55-61f1f4a0c7d2", 3
)
QUEUE = "takeone.dispatch.0"


@pytest.fixture
def celerys_own() -> Document:
    """The message that Celery itself makes for the same task, as kombu's Redis transport keeps it."""
    app = Celery("takeone", broker="memory://", set_as_current=False)
    app.conf.task_queues = [Queue(QUEUE, no_ack=True)]
    app.conf.task_ignore_result = True
    arguments = (TOKEN.job_id, TOKEN.dispatch_id, TOKEN.epoch)
    with app.connection_for_write() as connection:
        app.send_task(
            message.DISPATCH_TASK,
            args=arguments,
            task_id=TOKEN.dispatch_id,
            queue=QUEUE,
            connection=connection,
            ignore_result=True,
        )
        channel = connection.default_channel
        raw: Document = json.loads(json.dumps(channel.queues[QUEUE].get_nowait()))
    return raw


def our_message() -> Document:
    """The message that the service pushes."""
    encoded = message.encode(message.DISPATCH_TASK, TOKEN.dispatch_id, TOKEN, QUEUE)
    document: Document = json.loads(encoded)
    return document


def decoded(raw: Document) -> Any:
    """The message as a worker's kombu reads it."""
    with Connection("memory://") as connection:
        return connection.default_channel.message_to_python(raw)


def test_the_message_has_the_parts_and_headers_that_celery_itself_gives_it(
    celerys_own: Document,
) -> None:
    ours = our_message()
    assert ours.keys() == celerys_own.keys()
    assert ours["properties"].keys() - {"body_encoding"} == (
        celerys_own["properties"].keys() - {"body_encoding"}
    )
    for name in (
        "lang",
        "task",
        "id",
        "root_id",
        "parent_id",
        "group",
        "eta",
        "expires",
        "retries",
    ):
        assert ours["headers"][name] == celerys_own["headers"][name], name
    for name in ("timelimit", "shadow", "ignore_result"):
        assert ours["headers"].get(name) == celerys_own["headers"].get(name), name
    assert ours["content-type"] == celerys_own["content-type"]
    assert ours["content-encoding"] == celerys_own["content-encoding"]


def test_kombu_decodes_it_to_the_same_task_as_celerys_own(celerys_own: Document) -> None:
    ours, theirs = decoded(our_message()), decoded(celerys_own)
    assert ours.payload == theirs.payload
    assert ours.payload[0] == [TOKEN.job_id, TOKEN.dispatch_id, TOKEN.epoch]
    assert ours.delivery_tag
    assert ours.delivery_info["routing_key"] == theirs.delivery_info["routing_key"]


def test_the_message_carries_ids_and_nothing_else() -> None:
    arguments, options, embedded = json.loads(decoded(our_message()).body)
    assert arguments == [TOKEN.job_id, TOKEN.dispatch_id, TOKEN.epoch]
    assert options == {}
    assert set(embedded.values()) == {None}
