"""The write side of the operator API: settle, cancel, fail, bulk retries, pause and resume."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
import requests

from devstack.client import now
from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.acceptance.outcomes import assert_invalid
from tests.conftest import NewStack
from tests.support.behaviours import refuse
from tests.support.client import ApiClient
from tests.support.job_handle import JobHandle, at_once, forbidden_step, refusal
from tests.support.log_lines import wait_for_line
from tests.support.orchestrator import StubOrchestrator

WHY = "<script>the engine's log</script> \u202e says so"
REASON = {"reason": WHY}
JOB_ACTS = {"settle": {"as": "sent", **REASON}, "cancel": REASON, "fail": REASON}
ACTS: dict[str, dict[str, Any]] = {**JOB_ACTS, "ask": {}}
SERVICE_ACTS: dict[str, dict[str, Any]] = {
    "retries": {"failed_since": "2026-01-01T00:00:00Z", "model_profile": "standard"},
    "pause": REASON,
    "resume": {},
}
BAD_REASONS = (None, 7, "", " \u00a0\t", "two\nlines", "a bell \x07", "x" * 501)


@pytest.fixture(scope="module")
def service(new_stack: NewStack, orchestrator: StubOrchestrator) -> Iterator[Stack]:
    """A service that holds unknown outcomes for ever, and notifies its orchestrator of cancels."""
    cancels = orchestrator.url.replace("/dispatches", "/cancels")
    with new_stack(
        TAKEONE_UNKNOWN_HOLD_SECONDS="0",
        TAKEONE_RUN_WAIT_SECONDS="2",
        TAKEONE_ORCHESTRATOR_CANCEL_URL=cancels,
    ) as running:
        yield running


def act_on(client: ApiClient, job_id: str, act: str, body: Any) -> requests.Response:
    return client.post(f"/operations/jobs/{job_id}/{act}", body)


def history(olga: ApiClient, handle: JobHandle) -> dict[str, Any]:
    """The job as shown to operators."""
    return olga.get(f"/operations/jobs/{handle.id}").json()


def operator_events(olga: ApiClient, handle: JobHandle) -> list[tuple[str, str, str]]:
    """The operators' events of a job; its owner must see the same without the operator."""
    shown = history(olga, handle)["events"]
    events = [event for event in shown if event["actor_type"] == "operator"]
    own = [event for event in handle.trail() if event["actor_type"] == "operator"]
    assert own == [{key: event[key] for key in event if key != "operator"} for event in events]
    return [(event["event_type"], event["operator"], event["reason"]) for event in events]


@pytest.mark.parametrize("act", ACTS)
def test_only_operators_may_act_on_a_job_not_even_its_owner(
    service: Stack, unknown: JobHandle, act: str
) -> None:
    before = unknown.everything()
    anonymous = ApiClient(service.api_url, token="")
    assert act_on(anonymous, unknown.id, act, ACTS[act]).status_code == 401
    answer = act_on(unknown.client, unknown.id, act, ACTS[act])
    assert refusal(answer) == (403, "FORBIDDEN", None)
    assert unknown.everything() == before


@pytest.mark.parametrize("act", SERVICE_ACTS)
def test_only_operators_may_act_on_the_service(service: Stack, olga: ApiClient, act: str) -> None:
    for client, status in (
        (ApiClient(service.api_url, token=""), 401),
        (ApiClient(service.api_url, "alice"), 403),
    ):
        assert client.post(f"/operations/{act}", SERVICE_ACTS[act]).status_code == status
    assert olga.get("/operations/overview").json()["paused"] is False


@pytest.mark.parametrize("act", JOB_ACTS)
@pytest.mark.parametrize("reason", BAD_REASONS)
def test_an_act_needs_a_valid_reason(
    olga: ApiClient, unknown: JobHandle, act: str, reason: object
) -> None:
    before = unknown.everything()
    without = {name: value for name, value in JOB_ACTS[act].items() if name != "reason"}
    for body in (without, {**without, "reason": reason}):
        answer = act_on(olga, unknown.id, act, body)
        assert refusal(answer)[:2] == (400, "VALIDATION_ERROR")
        assert "reason" in answer.json()["details"]
    assert unknown.everything() == before
    assert olga.post("/operations/pause", {"reason": reason}).status_code == 400


@pytest.mark.parametrize("act", ACTS)
def test_acts_on_a_job_are_validated(olga: ApiClient, act: str) -> None:
    path = f"/operations/jobs/{uuid4()}/{act}"
    assert refusal(olga.post(path, ACTS[act]))[:2] == (404, "RESOURCE_NOT_FOUND")
    assert olga.post(path, data="reason").status_code == 415
    assert olga.post(f"{path}?x=1", ACTS[act]).status_code == 400


