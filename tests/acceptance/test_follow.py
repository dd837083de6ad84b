"""Following a trail, or all of the caller's jobs, by long poll."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
import requests

from devstack.stack import Stack
from domain.lifecycle import create_job
from store import keys
from store.jobs import JobStore
from tasks.outbox import TransactionalOutbox
from tests.support.client import ApiClient
from tests.support.job_handle import JobHandle, refusal
from tests.support.stores import client_of

# A waiter that misses the notification reads again once a second.
WOKEN_SECONDS = 0.6
WAITING_SECONDS = 1.1


@contextmanager
def waiting(client: ApiClient, path: str) -> Iterator[Future[requests.Response]]:
    """A call that is waiting for its answer."""
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.get, path)
        # The call may begin to wait only after this, which makes the test easier, not wrong.
        with pytest.raises(TimeoutError):
            answer.result(WAITING_SECONDS)
        yield answer


def answered_soon(answer: Future[requests.Response]) -> dict[str, Any]:
    began = time.monotonic()
    found = answer.result(20)
    assert time.monotonic() - began < WOKEN_SECONDS
    assert found.status_code == 200
    return found.json()


def events(client: ApiClient, job_id: str, after: str, wait: int = 0) -> dict[str, Any]:
    answer = client.get(f"/jobs/{job_id}/events?after={after}&wait={wait}")
    assert answer.status_code == 200
    return answer.json()


def test_a_trail_is_followed_without_gaps_or_repeats(handle: JobHandle) -> None:
    seen, after = [], "0"
    handle.lead_to("AUDIO_EXTRACTING")
    for steps in ((), ("AUDIO_READY",), ("TRANSCRIBING", "TRANSCRIPT_READY")):
        handle.reported(*steps)
        found = events(handle.client, handle.id, after, wait=10)
        assert found["items"]
        seen, after = seen + found["items"], found["next_cursor"]
    assert seen == handle.trail()
    assert events(handle.client, handle.id, after) == {"items": [], "next_cursor": after}
    one = events(handle.client, handle.id, "1")
    assert one["items"] == seen[1:]


def test_a_waiting_caller_gets_a_new_event_at_once(handle: JobHandle) -> None:
    handle.lead_to("AUDIO_EXTRACTING")
    after = events(handle.client, handle.id, "0")["next_cursor"]
    with waiting(handle.client, f"/jobs/{handle.id}/events?after={after}&wait=20") as answer:
        handle.reported("AUDIO_READY")
        (event,) = answered_soon(answer)["items"]
    assert event["new_status"] == "AUDIO_READY"


def test_a_wait_times_out_empty_and_a_deletion_ends_it(handle: JobHandle) -> None:
    began = time.monotonic()
    after = events(handle.client, handle.id, "0")["next_cursor"]
    assert events(handle.client, handle.id, after, wait=1)["items"] == []
    assert time.monotonic() - began >= 1
    assert handle.client.cancel(handle.id).status_code == 200
    after = events(handle.client, handle.id, "0")["next_cursor"]
    with waiting(handle.client, f"/jobs/{handle.id}/events?after={after}&wait=20") as answer:
        assert handle.client.delete_job(handle.id).status_code == 204
        assert answer.result(5).status_code == 404


def test_another_users_trail_is_not_followed(handle: JobHandle, bob: ApiClient) -> None:
    answer = bob.get(f"/jobs/{handle.id}/events?after=0&wait=20")
    assert refusal(answer) == (404, "RESOURCE_NOT_FOUND", None)


def last_change(client: ApiClient) -> str:
    items = client.get("/jobs?limit=200").json()["items"]
    return max(str(job["updated_at"]) for job in items)


def test_one_request_waits_for_all_of_the_callers_jobs(handle: JobHandle) -> None:
    jobs = [JobHandle.uploaded(handle.client, handle.secret) for _ in range(3)]
    seen = last_change(handle.client)
    for job, act in ((jobs[1], "run"), (jobs[0], "edit")):
        with waiting(handle.client, f"/jobs?updated_after={seen}&wait=20") as answer:
            if act == "run":
                assert job.client.run(job.id).status_code == 202
            else:
                assert job.client.edit_job(job.id, name="New").status_code == 200
            items = answered_soon(answer)["items"]
        assert [item["id"] for item in items] == [job.id]
        seen = last_change(handle.client)
    assert handle.client.get(f"/jobs?updated_after={seen}&wait=1").json()["items"] == []


def test_changes_of_another_users_jobs_do_not_end_the_wait(handle: JobHandle, stack: Stack) -> None:
    seen = last_change(handle.client)
    other = ApiClient(stack.api_url, f"other-{uuid4()}")
    with waiting(handle.client, f"/jobs?updated_after={seen}&wait=2") as answer:
        other.uploaded_job()
        assert answer.result(10).json()["items"] == []


def test_a_new_job_ends_the_wait(handle: JobHandle) -> None:
    seen = last_change(handle.client)
    with waiting(handle.client, f"/jobs?updated_after={seen}&wait=20") as answer:
        made = handle.client.create_job(handle.shown()["project_id"]).json()
        assert [job["id"] for job in answer.result(5).json()["items"]] == [made["id"]]


def test_without_a_starting_point_wait_is_ignored(handle: JobHandle) -> None:
    began = time.monotonic()
    assert handle.client.get("/jobs?wait=20").status_code == 200
    assert handle.client.get(f"/jobs/{handle.id}/events?wait=20").status_code == 200
    assert time.monotonic() - began < 5


def test_a_thousand_jobs_that_do_not_match_return_a_cursor_instead_of_waiting(
    handle: JobHandle, stack: Stack
) -> None:
    job = handle.shown()
    with client_of(stack.redis.url) as client:
        jobs = JobStore(client, TransactionalOutbox([]))
        kept = jobs.load(handle.id)
        assert kept is not None
        for _ in range(1_000):
            new = create_job(
                str(uuid4()), job["project_id"], kept.job.owner, kept.job.updated_at, None
            )
            assert jobs.create(new)
    path = "/jobs?updated_after=2020-01-01T00:00:00Z&order=asc&status=DONE&wait=20"
    with ThreadPoolExecutor(1) as pool:
        body = answered_soon(pool.submit(handle.client.get, path))
    assert body["items"] == []
    assert body["next_cursor"] is not None


def test_an_event_of_a_later_release_returns_a_cursor_instead_of_waiting(
    handle: JobHandle, stack: Stack
) -> None:
    start = int(events(handle.client, handle.id, "0")["next_cursor"])
    later = json.dumps(["job.dreamt", "dreamer", "UPLOADED", "UPLOADED", 0, 0])
    with stack.redis.client() as client:
        client.rpush(keys.trail(handle.id), later)
    with ThreadPoolExecutor(1) as pool:
        path = f"/jobs/{handle.id}/events?after={start}&limit=1&wait=20"
        body = answered_soon(pool.submit(handle.client.get, path))
    assert body == {"items": [], "next_cursor": str(start + 1)}
