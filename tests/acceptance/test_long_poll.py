"""The long poll: `GET /jobs/{jobId}?wait=N&status_not=X` answers when the state is no longer X."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import requests

from tests.support.client import ApiClient
from tests.support.job_handle import WAY, JobHandle

WATCHERS = 100


@pytest.fixture
def handle(handle: JobHandle) -> JobHandle:
    """A job in AUDIO_EXTRACTING."""
    return handle.lead_to("AUDIO_EXTRACTING")


def watch(handle: JobHandle, wait: float | str, known: str, **options: Any) -> requests.Response:
    return handle.client.job(handle.id, params={"wait": wait, "status_not": known}, **options)


def timed(call: Callable[[], requests.Response]) -> tuple[requests.Response, float]:
    """The answer, and the seconds it took."""
    started = time.monotonic()
    return call(), time.monotonic() - started


@contextmanager
def watching(handle: JobHandle, known: str, count: int = 1) -> Iterator[list[Future[Any]]]:
    """Callers that wait until the job is no longer in state `known`, each on its own connection."""
    token = str(handle.client.session.headers["Authorization"]).removeprefix("Bearer ")
    with ThreadPoolExecutor(count) as pool:
        clients = [ApiClient(handle.client.base_url, token=token) for _ in range(count)]
        watchers = [JobHandle(client, handle.id, handle.secret) for client in clients]
        yield [
            pool.submit(timed, lambda watcher=watcher: watch(watcher, 10, known))
            for watcher in watchers
        ]


def none_is_answered(watchers: list[Future[Any]], seconds: float) -> bool:
    """Whether all watchers are still waiting after `seconds`."""
    return not wait(watchers, seconds, FIRST_COMPLETED).done


def test_it_answers_at_once_if_the_state_already_differs(handle: JobHandle) -> None:
    answer, seconds = timed(lambda: watch(handle, 10, "UPLOADED"))
    assert answer.json() == handle.shown()
    assert seconds < 1


def test_it_answers_as_soon_as_the_state_changes(handle: JobHandle) -> None:
    delays = []
    for known, following in pairwise(["AUDIO_EXTRACTING", *WAY["GENERATING"]]):
        with watching(handle, known) as (watcher,):
            assert none_is_answered([watcher], 0.2)
            started = time.monotonic()
            handle.reported(following)
            answer, _ = watcher.result(3)
            delays.append(time.monotonic() - started)
        assert (answer.status_code, answer.json()["status"]) == (200, following)
    # A waiter that misses the notification reads the job once a second; one delay may be a busy machine.
    assert min(delays) < 0.4


def test_a_change_that_keeps_the_state_does_not_end_the_wait(handle: JobHandle) -> None:
    with watching(handle, "AUDIO_EXTRACTING") as (watcher,):
        handle.reported("AUDIO_EXTRACTING", artifact_updates={"waveform": "s3://w"})
        assert none_is_answered([watcher], 0.2)
        handle.reported("FAILED")
        answer, _ = watcher.result(3)
    assert answer.json()["status"] == "FAILED"


def test_it_waits_the_requested_time_and_then_shows_the_job(handle: JobHandle) -> None:
    answer, seconds = timed(lambda: watch(handle, 1, "AUDIO_EXTRACTING"))
    assert answer.status_code == 200
    assert answer.json() == handle.shown()
    assert 0.9 < seconds < 2.5


def test_without_both_parameters_it_does_not_wait(handle: JobHandle) -> None:
    for params in ({}, {"wait": 10}, {"status_not": "AUDIO_EXTRACTING"}):
        answer, seconds = timed(lambda params=params: handle.client.job(handle.id, params=params))
        assert answer.status_code == 200
        assert seconds < 1


def test_a_job_that_can_no_longer_change_is_answered_at_once(handle: JobHandle) -> None:
    handle.client.cancel(handle.id)
    _, seconds = timed(lambda: watch(handle, 10, "CANCELLED"))
    assert seconds < 1


def test_a_failed_job_can_be_watched_until_its_retry_begins(handle: JobHandle) -> None:
    handle.reported("FAILED")
    with watching(handle, "FAILED") as (watcher,):
        assert handle.retry("r1").status_code == 202
        handle.reported("AUDIO_EXTRACTING")
        answer, _ = watcher.result(3)
    assert answer.json()["status"] == "AUDIO_EXTRACTING"


def test_only_the_owner_may_wait(handle: JobHandle, bob: ApiClient) -> None:
    answer, seconds = timed(
        lambda: bob.job(handle.id, params={"wait": 10, "status_not": "AUDIO_EXTRACTING"})
    )
    assert (answer.status_code, answer.json()["code"]) == (404, "RESOURCE_NOT_FOUND")
    assert seconds < 1


def test_a_hundred_watchers_are_served_and_the_api_stays_responsive(
    handle: JobHandle, bob: ApiClient, callback_secret: str
) -> None:
    bobs = JobHandle.uploaded(bob, callback_secret).lead_to("AUDIO_EXTRACTING")
    half = WATCHERS // 2
    with (
        watching(handle, "AUDIO_EXTRACTING", half) as alices_watchers,
        watching(bobs, "AUDIO_EXTRACTING", half) as bobs_watchers,
    ):
        watchers = alices_watchers + bobs_watchers
        assert none_is_answered(watchers, 0.5)
        other, seconds = timed(lambda: handle.client.run(handle.client.uploaded_job()["id"]))
        assert other.status_code == 202
        assert seconds < 2
        assert not any(watcher.done() for watcher in watchers)
        started = time.monotonic()
        handle.reported("AUDIO_READY")
        bobs.reported("AUDIO_READY")
        answers = [watcher.result(5)[0] for watcher in watchers]
        assert time.monotonic() - started < 3
    assert {answer.json()["status"] for answer in answers} == {"AUDIO_READY"}