@pytest.mark.parametrize("act", SERVICE_ACTS)
def test_acts_on_the_service_are_validated(olga: ApiClient, act: str) -> None:
    assert olga.post(f"/operations/{act}", data="reason").status_code == 415
    assert olga.post(f"/operations/{act}", {**SERVICE_ACTS[act], "x": 1}).status_code == 400
    assert olga.post(f"/operations/{act}?x=1", SERVICE_ACTS[act]).status_code == 400


def test_settling_as_sent_advances_the_job_and_records_operator_and_reason(
    olga: ApiClient, unknown: JobHandle, orchestrator: StubOrchestrator
) -> None:
    answer = act_on(olga, unknown.id, "settle", {"as": "sent", **REASON})
    assert answer.status_code == 200
    job = answer.json()
    assert (job["status"], job["dispatch"]["phase"]) == ("AUDIO_EXTRACTING", "SENT")
    assert operator_events(olga, unknown) == [
        ("dispatch.settled", "olga", WHY),
        ("job.status_changed", "olga", WHY),
    ]
    assert "olga" not in str(unknown.everything())
    before = unknown.everything()
    for settlement in ("sent", "release"):
        again = act_on(olga, unknown.id, "settle", {"as": settlement, **REASON})
        assert refusal(again) == (409, "NOTHING_TO_SETTLE", None)
    assert unknown.everything() == before
    assert unknown.client.run(unknown.id).status_code == 200
    assert len(orchestrator.requests_for(unknown.id)) == 1


def test_a_released_dispatch_is_sent_again_by_the_next_run(
    olga: ApiClient, unknown: JobHandle, orchestrator: StubOrchestrator
) -> None:
    assert unknown.client.run(unknown.id).status_code == 502
    answer = act_on(olga, unknown.id, "settle", {"as": "release", **REASON})
    assert (answer.status_code, answer.json()["dispatch"]["phase"]) == (200, "RELEASED")
    assert unknown.client.run(unknown.id).status_code == 202
    assert len(orchestrator.requests_for(unknown.id)) == 2
    assert operator_events(olga, unknown) == [("dispatch.released", "olga", WHY)]


def test_a_settlement_is_sent_or_release(olga: ApiClient, unknown: JobHandle) -> None:
    for body in (REASON, {"as": "lost", **REASON}, {"settlement": "sent", **REASON}):
        assert act_on(olga, unknown.id, "settle", body).status_code == 400


def test_an_operator_cancels_as_the_owner_does(olga: ApiClient, handle: JobHandle) -> None:
    handle.lead_to("TRANSCRIBING")
    answer = act_on(olga, handle.id, "cancel", REASON)
    assert (answer.status_code, answer.json()["status"]) == (200, "CANCELLED")
    assert operator_events(olga, handle) == [("job.cancelled", "olga", WHY)]
    again = act_on(olga, handle.id, "cancel", REASON)
    assert refusal(again) == forbidden_step("CANCELLED", "CANCELLED")
    assert operator_events(olga, handle) == [("job.cancelled", "olga", WHY)]


