"""TAKEONE_WRITE_LIMIT: writes per user, counted in the store, refused with Retry-After; off by default."""

import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
import requests

from devstack.stack import Stack
from store import keys
from tests.conftest import NewStack
from tests.support.client import ApiClient, status_report
from tests.support.job_handle import at_once
from tests.support.paused import paused

LIMIT, WINDOW_SECONDS = 5, 2
REFUSED = {"code": "RATE_LIMITED", "message": "Too many requests."}
VIDEO = "s3://studio/interview.mp4"

Call = Callable[[ApiClient, dict[str, str]], requests.Response]
# No write makes another one impossible.
WRITES: dict[str, tuple[int, Call]] = {
    "create a project": (201, lambda client, _: client.create_project()),
    "create a job": (201, lambda client, ids: client.create_job(ids["project"])),
    "confirm": (200, lambda client, ids: client.confirm_upload(ids["to confirm"], VIDEO)),
    "run": (202, lambda client, ids: client.run(ids["to run"])),
    "retry": (202, lambda client, ids: client.retry(ids["to retry"], "again", "fast")),
    "cancel": (200, lambda client, ids: client.cancel(ids["to cancel"])),
    "edit": (200, lambda client, ids: client.edit_job(ids["to confirm"], name="Interview")),
    "delete": (204, lambda client, ids: client.delete_job(ids["to delete"])),
}
PREPARATION = 10


@pytest.fixture(scope="module")
def limited(new_stack: NewStack) -> Iterator[Stack]:
    limit = f"{LIMIT}/{WINDOW_SECONDS} seconds"
    with new_stack(web=2, TAKEONE_WRITE_LIMIT=limit) as running:
        yield running


@pytest.fixture(scope="module")
def one_write_left(new_stack: NewStack) -> Iterator[Stack]:
    """A service that allows one write after the fixture `ids`, in a window that outlasts the tests."""
    with new_stack(TAKEONE_WRITE_LIMIT=f"{PREPARATION + 1}/hour") as running:
        yield running


@pytest.fixture
def client(one_write_left: Stack) -> ApiClient:
    """A user that no other test uses."""
    return ApiClient(one_write_left.api_url, f"user-{uuid4()}")


@pytest.fixture
def ids(client: ApiClient, callback_secret: str) -> dict[str, str]:
    """The ids of a project, and of a job in it for each kind of write; takes PREPARATION writes."""
    project = client.create_project().json()["id"]
    uses = [f"to {use}" for use in ("confirm", "run", "retry", "cancel", "delete")]
    jobs = {use: client.create_job(project).json()["id"] for use in uses}
    for use in ("to run", "to retry"):
        assert client.confirm_upload(jobs[use], VIDEO).status_code == 200
    assert client.run(jobs["to retry"]).status_code == 202
    report = status_report("FAILED")
    assert client.callback(jobs["to retry"], callback_secret, report).status_code == 204
    assert client.cancel(jobs["to delete"]).status_code == 200
    return {"project": project, **jobs}


def everything(client: ApiClient, ids: dict[str, str]) -> list[dict[str, Any]]:
    """Everything that the user can see."""
    jobs = [use for use in ids if use != "project"]
    answers = [client.get("/projects"), client.get(f"/projects/{ids['project']}/jobs")]
    answers += [client.events(ids[use]) for use in jobs]
    return [answer.json() for answer in answers]


def assert_refused(answer: requests.Response, window_seconds: int) -> None:
    assert (answer.status_code, answer.json()) == (429, REFUSED)
    assert 1 <= int(answer.headers["Retry-After"]) <= window_seconds


@pytest.mark.parametrize("write", WRITES)
def test_each_write_counts_once_and_none_is_made_past_the_limit(
    client: ApiClient, ids: dict[str, str], write: str
) -> None:
    status, call = WRITES[write]
    assert call(client, ids).status_code == status
    before = everything(client, ids)
    for other in WRITES.keys() - {write}:
        assert_refused(WRITES[other][1](client, ids), 3600)
    assert everything(client, ids) == before


@pytest.mark.parametrize("last", ["run", "retry"])
def test_replays_are_answered_past_the_limit_and_not_counted(
    client: ApiClient, ids: dict[str, str], last: str
) -> None:
    for _ in range(10):
        assert client.confirm_upload(ids["to run"], VIDEO).json()["replayed"] is True
    status, call = WRITES[last]
    assert call(client, ids).status_code == status
    assert_refused(client.create_project(), 3600)
    for _ in range(10):
        again = call(client, ids)
        assert (again.status_code, again.json()["replayed"]) == (200, True)
        assert client.confirm_upload(ids["to run"], VIDEO).json()["replayed"] is True


