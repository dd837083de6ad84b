"""`takeone jobs erase` on a running service: what callers see meanwhile, and what is left."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from uuid import uuid4

import pytest

from devstack.processes import ROOT, clean_environment
from devstack.stack import Stack
from devstack.waiting import wait_until
from store import keys
from tests.acceptance.programs import takeone
from tests.conftest import NewStack
from tests.support.client import ApiClient
from tests.support.job_handle import JobHandle, refusal

FORBIDDEN = (403, "FORBIDDEN", None)
KEY = {"Idempotency-Key": "key"}
Command = subprocess.Popen[str]
Erasing = Callable[[str], AbstractContextManager[Command]]


@pytest.fixture
def user(editor: ApiClient) -> str:
    """The name of the editor."""
    return str(editor.session.headers["Authorization"]).split(":")[1]


@pytest.fixture
def erasing(stack: Stack, unknown: JobHandle) -> Erasing:
    """`with erasing("--user …")`: runs the command, which waits for the job with an unknown outcome."""

    @contextmanager
    def running(selection: str) -> Iterator[Command]:
        arguments = f"-m cli.main jobs erase {selection} --yes --wait 600".split()
        with subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT, env=clean_environment(stack.settings), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            try:
                wait_until(lambda: unknown.status == "CANCELLED", 30, "the erasure has begun")
                yield process
            finally:
                process.kill()

    return running


def ended(process: Command, stack: Stack, unknown: JobHandle) -> str:
    """Settle the job; return the output of the command, which then ends."""
    command = takeone(f"dispatches settle {unknown.id} --as sent --reason seen", stack.settings)
    assert command.returncode == 0, command.stderr
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    return output


def test_nothing_is_created_for_a_user_while_their_data_is_erased(
    stack: Stack, user: str, editor: ApiClient, unknown: JobHandle, erasing: Erasing
) -> None:
    project = unknown.shown()["project_id"]
    bob = ApiClient(stack.api_url, f"other-{uuid4()}")
    first = editor.create_job(project, headers={"Idempotency-Key": "first"}).json()["id"]
    with erasing(f"--user {user}") as process:
        wait_until(lambda: editor.job(first).status_code == 404, 30, "the job at rest is erased")
        for headers in ({}, KEY):
            assert refusal(editor.create_project(headers=headers)) == FORBIDDEN
            answer = editor.create_job(project, headers=headers)
            assert refusal(answer) == FORBIDDEN
            assert "erasure" in answer.json()["message"]
        assert [job["id"] for job in editor.get("/jobs").json()["items"]] == [unknown.id]
        assert bob.create_project(headers=KEY).status_code == 201
        output = ended(process, stack, unknown)
    assert "2 jobs, 1 projects; forgotten: 1 idempotency keys" in output
    with stack.redis.client() as client:
        assert client.keys(keys.idempotency_key(user, "*")) == []
    assert editor.create_project(headers=KEY).status_code == 201, "the refused calls used up no key"


def test_no_job_is_created_in_a_project_while_it_is_erased(
    stack: Stack, editor: ApiClient, unknown: JobHandle, erasing: Erasing
) -> None:
    project = unknown.shown()["project_id"]
    with erasing(f"--project {project}") as process:
        assert refusal(editor.create_job(project)) == FORBIDDEN
        other = editor.create_project().json()["id"]
        assert editor.create_job(other).status_code == 201
        ended(process, stack, unknown)
    assert editor.create_job(project).status_code == 404
    assert editor.create_job(other).status_code == 201


def test_a_killed_erasure_blocks_its_user_for_ten_minutes_at_most(
    stack: Stack, user: str, editor: ApiClient, unknown: JobHandle, erasing: Erasing
) -> None:
    with erasing(f"--user {user}") as process:
        process.kill()
        process.wait(10)
    with stack.redis.client() as client:
        name = keys.erasure(user)
        assert 0 < client.ttl(name) <= 600
        assert refusal(editor.create_project()) == FORBIDDEN
        client.pexpire(name, 1)
    wait_until(lambda: editor.create_project().status_code == 201, 10, "the block has expired")


def test_with_force_a_job_with_an_unknown_outcome_is_named_and_erased(
    stack: Stack, user: str, editor: ApiClient, unknown: JobHandle
) -> None:
    command = takeone(f"jobs erase --user {user} --yes --wait 0 --force", stack.settings)
    assert command.returncode == 0, command.stderr
    orphan = f"orphan: {unknown.id}  CANCELLED  {unknown.run_id}  UNKNOWN  at webhook\n"
    assert orphan in command.stderr
    assert "1 jobs, 1 projects" in command.stdout
    assert unknown.report("AUDIO_EXTRACTING").status_code == 404
    assert editor.get("/projects").json()["items"] == []


def test_calls_refused_by_an_erasure_do_not_count_against_the_write_limit(
    new_stack: NewStack,
) -> None:
    with new_stack(TAKEONE_WRITE_LIMIT="1/hour") as limited, limited.redis.client() as client:
        editor = ApiClient(limited.api_url, "alice")
        client.set(keys.erasure("alice"), 1)
        for headers in ({}, KEY):
            assert refusal(editor.create_project(headers=headers)) == FORBIDDEN
        client.delete(keys.erasure("alice"))
        assert editor.create_project().status_code == 201