def test_failing_a_job_stops_its_run_before_it_can_be_retried(
    olga: ApiClient, handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    handle.lead_to("TRANSCRIBING")
    orchestrator.behaviours[handle.id] = refuse(503)  # no answer to a cancel
    answer = act_on(olga, handle.id, "fail", REASON)
    assert (answer.status_code, answer.json()["status"]) == (200, "FAILED")
    failure = {"code": "FAILED_BY_OPERATOR", "message": WHY, "stage": None}
    assert answer.json()["failure"] == failure
    assert operator_events(olga, handle) == [("job.status_changed", "olga", WHY)]
    assert refusal(act_on(olga, handle.id, "fail", REASON)) == forbidden_step("FAILED", "FAILED")
    assert refusal(handle.retry("one"))[1] == "JOB_ALREADY_RUNNING", "the run may still be active"
    late = handle.report("TRANSCRIPT_READY")
    assert refusal(late)[1] == "FSM_TERMINAL_IMMUTABLE", "this answer stops the run"
    del orchestrator.behaviours[handle.id]
    is_due = lambda: history(olga, handle)["dispatch"]["cancel_due"]  # noqa: E731
    wait_until(lambda: not is_due(), 60, "the cancel is answered")
    assert [request.path for request in orchestrator.requests_for(handle.id)][-1] == "/cancels"
    assert handle.retry("one").status_code == 202
    handle.reported("AUDIO_EXTRACTING")
    assert handle.shown()["failure"] is None


@pytest.mark.parametrize("state", ["UPLOADED", "UNKNOWN", "DONE", "CANCELLED"])
def test_a_job_that_is_not_running_cannot_be_failed(
    olga: ApiClient, handle: JobHandle, state: str, request: pytest.FixtureRequest
) -> None:
    expected = forbidden_step("UPLOADED", "FAILED", "AUDIO_EXTRACTING", "CANCELLED")
    if state == "UNKNOWN":
        request.getfixturevalue("unknown")
    elif state == "DONE":
        handle.lead_to("DONE")
        expected = forbidden_step("DONE", "FAILED")
    elif state == "CANCELLED":
        assert handle.client.cancel(handle.id).status_code == 200
        expected = forbidden_step("CANCELLED", "FAILED")
    before = handle.everything()
    assert refusal(act_on(olga, handle.id, "fail", REASON)) == expected
    assert handle.everything() == before


def test_asking_a_webhook_is_refused(olga: ApiClient, unknown: JobHandle) -> None:
    for body in (None, {}, REASON, {"reason": None}):
        assert refusal(act_on(olga, unknown.id, "ask", body)) == (409, "CANNOT_BE_ASKED", None)
    assert act_on(olga, unknown.id, "ask", {"reason": ""}).status_code == 400
    assert operator_events(olga, unknown) == []


def test_one_of_many_concurrent_cancels_and_fails_ends_the_job(
    olga: ApiClient, handle: JobHandle
) -> None:
    handle.lead_to("TRANSCRIBING")

    def act(number: int) -> requests.Response:
        if number % 3 == 0:
            return handle.client.cancel(handle.id)
        return act_on(olga, handle.id, ("cancel", "fail")[number % 3 - 1], REASON)

    answers = at_once(9, act)
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 8
    ends = [event for event in handle.trail() if event["new_status"] in ("FAILED", "CANCELLED")]
    assert [event["prev_status"] for event in ends].count("TRANSCRIBING") == 1


def failed_jobs(service: Stack, secret: str, *codes: str) -> list[JobHandle]:
    """Failed jobs of one project, one for each failure code, oldest first."""
    client = ApiClient(service.api_url, f"editor-{uuid4()}")
    project = client.create_project().json()
    jobs = []
    for code in codes:
        job = JobHandle(client, client.uploaded_job(project=project)["id"], secret)
        job.lead_to("TRANSCRIBING").reported("FAILED", failure_code=code)
        jobs.append(job)
    return jobs


def retries(olga: ApiClient, since: str, **body: Any) -> dict[str, Any]:
    """Make a bulk retry; return the answer."""
    given = {"failed_since": since, "model_profile": "standard", **body}
    answer = olga.post("/operations/retries", given)
    assert answer.status_code == 200, answer.text
    return answer.json()


def outcomes(answer: dict[str, Any]) -> list[tuple[str, str]]:
    return [(item["job_id"], item["outcome"]) for item in answer["items"]]


def dispatch_ids(answer: dict[str, Any]) -> list[str]:
    return [item["dispatch_id"] for item in answer["items"]]


def test_a_repeated_bulk_retry_starts_each_failed_job_once(
    service: Stack, olga: ApiClient, callback_secret: str, orchestrator: StubOrchestrator
) -> None:
    since = now()
    jobs = failed_jobs(service, callback_secret, "ASR_TIMEOUT", "NO_SOUND", "ASR_TIMEOUT")
    first, other, last = jobs
    project = {"project_id": first.shown()["project_id"]}
    before = [job.everything() for job in jobs]
    only = {**project, "failure_code": "ASR_TIMEOUT", "reason": WHY}
    dry = retries(olga, since, **only, dry_run=True)
    assert outcomes(dry) == [(first.id, "started"), (last.id, "started")]
    assert [job.everything() for job in jobs] == before, "a dry run writes nothing"
    done = retries(olga, since, **only)
    assert outcomes(done) == outcomes(dry)
    assert dispatch_ids(done) == dispatch_ids(dry)
    for job in (first, last):
        wait_until(lambda job=job: job.dispatch["phase"] == "SENT", 10, "it is sent")
    again = retries(olga, since, **only)
    assert outcomes(again) == [(first.id, "replayed"), (last.id, "replayed")]
    assert dispatch_ids(again) == dispatch_ids(done)
    assert operator_events(olga, first) == [("dispatch.claimed", "olga", WHY)]
    assert len(orchestrator.requests_for(first.id)) == 2
    assert other.everything() == before[1]
    # After another failure, a repeated call makes another retry.
    first.reported("AUDIO_EXTRACTING", dispatch_id=first.dispatch["dispatch_id"])
    assert outcomes(retries(olga, since, **only)) == [(last.id, "replayed")]
    first.reported("FAILED", failure_code="ASR_TIMEOUT")
    once_more = retries(olga, since, **only)
    assert outcomes(once_more) == [(last.id, "replayed"), (first.id, "started")]
    assert dispatch_ids(once_more)[1] != dispatch_ids(done)[0]


def test_a_bulk_retry_pages_past_a_refused_job(
    service: Stack, olga: ApiClient, callback_secret: str
) -> None:
    since = now()
    jobs = failed_jobs(service, callback_secret, "A", "B", "C")
    assert jobs[1].retry("an editor's").status_code == 202
    project = {"project_id": jobs[0].shown()["project_id"]}
    answer = retries(olga, since, **project, limit=1)
    found = answer["items"]
    while answer["next_cursor"]:
        answer = retries(olga, since, **project, limit=1, cursor=answer["next_cursor"])
        found += answer["items"]
    assert [item["job_id"] for item in found] == [job.id for job in jobs]
    assert [item["outcome"] for item in found] == ["started", "refused", "started"]
    assert (found[1]["code"], found[1]["dispatch_id"]) == ("JOB_ALREADY_RUNNING", None)
    assert outcomes(retries(olga, now(), **project)) == []


def test_a_bulk_retry_that_the_orchestrator_refused_is_sent_again_under_its_id(
    service: Stack, olga: ApiClient, callback_secret: str, orchestrator: StubOrchestrator
) -> None:
    since = now()
    (job,) = failed_jobs(service, callback_secret, "A")
    project = {"project_id": job.shown()["project_id"]}
    orchestrator.behaviours[job.id] = refuse(400)
    (first,) = retries(olga, since, **project)["items"]
    wait_until(lambda: job.dispatch["phase"] == "RELEASED", 10, "it is refused")
    del orchestrator.behaviours[job.id]
    (again,) = retries(olga, since, **project)["items"]
    assert (again["outcome"], again["dispatch_id"]) == ("started", first["dispatch_id"])


def test_concurrent_bulk_retries_start_each_failed_job_once(
    service: Stack, olga: ApiClient, callback_secret: str, orchestrator: StubOrchestrator
) -> None:
    since = now()
    jobs = failed_jobs(service, callback_secret, "A", "B", "C")
    project = {"project_id": jobs[0].shown()["project_id"]}
    answers = at_once(6, lambda _: retries(olga, since, **project))
    for job in jobs:
        made = [item for answer in answers for item in answer["items"] if item["job_id"] == job.id]
        assert [item["outcome"] for item in made].count("started") == 1
        assert len({item["dispatch_id"] for item in made}) == 1
        wait_until(lambda job=job: job.dispatch["phase"] == "SENT", 10, "it is sent")
        assert len(orchestrator.requests_for(job.id)) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"failed_since": None},
        {"failed_since": "yesterday"},
        {"model_profile": None},
        {"model_profile": "turbo"},
        {"limit": 101},
        {"limit": "7"},
        {"dry_run": "yes"},
        {"dry_run": 1},
        {"project_id": "x"},
        {"cursor": "x"},
        {"reason": " "},
    ],
)
def test_a_bulk_retry_is_validated(olga: ApiClient, change: dict[str, Any]) -> None:
    changed = {**SERVICE_ACTS["retries"], **change}
    body = {name: value for name, value in changed.items() if value is not None}
    answer = olga.post("/operations/retries", body)
    assert_invalid(answer, change)


