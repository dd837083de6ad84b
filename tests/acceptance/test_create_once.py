"""Idempotency-Key on POST /projects and POST /projects/{id}/jobs: one key creates one record."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
import requests

from devstack.stack import Stack
from tests.acceptance.raw_http import ask, assert_refused
from tests.support.client import ApiClient
from tests.support.job_handle import at_once, refusal

CALLERS = 32
MISMATCH = (409, "IDEMPOTENCY_KEY_MISMATCH", None)
Create = Callable[..., requests.Response]


@pytest.fixture(params=["project", "job"])
def kind(request: pytest.FixtureRequest) -> str:
    """What is created."""
    return str(request.param)


@pytest.fixture
def path(kind: str, editor: ApiClient) -> str:
    """Where it is created."""
    if kind == "project":
        return "/projects"
    return f"/projects/{editor.create_project().json()['id']}/jobs"


@pytest.fixture
def create(path: str, editor: ApiClient) -> Create:
    """Create one: `create(key, body)`."""

    def send(key: str | None, body: Any = None) -> requests.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        return editor.post(path, body or {"name": "One"}, headers=headers)

    return send


def listed(editor: ApiClient, kind: str) -> list[str]:
    """The ids of the editor's records that are named One, oldest first."""
    answer = editor.get("/projects" if kind == "project" else "/jobs?order=asc")
    return [record["id"] for record in answer.json()["items"] if record["name"] == "One"]


def test_a_repeated_key_answers_200_with_the_first_result(
    create: Create, kind: str, editor: ApiClient
) -> None:
    first, again = create("key"), create("key")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert listed(editor, kind) == [first.json()["id"]]


def test_a_replay_shows_the_current_record(editor: ApiClient) -> None:
    project = editor.create_project().json()["id"]
    key = {"Idempotency-Key": "key"}
    job_id = editor.create_job(project, headers=key).json()["id"]
    editor.confirm_upload(job_id, "s3://v")
    again = editor.create_job(project, headers=key)
    assert (again.status_code, again.json()) == (200, editor.job(job_id).json())
    assert again.json()["status"] == "UPLOADED"
    assert len(editor.events(job_id).json()["items"]) == 2


def test_one_of_many_concurrent_calls_with_the_same_key_creates(
    create: Create, kind: str, editor: ApiClient
) -> None:
    answers = at_once(CALLERS, lambda _: create("key"))
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [200] * (CALLERS - 1) + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert listed(editor, kind) == [answers[0].json()["id"]]


def test_of_concurrent_calls_with_one_key_and_two_bodies_one_body_wins(
    create: Create, kind: str, editor: ApiClient
) -> None:
    answers = at_once(8, lambda number: create("key", {"name": ("One", "Two")[number % 2]}))
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [200, 200, 200, 201, 409, 409, 409, 409]
    assert len({answer.json()["id"] for answer in answers if answer.ok}) == 1


def test_the_same_key_with_another_body_is_refused(
    create: Create, kind: str, editor: ApiClient
) -> None:
    first = create("key")
    assert refusal(create("key", {"name": "Another"})) == MISMATCH
    assert listed(editor, kind) == [first.json()["id"]]
    assert create("key").json() == first.json()


def test_a_key_whose_record_was_deleted_is_refused_and_creates_nothing(editor: ApiClient) -> None:
    project = editor.create_project().json()["id"]
    key = {"Idempotency-Key": "key"}
    job_id = editor.create_job(project, headers=key).json()["id"]
    editor.cancel(job_id)
    assert editor.delete_job(job_id).status_code == 204
    for _ in range(2):
        assert refusal(editor.create_job(project, headers=key)) == MISMATCH
    assert editor.get("/jobs").json()["items"] == []
    assert editor.create_job(project, headers={"Idempotency-Key": "new"}).status_code == 201


def test_keys_are_scoped_to_the_caller_and_the_collection(stack: Stack, editor: ApiClient) -> None:
    other = ApiClient(stack.api_url, f"other-{uuid4()}")
    key = {"Idempotency-Key": "key"}
    projects = [caller.create_project(headers=key) for caller in (editor, other)]
    projects.append(editor.create_project())
    jobs = [
        caller.create_job(project.json()["id"], headers=key)
        for caller, project in zip((editor, other, editor), projects, strict=True)
    ]
    assert [answer.status_code for answer in projects + jobs] == [201] * 6
    assert len({answer.json()["id"] for answer in projects + jobs}) == 6


def test_without_a_key_each_call_creates(create: Create, kind: str, editor: ApiClient) -> None:
    made = [create(None).json()["id"] for _ in range(3)]
    assert sorted(listed(editor, kind)) == sorted(set(made))


def test_a_refused_call_does_not_use_up_its_key(create: Create) -> None:
    assert create("key", {"name": ""}).status_code == 400
    assert create("key", {"name": "x", "nonsense": 1}).status_code == 400
    assert create("key").status_code == 201


@pytest.mark.parametrize("key", ["k", "a b", "!~", '"quoted"', "x" * 255])
def test_printable_ascii_is_a_valid_key(create: Create, key: str) -> None:
    assert [create(key).status_code for _ in range(2)] == [201, 200]


@pytest.mark.parametrize("key", [b"", b"x" * 256, "ä".encode(), "ключ".encode(), b"a\tb"])
def test_an_invalid_key_is_a_400_that_names_the_header(
    key: bytes, kind: str, path: str, stack: Stack, editor: ApiClient
) -> None:
    headers: dict[str, str | bytes] = {
        "Authorization": editor.session.headers["Authorization"],
        "Content-Type": "application/json",
        "Idempotency-Key": key,
    }
    answer = ask(stack.api_url, "POST", f"/api/v1{path}", headers, b'{"name": "One"}')
    assert_refused(answer, 400)
    assert b"Idempotency-Key" in answer.body
    assert listed(editor, kind) == []


def test_a_key_is_remembered_for_seven_days(create: Create, stack: Stack) -> None:
    with stack.redis.client() as redis:
        before = set(redis.keys())
        made = create("key").json()["id"]
        new = set(redis.keys()) - before
        lasting = {name for name in new if redis.ttl(name) > 0}
        assert lasting == {name for name in new if "idempotency" in name or name.endswith("made")}
        assert len(lasting) == 2
        assert all(604_000 < redis.ttl(name) <= 604_800 for name in lasting)
        assert all("key" not in redis.get(name) for name in lasting)
        assert any(made in redis.get(name) for name in lasting)
