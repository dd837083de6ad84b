"""The worker's threads: they go on by themselves, and what the event loop hands over comes first."""

import threading
from collections.abc import Iterator

import pytest

from tasks.pool import ThreadPool
from tests.support.waiting import wait_until

SECONDS = 5


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    one = ThreadPool(limit=2)
    yield one
    one.executor.shutdown()


def hand_over(pool: ThreadPool, task: threading.Event) -> None:
    pool.on_apply(task.set, (), callback=lambda _: None)


def test_a_thread_that_is_done_goes_on_until_there_is_nothing_more(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    more, task, at_the_end = [1, 2, 3], threading.Event(), threading.Event()

    def run_next() -> bool:
        if not more:
            at_the_end.set()
            return False
        assert task.is_set()
        more.pop()
        return True

    monkeypatch.setattr(ThreadPool, "run_next", staticmethod(run_next))
    hand_over(pool, task)
    assert at_the_end.wait(SECONDS)
    assert more == []


def test_what_the_event_loop_hands_over_is_done_before_a_thread_goes_on(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ThreadPool, "run_next", staticmethod(lambda: True))
    tasks = [threading.Event() for _ in range(6)]
    try:
        for task in tasks:
            hand_over(pool, task)
        assert all(task.wait(SECONDS) for task in tasks)
    finally:
        monkeypatch.undo()


def test_a_thread_that_goes_on_is_none_that_celery_may_reckon_with(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, release = threading.Event(), threading.Event()

    def run_next() -> bool:
        busy.set()
        return not release.wait(SECONDS)

    monkeypatch.setattr(ThreadPool, "run_next", staticmethod(run_next))
    assert pool.num_processes == 2
    hand_over(pool, threading.Event())
    assert busy.wait(SECONDS)
    assert pool.num_processes == 1
    release.set()
    wait_until(lambda: pool.num_processes == 2, SECONDS, "the thread is back")


def test_a_thread_comes_back_after_a_while_however_much_there_is_to_do(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ThreadPool, "run_next", staticmethod(lambda: True))
    hand_over(pool, threading.Event())
    wait_until(lambda: pool.num_processes == 1, SECONDS, "the thread goes on")
    wait_until(lambda: pool.num_processes == 2, SECONDS, "the thread is back")


def test_a_thread_whose_further_work_fails_is_back_all_the_same(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_next() -> bool:
        raise RuntimeError

    monkeypatch.setattr(ThreadPool, "run_next", staticmethod(run_next))
    done = threading.Event()
    hand_over(pool, done)
    assert done.wait(SECONDS)
    wait_until(lambda: pool.num_processes == 2, SECONDS, "the thread is back")
