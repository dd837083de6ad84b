"""Traces across web, worker and callbacks; none unless they are enabled."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from devstack.ports import HOST
from devstack.stack import DEVELOPMENT_SETTINGS, Stack
from devstack.waiting import wait_until
from tests.acceptance.programs import run_program
from tests.conftest import NewStack
from tests.support.behaviours import accept, refuse
from tests.support.client import ApiClient, status_report
from tests.support.job_handle import JobHandle
from tests.support.orchestrator import StubOrchestrator

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
HOSTILE_TRACE_ID = "1af7651916cd43dd8448eb211c80319c"
EDITORS_SPAN = "b7ad6b7169203331"
PLANTED = "planted-word"
RUN = "POST /api/v1/jobs/<job_id>/run"
CALLBACK = "POST /api/v1/internal/jobs/<job_id>/status"


class Collector(StubOrchestrator):
    """Receives spans by OTLP over HTTP."""

    @property
    def spans(self) -> list[dict[str, Any]]:
        """All spans received."""
        return [span for request in list(self.requests) for span in _spans(request.body)]

    def trace(self, trace_id: str) -> dict[str, dict[str, Any]]:
        """The spans of one trace, by their names."""
        return {span["name"]: span for span in self.spans if span["trace"] == trace_id}

    def wait_for(self, trace_id: str, *names: str) -> dict[str, dict[str, Any]]:
        """Wait until a trace has these spans, and return all of it."""
        what = f"the spans {names} of {trace_id}"
        wait_until(lambda: self.trace(trace_id).keys() >= set(names), 10, what)
        return self.trace(trace_id)


def _spans(body: bytes) -> Iterator[dict[str, Any]]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        attributes = {item.key: item.value.string_value for item in resource.resource.attributes}
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield _plain(span, attributes["service.name"])


def _plain(span: Any, service: str) -> dict[str, Any]:
    values = {attribute.key: attribute.value for attribute in span.attributes}
    return {
        "service": service,
        "name": span.name,
        "trace": span.trace_id.hex(),
        "id": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "attributes": {key: value.string_value or value.int_value for key, value in values.items()},
        "failed": span.status.code == 2,
        "whole": str(span),
    }


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """A collector on loopback."""
    with Collector(accept(200, b"")) as running:
        yield running


@pytest.fixture(scope="module")
def service(
    new_stack: NewStack, collector: Collector, orchestrator: StubOrchestrator
) -> Iterator[Stack]:
    """A service that sends its spans to the collector."""
    with new_stack(
        TAKEONE_ORCHESTRATOR_URL=f"{orchestrator.url}?key={PLANTED}",
        TAKEONE_OTEL="true",
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{HOST}:{collector.port}",
        OTEL_BSP_SCHEDULE_DELAY="100",
    ) as running:
        yield running


@pytest.fixture
def handle(service: Stack, callback_secret: str) -> JobHandle:
    """A job whose owner and video have the planted word in their names."""
    client = ApiClient(service.api_url, f"{PLANTED}-user")
    job = client.uploaded_job(f"s3://{PLANTED}/video.mp4?{PLANTED}")
    return JobHandle(client, job["id"], callback_secret)


def test_one_trace_spans_the_editors_call_the_dispatch_and_the_callback(
    handle: JobHandle, orchestrator: StubOrchestrator, collector: Collector
) -> None:
    editors_call = {"traceparent": f"00-{TRACE_ID}-{EDITORS_SPAN}-01"}
    assert handle.client.run(handle.id, headers=editors_call).status_code == 202
    (posted,) = orchestrator.requests_for(handle.id)
    assert not {"tracestate", "baggage"} & posted.headers.keys()
    passed_on = {"X-Callback-Secret": handle.secret, "traceparent": posted.headers["traceparent"]}
    path = f"/internal/jobs/{handle.id}/status"
    reported = handle.client.post(path, status_report("AUDIO_READY"), headers=passed_on)
    assert reported.status_code == 204

    spans = collector.wait_for(TRACE_ID, RUN, "dispatch", "POST orchestrator", CALLBACK, "redis")
    run, dispatch, post = spans[RUN], spans["dispatch"], spans["POST orchestrator"]
    assert (run["parent"], run["service"]) == (EDITORS_SPAN, "takeone-web")
    assert (dispatch["parent"], dispatch["service"]) == (run["id"], "takeone-worker")
    assert (post["parent"], post["service"]) == (dispatch["id"], "takeone-worker")
    assert posted.headers["traceparent"] == f"00-{TRACE_ID}-{post['id']}-01"
    assert spans[CALLBACK]["parent"] == post["id"]
    assert post["attributes"] == {"takeone.outcome": "accepted", "http.response.status_code": 202}
    assert dispatch["attributes"]["takeone.dispatch_id"] == handle.run_id
    assert run["attributes"]["takeone.job_id"] == handle.id
    assert run["attributes"]["http.response.status_code"] == 202


def test_a_failed_dispatch_is_a_failed_span(
    handle: JobHandle, orchestrator: StubOrchestrator, collector: Collector
) -> None:
    orchestrator.behaviours[handle.id] = refuse(500)
    assert handle.client.run(handle.id).status_code == 502
    (posted,) = orchestrator.requests_for(handle.id)
    spans = collector.wait_for(posted.headers["traceparent"].split("-")[1], "dispatch", RUN)
    assert spans["dispatch"]["failed"]
    assert "exception" not in spans["dispatch"]["whole"], "an exception's text may hold user input"
    assert spans["POST orchestrator"]["attributes"]["takeone.outcome"] == "refused"


def test_spans_hold_no_user_input_and_no_url(handle: JobHandle, collector: Collector) -> None:
    hostile = {
        "traceparent": f"00-{HOSTILE_TRACE_ID}-{EDITORS_SPAN}-01",
        "tracestate": f"vendor={PLANTED}",
        "baggage": f"user={PLANTED}",
        "X-Request-Id": PLANTED,
        "User-Agent": PLANTED,
    }
    handle.client.get(f"/{PLANTED}?{PLANTED}", headers=hostile)
    handle.client.get(f"/jobs/{PLANTED}?status_not={PLANTED}", headers=hostile)
    handle.client.call(PLANTED.upper(), "/api/v1/projects", headers=hostile)
    assert handle.client.run(handle.id, headers=hostile).status_code == 202
    collector.wait_for(HOSTILE_TRACE_ID, "POST orchestrator", "HTTP unmatched", RUN)
    for span in collector.spans:
        assert PLANTED not in span["whole"].lower()
        assert "http://" not in span["whole"]


@pytest.mark.parametrize("header", ["garbage", "00-0-0-00", f"00-{'0' * 32}-{'0' * 16}-01", ""])
def test_an_invalid_traceparent_is_ignored(header: str, handle: JobHandle) -> None:
    answer = handle.client.get("/projects", headers={"traceparent": header})
    assert answer.status_code == 200


def test_tracing_is_off_by_default_and_its_exporter_not_imported(
    alice: ApiClient, callback_secret: str, orchestrator: StubOrchestrator
) -> None:
    handle = JobHandle.uploaded(alice, callback_secret)
    editors_call = {"traceparent": f"00-{TRACE_ID}-{EDITORS_SPAN}-01"}
    assert alice.run(handle.id, headers=editors_call).status_code == 202
    (posted,) = orchestrator.requests_for(handle.id)
    assert "traceparent" not in posted.headers
    code = "import json, sys, api.app, tasks.worker; api.app.create_app(); print(json.dumps([*sys.modules]))"
    ended = run_program(f"python -c '{code}'", DEVELOPMENT_SETTINGS)
    imported = json.loads(ended.stdout.splitlines()[-1])
    assert "observability.tracing" in imported
    # redis-py itself imports the rest of OpenTelemetry if it is installed.
    assert not [name for name in imported if name.startswith("opentelemetry.exporter")]