def test_a_pause_lasts_until_it_is_resumed_and_repeating_it_changes_nothing(
    service: Stack, olga: ApiClient, handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    olaf = ApiClient(service.api_url, "olaf", "operator")
    paused = olga.post("/operations/pause", REASON)
    try:
        assert paused.status_code == 200
        pause = paused.json()["pause"]
        assert (paused.json()["paused"], pause["by"], pause["reason"]) == (True, "olga", WHY)
        again = olaf.post("/operations/pause", {"reason": "another"})
        assert again.json()["pause"] == pause
        assert handle.client.run(handle.id, headers={"Prefer": "wait=1"}).status_code == 202
        assert orchestrator.requests_for(handle.id) == []
    finally:
        resumed = olaf.post("/operations/resume", {"reason": "it is back"})
    assert resumed.status_code == 200
    assert (resumed.json()["paused"], resumed.json()["pause"]) == (False, None)
    assert olaf.post("/operations/resume").status_code == 200
    orchestrator.wait_for_requests(handle.id)


def test_logs_hold_neither_an_operators_name_nor_a_reason(
    service: Stack, olga: ApiClient, handle: JobHandle
) -> None:
    assert act_on(olga, handle.id, "cancel", REASON).status_code == 200
    wait_for_line(service.webs[0], "/operations/jobs/<job_id>/cancel", handle.id)
    for process in service.processes:
        log = process.log()
        assert "olga" not in log
        assert "engine's log" not in log
