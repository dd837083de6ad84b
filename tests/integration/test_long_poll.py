"""What long polls read, and how they end with their process."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from devstack.waiting import wait_until
from services.run_and_wait import RunAndWait
from services.wait_slots import WaitSlots
from store import keys
from store.notifier import Notifier
from store.write_limit import WriteLimit
from tests.support.stores import NOW, POLICY, Database


def test_a_stopping_process_answers_its_long_polls_without_another_notification(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.run_and_wait._REREAD_SECONDS", 60)
    notifier, writes = Notifier(database.client), WriteLimit("", database.client)
    runs = RunAndWait(database.jobs, notifier, POLICY, WaitSlots(4), writes, lambda: NOW)
    reads: list[None] = []

    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(runs.long_poll, "topic", "alice", lambda: reads.append(None), bool, 50)
        # The first read, and the one after the subscription has been confirmed.
        wait_until(lambda: len(reads) == 2, 10, "it waits")
        runs.end_long_polls()
        assert poll.result(10) is None


def test_a_long_poll_reads_for_a_small_part_of_its_time(database: Database) -> None:
    """64 that looked for what none of 200 jobs was, while these changed, kept a whole process busy."""
    notifier, writes = Notifier(database.client), WriteLimit("", database.client)
    runs = RunAndWait(database.jobs, notifier, POLICY, WaitSlots(4), writes, lambda: NOW)
    spent: list[float] = []

    def read() -> None:
        began = time.monotonic()
        time.sleep(0.02)
        spent.append(time.monotonic() - began)

    def is_read_again() -> bool:
        database.client.publish(keys.changes_channel(database.client), "topic")
        return len(spent) >= 6

    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        poll = pool.submit(runs.long_poll, "topic", "alice", read, bool, 50)
        wait_until(is_read_again, 30, "it is read at each change")
        assert sum(spent) < (time.monotonic() - began) / 10
        runs.end_long_polls()
        assert poll.result(10) is None