@pytest.mark.parametrize("what", ["project", "job"])
def test_a_create_with_a_known_key_is_not_counted_and_a_refused_one_stores_no_key(
    client: ApiClient, ids: dict[str, str], what: str
) -> None:
    path = "/projects" if what == "project" else f"/projects/{ids['project']}/jobs"

    def create(key: str, name: str) -> requests.Response:
        return client.post(path, {"name": name}, headers={"Idempotency-Key": key})

    assert create("first", "a").status_code == 201
    for _ in range(3):
        assert create("first", "a").status_code == 200
        assert create("first", "another").status_code == 409
        for name in "bc":  # a stored key would refuse the second body with 409
            assert_refused(create("second", name), 3600)


def test_an_edit_without_a_change_and_a_refused_delete_are_not_counted(
    client: ApiClient, ids: dict[str, str]
) -> None:
    for _ in range(10):
        assert client.edit_job(ids["to run"], name=None).status_code == 200
        assert client.delete_job(ids["to run"]).status_code == 409
    assert client.delete_job(ids["to delete"]).status_code == 204
    assert client.delete_job(ids["to delete"]).status_code == 404


def test_refused_writes_are_not_counted(client: ApiClient, ids: dict[str, str]) -> None:
    for _ in range(10):
        assert client.run(ids["to confirm"]).status_code == 409
        assert client.confirm_upload(ids["to run"], "s3://another").status_code == 409
        assert client.create_job(ids["to run"]).status_code == 404
        assert client.create_project("").status_code == 400
    assert client.cancel(ids["to cancel"]).status_code == 200


def test_the_limit_is_per_user_and_shared_by_all_processes(limited: Stack) -> None:
    clients = [ApiClient(web.url, "carol") for web in limited.webs]
    answers = at_once(4 * LIMIT, lambda number: clients[number % 2].create_project())
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [201] * LIMIT + [429] * 3 * LIMIT
    for answer in answers:
        if answer.status_code == 429:
            assert_refused(answer, WINDOW_SECONDS)
    dave = ApiClient(limited.api_url, "dave")
    assert dave.run(dave.uploaded_job()["id"]).status_code == 202


def test_a_call_succeeds_after_the_time_in_retry_after(limited: Stack) -> None:
    erin = ApiClient(limited.api_url, "erin")
    answers = [erin.create_project() for _ in range(LIMIT + 1)]
    assert [answer.status_code for answer in answers] == [201] * LIMIT + [429]
    time.sleep(int(answers[-1].headers["Retry-After"]))  # as a client does
    assert erin.create_project().status_code == 201


def test_after_a_clock_that_was_ahead_retry_after_is_at_most_the_window(
    one_write_left: Stack,
) -> None:
    heidi, number = ApiClient(one_write_left.api_url, "heidi"), PREPARATION + 1
    with one_write_left.redis.client() as client:
        before = set(client.keys(f"{keys.LIMITS}*"))
        assert [heidi.create_project().status_code for _ in range(number)] == [201] * number
        (name,) = set(client.keys(f"{keys.LIMITS}*")) - before
        for index in range(number):
            client.lset(name, index, time.time() + 86_400)
    assert_refused(heidi.create_project(), 3_600)


def test_the_limits_keys_do_not_hold_the_user_name(limited: Stack) -> None:
    frank = ApiClient(limited.api_url, "frank@example.org")
    frank.run(frank.uploaded_job()["id"])
    with limited.redis.client() as client:
        names = list(client.scan_iter(f"{keys.LIMITS}*"))
    assert names
    assert not any("frank" in name for name in names)


def test_with_the_store_down_a_write_is_503_with_retry_after(limited: Stack) -> None:
    grace = ApiClient(limited.api_url, "grace")
    job_id = grace.uploaded_job()["id"]
    with paused(limited.redis):
        answer = grace.run(job_id)
    assert answer.status_code == 503
    assert answer.json()["code"] == "SERVICE_UNAVAILABLE"
    assert int(answer.headers["Retry-After"]) >= 1


def test_without_the_setting_writes_are_not_counted(alice: ApiClient, stack: Stack) -> None:
    assert {alice.create_project().status_code for _ in range(20)} == {201}
    with stack.redis.client() as client:
        assert not list(client.scan_iter(f"{keys.LIMITS}*"))
