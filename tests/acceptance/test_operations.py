"""The read side of the operator API: roles, the overview, the views and a job's history."""

from collections.abc import Iterator
from itertools import chain
from typing import Any
from uuid import uuid4

import pytest

from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.acceptance.outcomes import every_page
from tests.conftest import NewStack
from tests.support.behaviours import reset_after_read
from tests.support.client import ApiClient
from tests.support.job_handle import JobHandle, refusal
from tests.support.orchestrator import StubOrchestrator

# The id of no job.
SOME_ID = "0c9a6e4e-3f0b-4a51-9d6c-5a0c8f3f7f10"
READS = ("/overview", "/jobs?view=unknown", f"/jobs/{SOME_ID}")
OTHER_ROLES = ("editor", "viewer", "operators", "Operator")


@pytest.fixture(scope="module")
def service(new_stack: NewStack) -> Iterator[Stack]:
    """A service that holds unknown outcomes for ever, and reports a job as silent after one second."""
    with new_stack(TAKEONE_UNKNOWN_HOLD_SECONDS="0", TAKEONE_FIRST_REPORT_SECONDS="1") as running:
        yield running


def listed(olga: ApiClient, view: str, **query: Any) -> list[dict[str, Any]]:
    """All jobs of a view, from all pages."""
    return [*chain(*every_page(olga, "/operations/jobs", view=view, **query))]


@pytest.mark.parametrize("path", READS)
def test_reads_are_401_without_a_token_and_403_with_another_role(service: Stack, path: str) -> None:
    anonymous = ApiClient(service.api_url, token="")
    assert refusal(anonymous.get(f"/operations{path}")) == (401, "UNAUTHORIZED", None)
    for role in OTHER_ROLES:
        other = ApiClient(service.api_url, "olga", role)
        answer = other.get(f"/operations{path}")
        assert refusal(answer) == (403, "FORBIDDEN", None)
        assert "operator" in answer.json()["message"]


def test_the_role_is_checked_before_the_query(service: Stack) -> None:
    editor = ApiClient(service.api_url, "olga")
    assert editor.get("/operations/jobs?view=nonsense").status_code == 403
    assert editor.get("/operations/overview?x=1").status_code == 403


def test_an_operator_is_an_editor_only_with_both_roles(
    service: Stack, olga: ApiClient, handle: JobHandle
) -> None:
    assert olga.get("/projects").status_code == 403
    assert olga.get("/jobs").status_code == 403
    assert olga.create_project().status_code == 403
    for answer in (olga.job(handle.id), olga.run(handle.id), olga.cancel(handle.id)):
        assert refusal(answer) == (404, "RESOURCE_NOT_FOUND", None)
    both = ApiClient(service.api_url, "olga", "editor,operator")
    assert both.create_project().status_code == 201
    assert both.get("/operations/overview").status_code == 200
    assert both.job(handle.id).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/overview?x=1", "/jobs", "/jobs?view=all", "/jobs?view=unknown&limit=0",
        "/jobs?view=unknown&older_than=-1", "/jobs?view=unknown&project_id=x",
        "/jobs?view=unknown&cursor=x", "/jobs?view=unknown&status=FAILED",
        "/jobs?view=unknown&view=failed", f"/jobs/{SOME_ID}?x=1",
    ],
)  # fmt: skip
def test_an_invalid_query_is_a_400(olga: ApiClient, path: str) -> None:
    assert refusal(olga.get(f"/operations{path}"))[:2] == (400, "VALIDATION_ERROR")


def test_each_view_lists_its_jobs_with_their_owner(
    olga: ApiClient, unknown: JobHandle, callback_secret: str
) -> None:
    editor = unknown.client
    silent = JobHandle.uploaded(editor, callback_secret).lead_to("AUDIO_EXTRACTING")
    failed = JobHandle.uploaded(editor, callback_secret).lead_to("AUDIO_EXTRACTING")
    failed.reported("FAILED", failure_code="ASR_TIMEOUT")
    owner = olga.get(f"/operations/jobs/{unknown.id}").json()["owner"]
    own = {"owner": owner}
    wait_until(lambda: listed(olga, "silent", **own), 10, "it is silent")
    found = {
        view: [job["id"] for job in listed(olga, view, **own)]
        for view in ("unknown", "in_flight", "silent", "failed")
    }
    assert found == {
        "unknown": [unknown.id],
        "in_flight": [unknown.id],
        "silent": [silent.id],
        "failed": [failed.id],
    }
    (one,) = listed(olga, "unknown", **own)
    assert (one["owner"], one["reason"]) == (owner, "outcome_unknown")
    assert (one["dispatch"]["attempt"], one["dispatch"]["sends"]) == (1, 1)
    failed.client.edit_job(failed.id, name="<b>New</b>")
    assert listed(olga, "failed", **own)[0]["name"] == "<b>New</b>"


