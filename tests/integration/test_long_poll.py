"""What long polls read, and how they end with their process."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest

from devstack.waiting import wait_until
from domain.record import Record
from services.run_and_wait import RunAndWait
from services.wait_slots import WaitSlots
from store import keys
from store.lists import Page
from store.notifier import Notifier
from store.write_limit import WriteLimit
from tests.support.stores import NOW, POLICY, Shelf


def test_a_stopping_process_answers_its_long_polls_without_another_notification(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.run_and_wait._REREAD_SECONDS", 60)
    notifier, writes = Notifier(shelf.client), WriteLimit("", shelf.client)
    runs = RunAndWait(shelf.jobs, notifier, POLICY, WaitSlots(4), writes, lambda: NOW)
    reads: list[None] = []

    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(runs.long_poll, "topic", "alice", lambda: reads.append(None), bool, 50)
        # The first read, and the one after the subscription has been confirmed.
        wait_until(lambda: len(reads) == 2, 10, "it waits")
        runs.end_long_polls()
        assert poll.result(10) is None


def test_jobs_that_do_not_fit_are_not_examined_again_at_each_change(shelf: Shelf) -> None:
    """64 such long polls of one user with 950 jobs kept a whole process busy."""
    notifier, writes = Notifier(shelf.client), WriteLimit("", shelf.client)
    runs = RunAndWait(shelf.jobs, notifier, POLICY, WaitSlots(4), writes, lambda: NOW)
    reads: list[datetime] = []

    def read(after: datetime) -> Page[Record]:
        reads.append(after)
        return Page([], None)

    def is_read_again() -> bool:
        shelf.client.publish(keys.changes_channel(shelf.client), keys.user_changes("alice"))
        return len(reads) >= 5

    yesterday = NOW - timedelta(days=1)
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(runs.wait_for_jobs, "alice", read, yesterday, 50)
        wait_until(is_read_again, 10, "it is read at each change")
        runs.end_long_polls()
        assert poll.result(10).items == []
    assert reads[0] == yesterday
    assert set(reads[1:]) == {NOW - timedelta(seconds=10)}
