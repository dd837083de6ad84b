"""The operator's commands, which do the same as the operator API without the web process."""

import json
from collections.abc import Iterator

import pytest

from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.acceptance.programs import run_program, takeone
from tests.conftest import NewStack
from tests.support.job_handle import JobHandle


@pytest.fixture(scope="module")
def service(new_stack: NewStack) -> Iterator[Stack]:
    """A service of its own: the tests look at complete lists."""
    with new_stack() as running:
        yield running


def lines(service: Stack, arguments: str) -> list[list[str]]:
    """The output of a command that succeeds: the words of each line."""
    ended = takeone(f"jobs {arguments}", service.settings)
    assert ended.returncode == 0, ended.stderr
    return [line.split() for line in ended.stdout.splitlines()]


def refused(service: Stack, arguments: str) -> str:
    """The error message of a command that fails."""
    ended = takeone(f"jobs {arguments}", service.settings)
    assert (ended.returncode, ended.stdout) == (1, ""), ended.stdout
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_jobs_are_listed_by_state_age_and_user(service: Stack, handle: JobHandle) -> None:
    user = json.loads(takeone(f"jobs show {handle.id}", service.settings).stdout)["owner"]
    done = JobHandle.uploaded(handle.client, handle.secret).lead_to("DONE")
    assert [line[0] for line in lines(service, f"list --user {user}")] == [handle.id, done.id]
    assert [line[:2] for line in lines(service, f"list --user {user} --status DONE")] == [
        [done.id, "DONE"]
    ]
    everyones = lines(service, "list --status UPLOADED")
    assert [handle.id, "UPLOADED", "since"] in [line[:3] for line in everyones]
    assert {line[1] for line in everyones} == {"UPLOADED"}
    assert [handle.id] in [line[:1] for line in lines(service, "list")]
    assert lines(service, "list --status UPLOADED --older-than 1h") == []
    assert lines(service, f"list --user {user} --older-than 2d") == []
    none = takeone("jobs list --user of-no-job", service.settings)
    assert (none.returncode, none.stdout, none.stderr) == (0, "", "there is no such job\n")
    for wrong in (
        "list --status DONE",
        "list --older-than soon",
        "list --status NONE",
        "list --older-than 99999999h",
        "retry --failed-since 99999999h",
    ):
        assert takeone(f"jobs {wrong}", service.settings).returncode == 2


def test_cancel_and_fail_record_operator_and_reason(service: Stack, handle: JobHandle) -> None:
    handle.lead_to("TRANSCRIBING")
    assert lines(service, f"fail {handle.id} --reason stuck --by olga")[0][1] == "FAILED"
    again = f"fail {handle.id} --reason stuck"
    assert "FSM_TERMINAL_IMMUTABLE" in refused(service, again)
    other = JobHandle.uploaded(handle.client, handle.secret)
    assert lines(service, f"cancel {other.id} --reason gone")[0][1] == "CANCELLED"
    user = run_program("id -un", {}).stdout.strip()
    for job, name, reason in ((handle, "olga", "stuck"), (other, user, "gone")):
        shown = json.loads(takeone(f"jobs show {job.id}", service.settings).stdout)
        acts = [act for act in shown["events"] if act["actor_type"] == "operator"]
        assert [(act["operator"], act["reason"]) for act in acts] == [(name, reason)]
        assert name not in str(job.trail())
    assert takeone(f"jobs cancel {handle.id}", service.settings).returncode == 2
    assert "no job nothing" in refused(service, "cancel nothing --reason x")
    assert "CANNOT_BE_ASKED" in refused(service, f"ask {other.id}")
    early = JobHandle.uploaded(handle.client, handle.secret)
    not_yet = refused(service, f"fail {early.id} --reason stuck")
    assert "allowed_next_statuses AUDIO_EXTRACTING or CANCELLED)" in not_yet


def test_failed_jobs_are_retried_after_a_dry_run(service: Stack, handle: JobHandle) -> None:
    handle.lead_to("TRANSCRIBING").reported("FAILED", failure_code="ASR_TIMEOUT")
    only = f"--project {handle.shown()['project_id']} --failure-code ASR_TIMEOUT"
    assert lines(service, f"retry --failed-since 1h {only} --dry-run")[0][:4] == [
        handle.id, "would", "be", "started",
    ]  # fmt: skip
    assert handle.status == "FAILED"
    assert handle.dispatch["kind"] == "run"
    for word in ("started", "replayed"):
        (line,) = lines(service, f"retry --failed-since 1h {only}")
        assert line[:2] == [handle.id, word]
        wait_until(lambda: handle.dispatch["phase"] == "SENT", 10, "it is sent")
    assert lines(service, f"retry --failed-since 0s {only}") == []
    assert (
        takeone("jobs retry --failed-since 1h --model-profile x", service.settings).returncode == 2
    )


def test_a_bulk_retry_with_a_refused_job_fails(service: Stack, handle: JobHandle) -> None:
    handle.lead_to("TRANSCRIBING").reported("FAILED", failure_code="ASR_CRASH")
    assert handle.retry("by-its-editor").status_code == 202  # and has not reported yet
    ended = takeone("jobs retry --failed-since 1h --failure-code ASR_CRASH", service.settings)
    assert ended.stdout.split()[:3] == [handle.id, "refused", "JOB_ALREADY_RUNNING:"]
    assert ended.returncode == 1
    handle.reported("AUDIO_EXTRACTING")


def test_commands_work_without_the_web_process(service: Stack, handle: JobHandle) -> None:
    handle.lead_to("TRANSCRIBING")
    service.webs[0].kill()
    try:
        assert lines(service, f"fail {handle.id} --reason stuck")[0][1] == "FAILED"
        assert handle.id in str(lines(service, "list --status FAILED"))
        assert lines(service, "retry --failed-since 1h --limit 100")
        assert "paused since" in takeone("pause --reason why", service.settings).stdout
    finally:
        assert takeone("resume", service.settings).returncode == 0
        service.restart(service.webs[0])