def test_filters_can_be_combined(olga: ApiClient, handle: JobHandle, callback_secret: str) -> None:
    editor, codes = handle.client, ("ASR_TIMEOUT", "NO_SOUND", "ASR_TIMEOUT")
    jobs = [JobHandle.uploaded(editor, callback_secret) for _ in codes]
    for job, code in zip(jobs, codes, strict=True):
        job.lead_to("AUDIO_EXTRACTING").reported("FAILED", failure_code=code)
    own = {"owner": olga.get(f"/operations/jobs/{handle.id}").json()["owner"]}
    ids = [job.id for job in jobs]

    def failed(**query: Any) -> list[str]:
        return [job["id"] for job in listed(olga, "failed", **own, **query)]

    assert failed() == failed(limit=1) == ids
    assert failed(reason="ASR_TIMEOUT") == failed(reason="ASR_TIMEOUT", limit=1) == ids[::2]
    assert failed(reason="asr_timeout") == []
    assert failed(project_id=jobs[1].shown()["project_id"]) == [ids[1]]
    assert failed(project_id=str(uuid4())) == []
    assert failed(older_than=3600) == []
    retried = jobs[0].retry("again")
    assert retried.status_code == 202
    jobs[0].reported("AUDIO_EXTRACTING", dispatch_id=retried.json()["dispatch_id"])
    assert failed() == ids[1:], "a job that left FAILED is not listed"


def test_operators_see_the_claims_and_the_trail_of_a_job(
    olga: ApiClient, handle: JobHandle
) -> None:
    handle.lead_to("AUDIO_EXTRACTING").reported("FAILED")
    assert handle.retry("one").status_code == 202
    shown = olga.get(f"/operations/jobs/{handle.id}").json()
    assert [claim["kind"] for claim in shown["claims"]] == ["run", "retry"]
    assert [claim["attempt"] for claim in shown["claims"]] == [1, 2]
    assert shown["dispatch"] == shown["claims"][1]
    assert shown["dispatch"]["model_profile"] == "standard"
    assert shown["events"] == handle.trail()
    assert shown["earlier_events"] == 0
    own = handle.shown()
    assert "owner" not in own
    del own["dispatch"]
    assert {name: shown[name] for name in own} == own


@pytest.mark.parametrize("job_id", [SOME_ID, "nothing"])
def test_a_missing_job_is_404(olga: ApiClient, job_id: str) -> None:
    assert refusal(olga.get(f"/operations/jobs/{job_id}")) == (404, "RESOURCE_NOT_FOUND", None)


def test_the_overview_reflects_changes(
    olga: ApiClient, handle: JobHandle, callback_secret: str, orchestrator: StubOrchestrator
) -> None:
    before = olga.get("/operations/overview").json()
    assert before["paused"] is False
    assert before["pause"] is None
    orchestrator.behaviours[handle.id] = reset_after_read()
    assert handle.client.run(handle.id).status_code == 502
    failed = JobHandle.uploaded(handle.client, callback_secret).lead_to("AUDIO_EXTRACTING")
    failed.reported("FAILED")
    handle.client.create_job(handle.shown()["project_id"])
    after = olga.get("/operations/overview").json()
    grown = {
        name: after[name] - before[name] for name in ("in_flight", "unknown", "failed_last_24h")
    }
    assert grown == {"in_flight": 1, "unknown": 1, "failed_last_24h": 1}
    jobs = {name: count - before["jobs"][name] for name, count in after["jobs"].items()}
    assert {name: count for name, count in jobs.items() if count} == {"CREATED": 1}
    assert after["oldest_unknown_age"] > 0
    assert after["queues"].keys() == before["queues"].keys()
