"""What long polls read, and how they end with their process."""

import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from devstack.waiting import wait_until
from services.run_and_wait import RunAndWait
from services.wait_slots import WaitSlots
from store import keys
from store.notifier import Notifier
from store.write_limit import WriteLimit
from tests.support.stores import NOW, POLICY, Database, client_of
from tests.support.tcp_proxy import TcpProxy


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


def test_a_silent_connection_for_notifications_is_replaced(database: Database) -> None:
    """A Redis that hangs or has lost its network ends no connection, and another one may serve by now."""
    address = urlsplit(database.url)
    with TcpProxy(int(address.port or 0)) as proxy:
        notifier = Notifier(client_of(f"redis://127.0.0.1:{proxy.port}{address.path}"))
        with notifier.subscribe("topic") as subscription:
            assert subscription.wait(10), "it is subscribed"
            proxy.forget()
            subscription.clear()
            assert subscription.wait(20), "it is subscribed again"
            subscription.clear()
            database.client.publish(keys.changes_channel(database.client), "topic")
            assert subscription.wait(1), "it is notified"


def test_no_waiter_is_woken_while_nothing_changes(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.notifier._SILENT_SECONDS", 0.1)
    with Notifier(database.client).subscribe("topic") as subscription:
        assert subscription.wait(10), "it is subscribed"
        subscription.clear()
        pings = lambda: database.redis.info("commandstats").get("cmdstat_ping", {}).get("calls", 0)  # noqa: E731
        before = pings()
        wait_until(lambda: pings() > before + 5, 10, "the connection is silent for some time")
        assert not subscription.is_set()
