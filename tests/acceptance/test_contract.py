"""The code agrees with its contracts: the API specification, the claim protocol, and Celery's messages."""

import json
import re
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
from domain.record import TaskKind
from tasks import message
from tests.support import openapi
from tests.support.client import ApiClient
from tests.unit.records import NOW, POLICY, a_claim

Document = dict[str, Any]
PHASES = ROOT / "spec/domain/job_fsm.md"


def test_the_specification_is_served_unchanged(stack: Stack) -> None:
    visitor = ApiClient(stack.api_url, token="")
    served = visitor.call("GET", "/openapi.yaml")
    assert served.content == (ROOT / "spec/api/openapi.yaml").read_bytes()
    as_json = visitor.call("GET", "/openapi.json")
    assert as_json.json() == yaml.safe_load(served.content)


def test_the_service_has_exactly_the_routes_of_the_specification(stack: Stack) -> None:
    visitor = ApiClient(stack.api_url, token="")
    for path, item in openapi.document()["paths"].items():
        for method in set(openapi.METHODS) - {"head"}:  # Flask answers it wherever there is a GET
            answer = visitor.call(method.upper(), path.format(projectId="x", jobId="x"))
            assert (answer.status_code in (404, 405)) == (method not in item), (method, path)


def test_the_service_and_the_specification_have_the_same_error_codes() -> None:
    kinds = [
        kind
        for kind in [*vars(errors).values(), ValidationError]
        if isinstance(kind, type) and issubclass(kind, errors.TakeOneError)
    ]
    ours = {kind.code for kind in kinds} - {""}
    ours |= {code for code, _ in api_errors._CODES.values()} | {api_errors._INTERNAL[0]}
    error = openapi.document()["components"]["schemas"]["Error"]
    assert ours == set(openapi.resolved(error["properties"]["code"])["enum"])


def test_phase_transitions_match_the_document() -> None:
    rows = re.findall(r"^\| (\w+) \|.*\| (\w+) \|$", PHASES.read_text(), re.MULTILINE)
    documented = {(start, to) for start, to in rows if start in {*Phase, "free"}}
    names = {phase: "free" if phase is Phase.RELEASED else phase.value for phase in Phase}
    stepped = {(names[start], names[to]) for (start, _), to in NEXT_PHASE.items()}
    # The outcome of a second send differs while the first one is unresolved.
    sent_twice = [a_claim(phase, sends=2) for phase in Phase]
    stepped |= {
        (names[claim.phase], names[after.phase])
        for claim in sent_twice
        for event in ClaimEvent
        if (after := claim.after(event, NOW, POLICY)) is not None
    }
    # Making a claim is a rule of `run` and `retry`, not a transition of a claim.
    made = {("free", "CLAIMED"), ("SENT", "CLAIMED")}
    assert stepped - {("UNKNOWN", "UNKNOWN")} == documented - made


TOKEN = FencingToken(
    "8d6f2c1e-0b7a-4f53-9a55-61f1f4a0c7d2", "run-8d6f2c1e-0b7a-4f53-9a55-61f1f4a0c7d2", 3
)
QUEUE = "takeone.dispatch.0"


@pytest.fixture
def celerys_own() -> Document:
    """The message that Celery makes for the same task, as kombu's Redis transport stores it."""
    app = Celery("takeone", broker="memory://", set_as_current=False)
    app.conf.task_queues = [Queue(QUEUE, no_ack=True)]
    app.conf.task_ignore_result = True
    arguments = (TOKEN.job_id, TOKEN.dispatch_id, TOKEN.epoch)
    with app.connection_for_write() as connection:
        app.send_task(
            message.task_name(TaskKind.DISPATCH),
            args=arguments,
            task_id=TOKEN.dispatch_id,
            queue=QUEUE,
            connection=connection,
            ignore_result=True,
        )
        channel = connection.default_channel
        return json.loads(json.dumps(channel.queues[QUEUE].get_nowait()))


def our_message() -> Document:
    """The message that the service pushes."""
    encoded = message.encode(TaskKind.DISPATCH, TOKEN.dispatch_id, TOKEN, QUEUE)
    return json.loads(encoded)


def decoded(raw: Document) -> Any:
    """The message as a worker's kombu reads it."""
    with Connection("memory://") as connection:
        return connection.default_channel.message_to_python(raw)


def test_our_message_has_the_parts_and_headers_of_celerys_own(celerys_own: Document) -> None:
    ours = our_message()
    assert ours.keys() == celerys_own.keys()
    assert ours["properties"].keys() ^ celerys_own["properties"].keys() <= {"body_encoding"}
    names = ("lang", "task", "id", "root_id", "parent_id", "group", "eta", "expires", "retries")
    for name in names:
        assert ours["headers"][name] == celerys_own["headers"][name], name
    for name in ("timelimit", "shadow", "ignore_result"):
        assert ours["headers"].get(name) == celerys_own["headers"].get(name), name
    assert ours["content-type"] == celerys_own["content-type"]
    assert ours["content-encoding"] == celerys_own["content-encoding"]


def test_kombu_decodes_our_message_to_the_same_task_as_celerys_own(celerys_own: Document) -> None:
    ours, theirs = decoded(our_message()), decoded(celerys_own)
    assert ours.payload == theirs.payload
    assert ours.payload[:2] == [[TOKEN.job_id, TOKEN.dispatch_id, TOKEN.epoch], {}], "ids only"
    assert ours.delivery_tag
    assert ours.delivery_info["routing_key"] == theirs.delivery_info["routing_key"]
