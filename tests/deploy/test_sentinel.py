"""The master of a Redis under sentinels is killed under load, and the service goes on by itself.

What a failover can lose is what the master had acknowledged and not yet replicated: docs/production.md.
So a job or a dispatch of the last moment may be gone, which these tests allow and count; one that is
stuck, or an orchestrator that is asked to begin a second execution, they do not.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
import requests

from devstack.ports import free_port
from devstack.stack import Stack
from devstack.waiting import wait_until
from store import keys
from tests.conftest import NewStack
from tests.support.behaviours import accept
from tests.support.client import ApiClient
from tests.support.flower import wait_until_connected
from tests.support.orchestrator import StubOrchestrator
from tests.support.sentinels import MASTER, SentinelRedis

EDITORS = 6
PASSWORD = "planted-redis-password"
FLOWER_USER = ("ops", "planted-flower-password")
# The sentinels wait 0.8 s before they believe it, and then vote; the rest is ours.
HEALED_SECONDS = 10.0
WORKERS_SHOWN_SECONDS = 60.0
ALL_ANSWERED_SECONDS = 15.0
LAST_MOMENT_SECONDS = 1.0


@dataclass
class Story:
    """What became of one job."""

    job_id: str
    answers: list[int] = field(default_factory=list)
    accepted_at: float = 0.0


class Load:
    """Editors who each make a job, press run until it is accepted, and make the next one."""

    def __init__(self, client: ApiClient) -> None:
        self.client = client
        self.stories: list[Story] = []
        self.failed_makings: set[int] = set()
        self.slowest_answer = 0.0
        self.killed_at = 0.0
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(EDITORS)

    def __enter__(self) -> "Load":
        self._editors = [self._pool.submit(self._edit) for _ in range(EDITORS)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()
        for editor in self._editors:
            editor.result()

    def accepted(self, since: float = 0.0) -> list[Story]:
        """The jobs whose dispatch was accepted since a moment."""
        return [story for story in list(self.stories) if story.accepted_at > since]

    def _edit(self) -> None:
        while not self._stop.is_set():
            try:
                story = Story(self.client.uploaded_job()["id"])
            except requests.HTTPError as error:
                self.failed_makings.add(error.response.status_code)
                self._stop.wait(0.1)
                continue
            self.stories.append(story)
            self._run(story)

    def _run(self, story: Story) -> None:
        while not story.accepted_at:
            began = time.monotonic()
            status = self.client.run(story.job_id).status_code
            self.slowest_answer = max(self.slowest_answer, time.monotonic() - began)
            story.answers.append(status)
            if status in (200, 202):
                story.accepted_at = time.monotonic()
            elif status in (502, 503) and not self._stop.is_set():
                time.sleep(0.1)  # as Retry-After asks, in short
            else:
                return


@pytest.fixture(scope="module")
def redises(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelRedis]:
    with SentinelRedis(tmp_path_factory.mktemp("sentinels"), PASSWORD) as running:
        yield running


@pytest.fixture(scope="module")
def hub() -> Iterator[StubOrchestrator]:
    with StubOrchestrator(accept(after=0.1)) as stub:  # so that posts are under way at any moment
        yield stub


@pytest.fixture(scope="module")
def service(new_stack: NewStack, redises: SentinelRedis, hub: StubOrchestrator) -> Iterator[Stack]:
    """A stack that knows its Redis through the sentinels alone, one of which is gone for good."""
    dead = f"127.0.0.1:{free_port()}"
    with new_stack(
        redis=redises.first,
        workers=2,
        flower=True,
        TAKEONE_ORCHESTRATOR_URL=hub.url,
        TAKEONE_ORCHESTRATOR_IDEMPOTENCY_SECONDS="3600",
        TAKEONE_REDIS_URL=redises.url(dead),
        TAKEONE_REDIS_SENTINEL_MASTER=MASTER,
        TAKEONE_REDIS_SENTINEL_PASSWORD=PASSWORD,
        TAKEONE_FLOWER_BASIC_AUTH=":".join(FLOWER_USER),
    ) as stack:
        yield stack


@pytest.fixture(scope="module")
def failover(redises: SentinelRedis, service: Stack) -> Load:
    """The master is killed under load; the load goes on until runs work again."""
    with Load(ApiClient(service.api_url, "alice")) as load:
        wait_until(lambda: len(load.accepted()) > 50, 10, "load before the failover")
        load.killed_at, killed_at = time.time(), time.monotonic()
        redises.first.kill()
        wait_until(
            lambda: len(load.accepted(since=killed_at + 1)) > 50, HEALED_SECONDS, "runs work again"
        )
    return load


def test_runs_work_again_by_themselves_and_nobody_waited_for_long(failover: Load) -> None:
    answers = {status for story in failover.stories for status in story.answers}
    assert 503 in answers | failover.failed_makings  # it was felt …
    assert answers <= {200, 202, 404, 502, 503}
    assert failover.failed_makings <= {404, 503}
    assert failover.slowest_answer < ALL_ANSWERED_SECONDS  # … and every call was answered


def test_no_job_is_stuck(failover: Load, service: Stack) -> None:
    client, lost = failover.client, []
    for story in failover.stories:
        answer = client.run(story.job_id)
        if answer.status_code == 404:
            lost.append(story)  # its making was acknowledged and not yet replicated
            continue
        assert answer.status_code in (200, 202), answer.text
        assert answer.json()["dispatch_id"] == f"run-{story.job_id}"
    assert len(lost) <= EDITORS


def test_each_dispatch_is_posted_once_but_for_those_of_the_last_moment(
    failover: Load, hub: StubOrchestrator
) -> None:
    posts = {story.job_id: hub.requests_for(story.job_id) for story in failover.stories}
    assert all(posts[story.job_id] for story in failover.accepted())
    again = [posted for posted in posts.values() if len(posted) > 1]
    # An editor has one job at a time, and the one before it may have been settled by a lost write.
    assert len(again) <= 2 * EDITORS
    for posted in again:
        assert len(posted) == 2
        first = posted[0].received_at
        assert (
            failover.killed_at - LAST_MOMENT_SECONDS < first < failover.killed_at + HEALED_SECONDS
        )
        # The orchestrator can tell that it is the same dispatch.
        assert posted[0].dispatch_id == posted[1].dispatch_id


def test_nothing_is_left_in_flight(failover: Load, redises: SentinelRedis, service: Stack) -> None:
    with redises.second.client() as client:
        assert client.info("replication")["role"] == "master"
        wait_until(lambda: client.zcard(keys.IN_FLIGHT) == 0, 10, "no claim is in flight")
        assert client.zcard(keys.UNKNOWN) == 0


def test_flower_follows_the_master_and_no_password_is_on_its_pages(
    failover: Load, service: Stack
) -> None:
    assert service.flower
    flower = service.flower.url
    wait_until_connected(failover.client, lambda task: look(f"{flower}/api/task/info/{task}").ok)
    workers = wait_until(
        lambda: look(f"{flower}/api/workers?refresh=1").json(), WORKERS_SHOWN_SECONDS, "the workers"
    )
    pages = [look(f"{flower}/worker/{name}").text for name in workers]
    assert "Worker details" in pages[0]
    assert PASSWORD not in str(workers) + "".join(pages) + look(f"{flower}/broker").text


def look(address: str) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(address, auth=FLOWER_USER, timeout=10)


def test_no_log_tells_a_password(failover: Load, service: Stack) -> None:
    logs = "".join(process.log() for process in service.processes)
    assert PASSWORD not in logs
