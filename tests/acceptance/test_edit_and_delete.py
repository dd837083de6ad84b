"""PATCH of a job's name and metadata, and DELETE, which removes every trace of the job."""

import json
from typing import Any
from uuid import uuid4

import pytest

from devstack.stack import Stack
from devstack.waiting import wait_until
from domain.claim import FencingToken
from domain.record import TaskKind
from store import keys
from tasks import message
from tests.acceptance.outcomes import already_running, assert_invalid
from tests.conftest import NewStack
from tests.support.behaviours import accept, hang, in_turn, refuse
from tests.support.client import ApiClient, status_report
from tests.support.job_handle import JobHandle, at_once, refusal
from tests.support.orchestrator import StubOrchestrator

NOTED: dict[str, Any] = {"name": "Interview 7", "metadata": {"language": "en", "ö": ""}}
GONE = (404, "RESOURCE_NOT_FOUND", None)
FULL = {"name": "n" * 200, "metadata": {f"{n:040}": "v" * 500 for n in range(20)}}
BAD: list[dict[str, Any]] = [
    {"name": ""},
    {"name": " \t"},
    {"name": "n" * 201},
    {"name": 7},
    {"metadata": None},
    {"metadata": []},
    {"metadata": {"": "v"}},
    {"metadata": {"k" * 41: "v"}},
    {"metadata": {"k": "v" * 501}},
    {"metadata": {"k": None}},
    {"metadata": {"k": 1}},
    {"metadata": {"k": {"deep": "v"}}},
    {"metadata": {str(n): "v" for n in range(21)}},
    {"status": "DONE"},
    {"owner": "bob"},
]


def test_another_media_type_is_a_415(handle: JobHandle) -> None:
    client, before = handle.client, handle.everything()
    project = client.create_project().json()["id"]
    for method, path in (("POST", f"projects/{project}/jobs"), ("PATCH", f"jobs/{handle.id}")):
        text = {"data": json.dumps(NOTED), "headers": {"Content-Type": "text/plain"}}
        answer = client.call(method, f"/api/v1/{path}", **text)
        assert refusal(answer)[:2] == (415, "VALIDATION_ERROR")
    assert handle.everything() == before
    assert client.get(f"/projects/{project}/jobs").json()["items"] == []


def delete(handle: JobHandle) -> None:
    """Delete the job as soon as no notification to the orchestrator is pending."""
    wait_until(lambda: handle.client.delete_job(handle.id).status_code == 204, 30, "it is deleted")


def traces(stack: Stack, job_id: str) -> list[str]:
    """The keys with the job's id in their name, and the lists with an entry for the job."""
    with stack.redis.client() as redis:
        lists = [name for name in redis.keys("*") if redis.type(name) == "zset"]
        naming = [n for n in lists if any(job_id in member for member in redis.zrange(n, 0, -1))]
        return [*redis.keys(f"*{job_id}*"), *naming]


def test_name_and_metadata_are_optional(alice: ApiClient) -> None:
    project = alice.create_project().json()["id"]
    plain = alice.create_job(project).json()
    assert (plain["name"], plain["metadata"]) == (None, {})
    assert alice.create_job(project, {}).json()["metadata"] == {}
    for body in (NOTED, FULL):
        job = alice.create_job(project, body).json()
        assert {name: job[name] for name in body} == body
        assert alice.job(job["id"]).json() == job


def test_an_edit_replaces_only_the_given_fields(handle: JobHandle) -> None:
    edit = handle.client.edit_job
    before = handle.trail()
    assert edit(handle.id, **NOTED).json()["name"] == NOTED["name"]
    assert edit(handle.id, name="Other").json()["metadata"] == NOTED["metadata"]
    assert edit(handle.id, metadata={"a": "b"}).json()["name"] == "Other"
    named = handle.shown()
    assert (named["name"], named["metadata"]) == ("Other", {"a": "b"})
    for unchanged in ({}, {"name": "Other"}, {"name": "Other", "metadata": {"a": "b"}}):
        assert edit(handle.id, **unchanged).json() == named
    assert edit(handle.id, name=None, metadata={}).json()["name"] is None
    assert (handle.shown()["metadata"], handle.trail()) == ({}, before)


