"""The workflows of examples/n8n: their nodes, and walks through them with a real Take One; n8n is not run."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from devstack.stack import Stack
from tests.engines import n8n_walk
from tests.engines.callbacks import CallbackReceiver, refused
from tests.engines.n8n_walk import NodeFailed, Walk, workflow
from tests.support.behaviours import answer
from tests.support.client import ApiClient
from tests.support.job_handle import JobHandle
from tests.support.openapi import check_against
from tests.support.orchestrator import StubOrchestrator

FILES = ["take.json", "failed.json"]
WAY = [
    "AUDIO_EXTRACTING",
    "AUDIO_READY",
    "TRANSCRIBING",
    "TRANSCRIPT_READY",
    "GENERATING",
    "DRAFT_READY",
]

needs_node = pytest.mark.skipif(n8n_walk.NODE is None, reason="Node is not installed")


def nodes_of(name: str) -> dict[str, dict[str, Any]]:
    return {node["name"]: node for node in workflow(name)["nodes"]}


def before(name: str, node: str) -> list[str]:
    """The nodes that lead to a node."""
    links = workflow(name)["connections"].items()
    return [
        source
        for source, outputs in links
        for output in outputs["main"]
        for link in output
        if link["node"] == node
    ]


@pytest.mark.parametrize("name", FILES)
def test_every_connection_and_every_name_leads_to_a_node(name: str) -> None:
    nodes = nodes_of(name)
    assert len({node["id"] for node in nodes.values()}) == len(workflow(name)["nodes"])
    text = n8n_walk.path_of(name).read_text()
    assert set(re.findall(r"\$\('([^']+)'\)", text)) <= nodes.keys()
    for source, outputs in workflow(name)["connections"].items():
        assert source in nodes
        assert {link["node"] for output in outputs["main"] for link in output} <= nodes.keys()


@pytest.mark.parametrize("name", FILES)
def test_a_report_is_made_by_a_set_node_and_sent_by_another_that_tries_again(name: str) -> None:
    reports = {name: node for name, node in nodes_of(name).items() if name.startswith("Report ")}
    assert reports
    for report, node in reports.items():
        [maker] = before(name, report)
        assert nodes_of(name)[maker]["type"].endswith(".set")
        sent = str(node["parameters"])
        assert not re.search(r"\$now|\$today|Date|\$execution|random|uuid", sent), report
        assert (node["retryOnFail"], node["maxTries"]) == (True, 5)
        # With one of the Continue settings several versions of n8n do not try again.
        assert "onError" not in node
        assert node["credentials"] == {"httpHeaderAuth": {"id": "1", "name": "Take One"}}


@pytest.fixture
def dispatched(
    stack: Stack, alice: ApiClient, orchestrator: StubOrchestrator, callback_secret: str
) -> Callable[..., tuple[JobHandle, dict[str, Any]]]:
    """Runs a job of Alice's, and returns it with the body that the webhook got."""

    def run() -> tuple[JobHandle, dict[str, Any]]:
        job = JobHandle.uploaded(alice, callback_secret)
        assert alice.run(job.id).status_code == 202
        return job, latest(orchestrator, job.id)

    return run


def latest(orchestrator: StubOrchestrator, job_id: str) -> dict[str, Any]:
    body: dict[str, Any] = [each for each in orchestrator.requests if each.job_id == job_id][
        -1
    ].json
    return body


@pytest.fixture
def walk(callback_secret: str) -> Callable[..., Walk]:
    """Makes an execution of take.json."""
    headers = {"Take One": {"X-Callback-Secret": callback_secret}}
    return lambda **options: Walk(workflow("take.json"), headers, **options)


@needs_node
def test_a_job_is_walked_to_its_draft(
    dispatched: Callable[..., Any], walk: Callable[..., Walk]
) -> None:
    job, body = dispatched()
    execution = walk()
    execution.run({"body": body})
    assert job.status == "DRAFT_READY"
    assert [report["status"] for report in execution.sent] == WAY
    for report in execution.sent:
        check_against("StatusCallbackRequest", report)
        assert report["execution_id"] == execution.execution_id
        assert report["dispatch_id"] == job.run_id
    assert job.shown()["manifest"]["draft_uri"] == f"s3://take-one/{job.id}/draft"
    assert [
        name for name in execution.passed if name in ("Extract audio", "Transcribe", "Generate")
    ]


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
    callbacks.behaviours["away"] = refused(503, "SERVICE_UNAVAILABLE")
    execution = walk()
    given = {"job_id": "away", "callback_url": callbacks.url_for("away"), "dispatch_id": "run-away"}
    with pytest.raises(NodeFailed, match="503"):
        execution.run({"body": given})
    assert len(execution.sent) == 5
    assert all(report == execution.sent[0] for report in execution.sent)


@needs_node
def test_a_failure_is_reported_and_a_retry_goes_on_behind_the_checkpoint(
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
    assert [report["status"] for report in second.sent] == WAY[2:]
    assert job.status == "DRAFT_READY"


@pytest.fixture
def n8n_api() -> Iterator[StubOrchestrator]:
    """Stands for n8n's own API."""
    with StubOrchestrator() as stub:
        yield stub
