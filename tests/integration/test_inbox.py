"""What a worker's thread goes on with: the next message of any lane, its task, and what onlookers see."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from demo.redis_server import RedisServer
from domain.dispatch_steps import Token
from store.queues import Queues
from tasks import message
from tasks.inbox import Inbox
from tasks.message import Received
from tasks.worker import DispatchFailed, failing_safely
from tests.support.stores import Shelf, make_link
from tests.support.waiting import wait_until

QUEUES = ["lane.0", "lane.1", "lane.2"]
SECONDS = 4.0  # less than the shelf's timeout


def put(shelf: Shelf, queue: str, name: str, task: str = message.DISPATCH_TASK) -> None:
    token = Token(name, f"run-{name}", 1)
    shelf.redis.lpush(queue, message.encode(task, token.dispatch_id, token, queue))


class Onlooker:
    """Keeps the events that it is sent."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def send(self, event_type: str, **fields: Any) -> None:
        self.seen.append((event_type, fields))

    @property
    def types(self) -> list[str]:
        return [event_type for event_type, _ in self.seen]


def inbox(shelf: Shelf, task: Callable[[Received], str], onlooker: Onlooker) -> Inbox:
    return Inbox(Queues(shelf.link, QUEUES), {message.DISPATCH_TASK: task}, onlooker.send)


def test_messages_of_one_queue_are_taken_in_their_order_and_each_once(shelf: Shelf) -> None:
    queues = Queues(shelf.link, QUEUES)
    for number in range(5):
        shelf.redis.lpush("lane.1", str(number))
    assert [queues.take() for _ in range(6)] == [b"0", b"1", b"2", b"3", b"4", None]


@pytest.mark.parametrize("of_the_others", ["lane.1", "lane.2"])
def test_queues_that_have_messages_take_turns(of_the_others: str, shelf: Shelf) -> None:
    queues = Queues(shelf.link, QUEUES)
    shelf.redis.lpush("lane.0", *(["flood"] * 100))
    shelf.redis.lpush(of_the_others, *(["few"] * 3))
    assert sorted(queues.take() or b"" for _ in range(6)) == [b"few"] * 3 + [b"flood"] * 3


def waiting(shelf: Shelf) -> int:
    number: int = shelf.redis.info("clients")["blocked_clients"]
    return number


def test_who_waits_gets_the_message_that_comes_meanwhile(shelf: Shelf) -> None:
    queues = Queues(shelf.link, QUEUES)
    with ThreadPoolExecutor(1) as threads:
        taken = threads.submit(queues.take, SECONDS)
        wait_until(lambda: waiting(shelf) == 1, SECONDS, "the thread waits")
        shelf.redis.lpush("lane.2", "late")
        assert taken.result(SECONDS) == b"late"


def test_no_more_threads_than_may_wait_at_once(shelf: Shelf) -> None:
    task = lambda _: "accepted"  # noqa: E731
    tasks = {message.DISPATCH_TASK: task}
    mine = Inbox(Queues(shelf.link, QUEUES), tasks, Onlooker().send, 1, SECONDS)
    with ThreadPoolExecutor(1) as threads:
        waiter = threads.submit(mine.run_next)
        wait_until(lambda: waiting(shelf) == 1, SECONDS, "the thread waits")
        assert not mine.run_next()
        assert not waiter.done()
        put(shelf, "lane.0", "a-job")
        assert waiter.result(SECONDS)


def test_each_message_is_done_and_told_as_celery_would_tell_it(shelf: Shelf) -> None:
    onlooker, done = Onlooker(), list[Token]()

    def task(received: Received) -> str:
        done.append(received.token)
        return "accepted"

    mine = inbox(shelf, task, onlooker)
    put(shelf, "lane.0", "a-job")
    assert mine.run_next()
    assert not mine.run_next()
    assert done == [Token("a-job", "run-a-job", 1)]
    assert onlooker.types == ["task-received", "task-started", "task-succeeded"]
    assert {fields["uuid"] for _, fields in onlooker.seen} == {"run-a-job"}
    assert onlooker.seen[0][1]["args"] == str(("a-job", "run-a-job", 1))
    assert onlooker.seen[2][1]["result"] == "'accepted'"


def test_a_task_that_fails_is_told_as_failed_with_no_text_but_our_own(shelf: Shelf) -> None:
    onlooker = Onlooker()

    def task(_: Received) -> str:
        with failing_safely():
            raise ValueError("https://user:planted@orchestrator.example")

    mine = inbox(shelf, task, onlooker)
    put(shelf, "lane.0", "a-job")
    put(shelf, "lane.0", "another-job")
    assert mine.run_next()
    assert mine.run_next()
    assert onlooker.types == ["task-received", "task-started", "task-failed"] * 2
    assert onlooker.seen[2][1]["exception"] == repr(DispatchFailed("ValueError"))
    assert "planted" not in str(onlooker.seen)


@pytest.mark.parametrize("sent", [b"", b"no JSON", b"[]", b'{"body": "W10=", "headers": {}}'])
def test_a_message_that_is_not_ours_is_dropped_and_the_next_one_done(
    sent: bytes, shelf: Shelf
) -> None:
    onlooker = Onlooker()
    mine = inbox(shelf, lambda _: "accepted", onlooker)
    shelf.redis.lpush("lane.0", sent)
    put(shelf, "lane.0", "of-no-known-task", task="celery.backend_cleanup")
    put(shelf, "lane.0", "a-job")
    assert [mine.run_next() for _ in range(4)] == [True, True, True, False]
    assert {fields["uuid"] for _, fields in onlooker.seen} == {"run-a-job"}


def test_the_work_is_done_also_where_nobody_can_be_told(shelf: Shelf) -> None:
    done: list[str] = []

    def tell_nobody(*_: Any, **__: Any) -> None:
        raise ConnectionError

    def task(received: Received) -> str:
        done.append(received.task_id)
        return "accepted"

    put(shelf, "lane.0", "a-job")
    queues = Queues(shelf.link, QUEUES)
    assert Inbox(queues, {message.DISPATCH_TASK: task}, tell_nobody).run_next()
    assert done == ["run-a-job"]


def test_without_the_store_there_is_nothing_to_do(redis_server: RedisServer) -> None:
    nowhere = Queues(make_link("redis://127.0.0.1:1/0"), QUEUES)
    assert not Inbox(nowhere, {}, Onlooker().send).run_next()


def test_a_queue_that_cannot_be_read_stops_nobody(shelf: Shelf) -> None:
    shelf.redis.set("lane.0", "no list")
    assert not inbox(shelf, lambda _: "accepted", Onlooker()).run_next()
