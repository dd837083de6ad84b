"""Flower shows the outcome of each dispatch as the state of a task with the dispatch's id."""

import os
from pathlib import Path

import psutil
import pytest

from devstack.stack import Stack
from devstack.waiting import wait_until
from domain.claim import FencingToken
from domain.record import TaskKind
from store import keys
from tasks import message
from tasks.queues import KEY_PREFIX
from tests.flower.conftest import PLANTED, Flower
from tests.support.client import ApiClient


def test_an_accepted_dispatch_is_shown_as_succeeded(
    flower: Flower, dispatches: dict[str, str]
) -> None:
    task = flower.wait_for(dispatches["accepted"], "SUCCESS")
    assert task["name"] == "takeone.dispatch"
    assert task["result"] == "'accepted'"
    assert task["exception"] is None


@pytest.mark.parametrize(
    ("outcome", "reason"), [("refused", "refused"), ("unknown", "outcome_unknown")]
)
def test_a_failed_dispatch_is_shown_with_its_reason(
    outcome: str, reason: str, flower: Flower, dispatches: dict[str, str]
) -> None:
    task = flower.wait_for(dispatches[outcome], "FAILURE")
    assert task["exception"] == f"DispatchFailed('{reason}')"
    assert task["traceback"].strip().endswith(f"DispatchFailed: {reason}")


def test_flower_notices_within_a_minute_that_the_host_of_the_broker_is_gone(
    flower: Flower, stack: Stack
) -> None:
    """It only listens: nothing but the kernel's probes can tell, which begin when these timers end."""
    connections = psutil.Process(flower.process.pid).net_connections("tcp4")
    own = {f":{item.laddr.port:04X}" for item in connections if item.status == "ESTABLISHED"}

    def are_soon_probed() -> bool:
        timers = []
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, remote, _, _, timer, *_ = line.split()
            if local[-5:] in own and remote.endswith(f":{stack.redis.port:04X}"):
                kind, _, ticks = timer.partition(":")
                timers.append((kind, int(ticks, 16) / os.sysconf("SC_CLK_TCK")))
        # 02: nothing is being sent, and the time is that until the next probe.
        return bool(timers) and all(kind == "02" and seconds <= 30 for kind, seconds in timers)

    wait_until(are_soon_probed, 10, "all connections to the broker are probed soon")


def test_the_shown_arguments_are_ids_only(flower: Flower, dispatches: dict[str, str]) -> None:
    for dispatch_id in dispatches.values():
        task = flower.task(dispatch_id)
        job_id = dispatch_id.removeprefix("run-")
        assert task["args"] == str((job_id, dispatch_id, 1))
        assert task["kwargs"] == "{}"


def test_a_late_message_is_shown_as_nothing_to_do(
    flower: Flower, stack: Stack, job_id: str
) -> None:
    send(stack, FencingToken(job_id, f"run-{job_id}", 7), f"late-{job_id}")
    assert flower.wait_for(f"late-{job_id}", "SUCCESS")["result"] == "'nothing_to_do'"


def test_a_task_that_fails_on_an_unreadable_record_shows_nothing_of_it(
    flower: Flower, stack: Stack, alice: ApiClient
) -> None:
    job_id = alice.uploaded_job()["id"]
    with stack.redis.client() as client:
        client.set(keys.job(job_id), f'{{"id": "{job_id}", "status": "{PLANTED["record"]}"}}')
    send(stack, FencingToken(job_id, f"run-{job_id}", 1), f"broken-{job_id}")
    task = flower.wait_for(f"broken-{job_id}", "FAILURE")
    assert task["exception"] == "DispatchFailed('RecordUnreadable')"
    assert PLANTED["record"] not in str(task)
    assert PLANTED["record"] not in stack.workers[0].log()


def send(stack: Stack, token: FencingToken, task_id: str) -> None:
    """Send the worker a message without a claim."""
    queue = "takeone.dispatch.0"
    with stack.redis.client() as client:
        client.lpush(KEY_PREFIX + queue, message.encode(TaskKind.DISPATCH, task_id, token, queue))