def test_an_edit_is_allowed_in_any_state_and_kept(handle: JobHandle) -> None:
    handle.client.edit_job(handle.id, **NOTED)
    handle.lead_to("DONE")
    assert {name: handle.shown()[name] for name in NOTED} == NOTED
    assert handle.client.edit_job(handle.id, **FULL).json()["status"] == "DONE"


@pytest.mark.parametrize("body", BAD, ids=lambda body: json.dumps(body)[:40])
def test_an_invalid_value_is_a_400_that_names_the_field(
    body: dict[str, Any], handle: JobHandle
) -> None:
    client, before = handle.client, handle.everything()
    answers = [client.edit_job(handle.id, **body)]
    answers.append(client.create_job(handle.shown()["project_id"], body))
    for answer in answers:
        assert_invalid(answer, body)
    assert handle.everything() == before


def test_name_and_metadata_are_neither_dispatched_nor_logged(
    stack: Stack, handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    planted = f"planted-{uuid4()}"
    body = {"name": planted, "metadata": {planted: planted}}
    handle.client.edit_job(handle.id, **body)
    handle.client.create_job(handle.shown()["project_id"], body)
    handle.client.edit_job(handle.id, metadata={planted: 1})
    handle.client.get(f"/jobs?project_id={planted}")
    handle.client.post("/projects", {"name": "x"}, headers={"Idempotency-Key": planted})
    handle.lead_to("FAILED")
    assert handle.retry("r").status_code == 202
    requests = orchestrator.requests_for(handle.id)
    assert len(requests) == 2
    for request in requests:
        assert planted not in f"{request.headers} {request.body!r}"

    def logs() -> str:
        return "".join(path.read_text() for path in stack.directory.rglob("*.log"))

    wait_until(lambda: logs().count(f"retry-{handle.id}") > 1, 30, "web and worker have logged it")
    assert planted not in logs()


@pytest.mark.parametrize("end", ["DONE", "FAILED", "CANCELLED"])
def test_deleting_a_job_removes_every_trace_of_it(
    end: str, stack: Stack, handle: JobHandle
) -> None:
    handle.lead_to("AUDIO_EXTRACTING" if end == "CANCELLED" else end)
    if end == "CANCELLED":
        handle.client.cancel(handle.id)
    assert len(traces(stack, handle.id)) >= 6
    delete(handle)
    assert traces(stack, handle.id) == []
    client = handle.client
    answers = [client.job(handle.id), client.events(handle.id), client.run(handle.id)]
    answers += [client.cancel(handle.id), handle.retry("r"), client.edit_job(handle.id, name="n")]
    answers += [client.confirm_upload(handle.id, "s3://v"), client.delete_job(handle.id)]
    answers.append(handle.report("AUDIO_READY"))
    assert [refusal(answer) for answer in answers] == [GONE] * len(answers)
    assert traces(stack, handle.id) == []


@pytest.mark.parametrize("status", ["UPLOADED", "AUDIO_EXTRACTING", "DRAFT_READY", "EXPORTING"])
def test_a_job_that_has_not_ended_cannot_be_deleted(status: str, handle: JobHandle) -> None:
    if status != "UPLOADED":
        handle.lead_to(status)
    before = handle.everything()
    answer = handle.client.delete_job(handle.id)
    assert refusal(answer) == (409, "NOT_TERMINAL", {"current_status": status})
    assert handle.everything() == before


def test_a_job_cannot_be_deleted_before_its_retry_has_reported(handle: JobHandle) -> None:
    handle.lead_to("FAILED")
    assert handle.retry("r").status_code == 202
    assert refusal(handle.client.delete_job(handle.id)) == already_running("FAILED")
    handle.reported("AUDIO_EXTRACTING", "FAILED")
    delete(handle)


def test_a_job_with_an_unknown_outcome_cannot_be_deleted(unknown: JobHandle) -> None:
    unknown.client.cancel(unknown.id)
    assert refusal(unknown.client.delete_job(unknown.id)) == already_running("CANCELLED")
    assert unknown.status == "CANCELLED"


def test_a_job_cannot_be_deleted_while_its_dispatch_is_being_sent(
    handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    orchestrator.behaviours[handle.id] = accept(after=1.5)
    assert handle.client.run(handle.id, headers={"Prefer": "respond-async"}).status_code == 202
    wait_until(lambda: orchestrator.requests_for(handle.id), 30, "it is being sent")
    handle.client.cancel(handle.id)
    assert refusal(handle.client.delete_job(handle.id)) == already_running("CANCELLED")
    delete(handle)


def test_a_job_cannot_be_deleted_before_its_cancel_was_answered(
    new_stack: NewStack, orchestrator: StubOrchestrator, callback_secret: str
) -> None:
    cancels = orchestrator.url.replace("/dispatches", "/cancels")
    with new_stack(TAKEONE_ORCHESTRATOR_CANCEL_URL=cancels) as notifying:
        handle = JobHandle.uploaded(ApiClient(notifying.api_url, "alice"), callback_secret)
        orchestrator.behaviours[handle.id] = in_turn(accept(), hang(), refuse(500), accept())
        handle.lead_to("TRANSCRIBING")
        cancelled = handle.client.cancel(handle.id).json()
        wait_until(
            lambda: len(orchestrator.requests_for(handle.id)) == 2, 30, "the notification is sent"
        )
        assert refusal(handle.client.delete_job(handle.id)) == already_running("CANCELLED")
        posts = orchestrator.requests_for
        wait_until(lambda: len(posts(handle.id)) == 3, 20, "it is sent again")
        assert refusal(handle.client.delete_job(handle.id)) == already_running("CANCELLED")
        updated_at = handle.shown()["updated_at"]
        wait_until(
            lambda: handle.client.delete_job(handle.id).status_code == 204, 20, "it was answered"
        )
        assert (len(posts(handle.id)), updated_at) == (4, cancelled["updated_at"])


def test_a_late_message_for_a_deleted_job_does_nothing(
    stack: Stack, handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    handle.lead_to("DONE")
    delete(handle)
    token = FencingToken(handle.id, handle.run_id, 1)
    queue = "takeone.dispatch.0"
    late = [TaskKind.DISPATCH, TaskKind.TELL_CANCELLED]
    with stack.redis.client() as redis:
        for task in late:
            redis.lpush(
                f"takeone:broker:{queue}", message.encode(task, f"late-{task}", token, queue)
            )
        wait_until(lambda: not redis.llen(f"takeone:broker:{queue}"), 30, "a worker takes them")
    other = JobHandle.uploaded(handle.client, handle.secret).lead_to("AUDIO_EXTRACTING")
    assert other.status == "AUDIO_EXTRACTING"
    assert traces(stack, handle.id) == []
    assert len(orchestrator.requests_for(handle.id)) == 1


def test_one_of_many_concurrent_deletes_succeeds(handle: JobHandle) -> None:
    handle.client.cancel(handle.id)
    answers = at_once(12, lambda _: handle.client.delete_job(handle.id))
    assert sorted(answer.status_code for answer in answers) == [204] + [404] * 11


def test_a_concurrent_retry_and_delete_never_both_succeed(
    stack: Stack, handle: JobHandle, orchestrator: StubOrchestrator
) -> None:
    for round_ in range(6):
        job = JobHandle.uploaded(handle.client, handle.secret).lead_to("FAILED")
        report = status_report("AUDIO_EXTRACTING", dispatch_id=job.run_id)
        calls = [
            lambda job=job: job.retry("r").status_code,
            lambda job=job: job.client.delete_job(job.id).status_code,
            lambda job=job, report=report: job.send(report).status_code,
        ]
        retried, gone, _ = at_once(3, lambda number, calls=calls: calls[number]())
        assert (retried, gone) in [(202, 409), (404, 204)], round_
        posts = len(orchestrator.requests_for(job.id))
        assert posts == (2 if retried == 202 else 1)
        if gone == 204:
            with stack.redis.client() as redis:
                assert not redis.exists(keys.job(job.id), keys.claim(job.id), keys.trail(job.id))
