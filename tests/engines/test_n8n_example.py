"""The workflows of examples/n8n: their nodes, and their execution with a real Take One, without n8n."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from devstack.stack import Stack
from tests.engines import n8n_walk
from tests.engines.callbacks import CallbackReceiver, refused
from tests.engines.contract import STEPS
from tests.engines.n8n_walk import EXAMPLES, NodeFailed, Walk, workflow
from tests.support.behaviours import answer
from tests.support.client import ApiClient
from tests.support.job_handle import JobHandle
from tests.support.openapi import check_against
from tests.support.orchestrator import StubOrchestrator

FILES = ["take.json", "failed.json"]

needs_node = pytest.mark.skipif(n8n_walk.NODE is None, reason="Node is not installed")


def nodes_of(name: str) -> dict[str, dict[str, Any]]:
    return {node["name"]: node for node in workflow(name)["nodes"]}


def before(name: str, node: str) -> list[str]:
    """The nodes with a connection to a node."""
    links = workflow(name)["connections"].items()
    return [
        source
        for source, outputs in links
        for output in outputs["main"]
        for link in output
        if link["node"] == node
    ]


@pytest.mark.parametrize("name", FILES)
def test_connections_and_expressions_name_existing_nodes(name: str) -> None:
    nodes = nodes_of(name)
    assert len({node["id"] for node in nodes.values()}) == len(workflow(name)["nodes"])
    text = (EXAMPLES / name).read_text()
    assert set(re.findall(r"\$\('([^']+)'\)", text)) <= nodes.keys()
    for source, outputs in workflow(name)["connections"].items():
        assert source in nodes
        assert {link["node"] for output in outputs["main"] for link in output} <= nodes.keys()


@pytest.mark.parametrize("name", FILES)
def test_a_report_is_built_by_one_node_and_sent_and_repeated_by_the_next(name: str) -> None:
    reports = {name: node for name, node in nodes_of(name).items() if name.startswith("Report ")}
    assert reports
    for report, node in reports.items():
        (builder,) = before(name, report)
        assert nodes_of(name)[builder]["type"].endswith(".set")
        sent = str(node["parameters"])
        assert not re.search(r"\$now|\$today|Date|\$execution|random|uuid", sent), report
        assert (node["retryOnFail"], node["maxTries"]) == (True, 5)
        # Several versions of n8n do not repeat a node that has one of the Continue settings.
        assert "onError" not in node
        assert node["credentials"] == {"httpHeaderAuth": {"id": "1", "name": "Take One"}}


@pytest.fixture
def dispatched(
    stack: Stack, alice: ApiClient, orchestrator: StubOrchestrator, callback_secret: str
) -> Callable[..., tuple[JobHandle, dict[str, Any]]]:
    """Run a job of Alice's; return it and the body of its dispatch."""

    def run() -> tuple[JobHandle, dict[str, Any]]:
        job = JobHandle.uploaded(alice, callback_secret)
        assert alice.run(job.id).status_code == 202
        return job, latest(orchestrator, job.id)

    return run


def latest(orchestrator: StubOrchestrator, job_id: str) -> dict[str, Any]:
    bodies: list[dict[str, Any]] = [
        request.json for request in orchestrator.requests if request.job_id == job_id
    ]
    return bodies[-1]


@pytest.fixture
def walk(callback_secret: str) -> Callable[..., Walk]:
    """Make an execution of take.json."""
    headers = {"Take One": {"X-Callback-Secret": callback_secret}}
    return lambda **options: Walk(workflow("take.json"), headers, **options)


@needs_node
def test_an_execution_takes_the_job_to_its_draft(
    dispatched: Callable[..., Any], walk: Callable[..., Walk]
) -> None:
    job, body = dispatched()
    execution = walk()
    execution.run({"body": body})
    assert job.status == "DRAFT_READY"
    assert [report["status"] for report in execution.sent] == STEPS
    for report in execution.sent:
        check_against("StatusCallbackRequest", report)
        assert report["execution_id"] == execution.execution_id
        assert report["dispatch_id"] == job.run_id
    assert job.shown()["manifest"]["draft_uri"] == f"s3://take-one/{job.id}/draft"
    assert {"Extract audio", "Transcribe", "Generate"} <= set(execution.passed)


@needs_node
def test_a_second_execution_of_a_dispatch_ends_at_its_first_report(
    dispatched: Callable[..., Any], walk: Callable[..., Walk]
) -> None:
    job, body = dispatched()
    walk(execution_id="1").run({"body": body})
    second = walk(execution_id="2")
    with pytest.raises(NodeFailed, match="409"):
        second.run({"body": body})
    assert {report["status"] for report in second.sent} == {"AUDIO_EXTRACTING"}
    assert job.dispatch["execution_id"] == "1"


@needs_node
def test_every_try_of_a_report_has_the_same_body(
    callbacks: CallbackReceiver, walk: Callable[..., Walk]
) -> None:
    callbacks.behaviours["one"] = refused(503, "SERVICE_UNAVAILABLE")
    execution = walk()
    body = {"job_id": "one", "callback_url": callbacks.url_for("one"), "dispatch_id": "run-one"}
    with pytest.raises(NodeFailed, match="503"):
        execution.run({"body": body})
    assert len(execution.sent) == 5
    assert all(report == execution.sent[0] for report in execution.sent)


@needs_node
def test_a_failure_is_reported_and_a_retry_resumes_after_the_checkpoint(
    dispatched: Callable[..., Any],
    walk: Callable[..., Walk],
    orchestrator: StubOrchestrator,
    n8n_api: StubOrchestrator,
    callback_secret: str,
) -> None:
    job, body = dispatched()

    def work(name: str) -> None:
        if name == "Transcribe":
            raise NodeFailed(name, "no speech was found")

    execution = walk(works=work)
    with pytest.raises(NodeFailed) as failure:
        execution.run({"body": body})
    data = {
        "resultData": {"runData": {"Webhook": [{"data": {"main": [[{"json": {"body": body}}]]}}]}}
    }
    n8n_api.default = answer(200, json.dumps({"data": data}).encode())
    hook = Walk(
        workflow("failed.json"),
        {"Take One": {"X-Callback-Secret": callback_secret}, "n8n API": {"X-N8N-API-KEY": "key"}},
        execution_id="999",
    )
    hook.run(
        {
            "execution": {
                "id": int(execution.execution_id),
                "url": f"{n8n_api.url}/workflow/take/executions/{execution.execution_id}",
                "error": {"message": str(failure.value)},
                "lastNodeExecuted": failure.value.node,
            }
        }
    )
    assert n8n_api.requests[-1].headers["x-n8n-api-key"] == "key"
    assert n8n_api.requests[-1].path.endswith(
        f"/api/v1/executions/{execution.execution_id}?includeData=true"
    )
    check_against("StatusCallbackRequest", hook.sent[-1])
    assert job.status == "FAILED"
    assert job.shown()["failure"] == {
        "code": "WORKFLOW_FAILED",
        "message": "no speech was found",
        "stage": "Transcribe",
    }
    assert job.retry("again").status_code == 202
    second = walk()
    second.run({"body": latest(orchestrator, job.id)})
    assert [report["status"] for report in second.sent] == STEPS[2:]
    assert job.status == "DRAFT_READY"


@pytest.fixture
def n8n_api() -> Iterator[StubOrchestrator]:
    """A stub of n8n's own API."""
    with StubOrchestrator() as stub:
        yield stub
