"""Workers that are killed, paused and stopped or lose the store; messages that are doubled and lost."""

import json
import os
import signal
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY
from redis.client import PubSub

from devstack.processes import Process
from devstack.stack import Stack
from devstack.waiting import wait_until
from domain.audit import EventType
from domain.claim import ClaimEvent, Phase, RunState
from domain.lifecycle import cancel, edit
from domain.reconcile import ask_by_operator
from domain.record import Change, Record
from orchestrators.base import Request
from orchestrators.client import OrchestratorClient
from orchestrators.engine import Engine
from orchestrators.restate import Restate
from orchestrators.signatures import Signer
from orchestrators.webhook import Webhook
from services.assembly import utc_now
from settings import Settings
from store.errors import StoreUnavailable
from store.jobs import JobStore
from tasks.circuit_breaker import CircuitBreaker
from tasks.dispatch import Dispatcher, DispatchFailed
from tasks.outbox import TransactionalOutbox
from tasks.queues import KEY_PREFIX
from tests.conftest import NewStack
from tests.support.behaviours import accept, hang, refuse
from tests.support.client import ApiClient
from tests.support.job_handle import JobHandle
from tests.support.orchestrator import StubOrchestrator
from tests.support.stores import POLICY, QUEUES, Database, client_of, seconds
from tests.support.tcp_proxy import TcpProxy

ASYNC = {"headers": {"Prefer": "respond-async"}}
SOON = 15.0
TIMEOUT_SECONDS = 0.3


class Deployment:
    """A stack whose workers the tests start and stop, and its orchestrator."""

    def __init__(self, stack: Stack, proxy: TcpProxy, stub: StubOrchestrator, secret: str) -> None:
        self.stack, self.proxy, self.stub, self.secret = stack, proxy, stub, secret
        self.client = ApiClient(stack.api_url, "alice")
        self.redis = stack.redis.client()

    @property
    def workers(self) -> list[Process]:
        """Two equal workers; the store of the first, not its broker, is behind the proxy."""
        return self.stack.workers

    def start(self, number: int = 1) -> Process:
        """Start a worker and wait until it takes messages."""
        self.workers[number].start()
        self.stack.wait_for(self.workers[number])
        return self.workers[number]

    def job(self) -> JobHandle:
        """A job in UPLOADED."""
        return JobHandle.uploaded(self.client, self.secret)

    def run(self, job: JobHandle) -> None:
        """Run a job without waiting for the outcome."""
        assert self.client.run(job.id, **ASYNC).status_code == 202

    def posts(self, job: JobHandle) -> int:
        """How many POSTs for the job the orchestrator has read."""
        return len(self.stub.requests_for(job.id))

    def queues(self) -> list[str]:
        """The queues that hold a message."""
        return list(self.redis.keys(f"{KEY_PREFIX}takeone.dispatch.*"))

    def wait_for_phase(self, job: JobHandle, phase: str, limit: float = SOON) -> None:
        """Wait until the job's dispatch is in a phase."""
        what = f"{phase} of {job.id}"
        wait_until(lambda: job.dispatch.get("phase") == phase, limit, what)


@pytest.fixture(scope="module")
def whole_deployment(new_stack: NewStack, callback_secret: str) -> Iterator[Deployment]:
    """One stack for all tests of this file."""
    with StubOrchestrator() as stub:
        stack = new_stack(
            workers=2,
            TAKEONE_ORCHESTRATOR_URL=stub.url,
            TAKEONE_ORCHESTRATOR_TIMEOUT_SECONDS="1",
            TAKEONE_CLAIM_LEASE_SECONDS="1",
            TAKEONE_SWEEP_INTERVAL_SECONDS="0.1",
        )
        with TcpProxy(int(stack.redis.port or 0)) as proxy:
            stack.workers[0].environment |= {
                "TAKEONE_REDIS_URL": f"redis://127.0.0.1:{proxy.port}/0",
                "TAKEONE_BROKER_URL": stack.redis.url,
            }
            with stack:
                yield Deployment(stack, proxy, stub, callback_secret)


@pytest.fixture
def deployment(whole_deployment: Deployment) -> Iterator[Deployment]:
    """The stack with no worker running, and an orchestrator that accepts."""
    whole_deployment.stub.reset_behaviour()
    whole_deployment.proxy.restore()
    for worker in whole_deployment.workers:
        worker.kill()
    yield whole_deployment
    for worker in whole_deployment.workers:
        worker.kill()


def test_sigusr1_writes_no_variables_to_the_log(deployment: Deployment) -> None:
    worker = deployment.start()
    os.kill(worker.pid, signal.SIGUSR1)
    os.kill(worker.pid, signal.SIGTERM)  # handled after it
    wait_until(lambda: not worker.is_running, SOON, "the worker ends")
    assert "Traceback" not in worker.log()
    assert "VARIABLES" not in worker.log()


def test_a_dispatch_whose_worker_died_before_sending_is_sent_by_another(
    deployment: Deployment,
) -> None:
    doomed = deployment.start(0)
    deployment.proxy.stall()
    job = deployment.job()
    deployment.run(job)
    wait_until(lambda: not deployment.queues(), SOON, "the message is popped")
    doomed.kill()
    assert job.dispatch["phase"] == "CLAIMED"
    assert deployment.posts(job) == 0
    deployment.start(1)
    deployment.wait_for_phase(job, "SENT")
    assert (deployment.posts(job), job.status) == (1, "AUDIO_EXTRACTING")
    assert job.event_types().count("dispatch.sent") == 1


def test_a_dispatch_whose_worker_died_after_sending_is_unknown_until_settled_or_rerun(
    deployment: Deployment,
) -> None:
    deployment.stub.default = hang()
    doomed = deployment.start(1)
    proved, run_again = deployment.job(), deployment.job()
    for job in (proved, run_again):
        deployment.run(job)
        deployment.stub.wait_for_requests(job.id)
    doomed.kill()
    deployment.stub.default = accept()
    deployment.start(1)
    for job in (proved, run_again):
        deployment.wait_for_phase(job, "UNKNOWN")
        assert (job.status, deployment.posts(job)) == ("UPLOADED", 1)
    held = deployment.client.run(run_again.id)
    assert held.json()["details"] == {"reason": "outcome_unknown"}
    assert deployment.posts(run_again) == 1

    proved.reported("AUDIO_READY")
    assert (proved.status, proved.dispatch["phase"]) == ("AUDIO_READY", "SENT")

    def is_let_in() -> bool:
        return deployment.client.run(run_again.id).status_code in (200, 202)

    wait_until(is_let_in, SOON, "the hold ends")
    assert [post.dispatch_id for post in deployment.stub.requests_for(run_again.id)] == [
        run_again.run_id,
        run_again.run_id,
    ]
    assert run_again.status == "AUDIO_EXTRACTING"
    assert deployment.posts(proved) == 1


def test_a_worker_paused_beyond_its_lease_does_not_affect_the_resend(
    deployment: Deployment,
) -> None:
    deployment.stub.default = hang(0.5)
    paused = deployment.start(0)
    job = deployment.job()
    deployment.run(job)
    deployment.stub.wait_for_requests(job.id)
    paused.pause()
    deployment.stub.default = accept()
    deployment.start(1)
    deployment.wait_for_phase(job, "UNKNOWN")
    wait_until(lambda: deployment.client.run(job.id).status_code < 300, SOON, "the hold ends")
    before = job.everything()
    paused.resume()
    paused.wait_until(lambda: "dispatch.lost" in paused.log(), SOON, "it reports its outcome")
    assert job.everything() == before
    assert (deployment.posts(job), job.dispatch["phase"]) == (2, "SENT")


def test_a_doubled_and_a_lost_message_are_each_posted_once(deployment: Deployment) -> None:
    lost, doubled = deployment.job(), deployment.job()
    deployment.run(lost)
    assert deployment.redis.delete(*deployment.queues()) == 1
    deployment.run(doubled)
    (queue,) = deployment.queues()
    (message,) = deployment.redis.lrange(queue, 0, -1)
    deployment.redis.lpush(queue, message, message)
    worker = deployment.start(1)
    for job in (lost, doubled):
        deployment.wait_for_phase(job, "SENT")
    worker.wait_until(
        lambda: worker.log().count("dispatch.nothing_to_do") >= 2, SOON, "the copies are handled"
    )
    assert [deployment.posts(job) for job in (lost, doubled)] == [1, 1]


def test_a_worker_finishes_its_dispatches_before_it_stops(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Celery itself takes about a second to stop: the dispatches must take longer.
    deployment.stub.default = accept(after=3)
    settings = deployment.workers[1].environment
    monkeypatch.setitem(settings, "TAKEONE_ORCHESTRATOR_TIMEOUT_SECONDS", "10")
    worker = deployment.start(1)
    jobs = [deployment.job() for _ in range(24)]
    with deployment.redis.pubsub() as events:
        events.psubscribe("*celeryev*")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(deployment.run, jobs))
        wait_until(lambda: deployment.stub.in_flight >= 5, SOON, "some are in flight")
        worker.ask_to_stop()
        wait_until(lambda: not worker.is_running, SOON, "it stops")
        ended = set(_ended(events))
    for job in jobs:
        posted = deployment.posts(job)
        assert job.dispatch["phase"] == ("SENT" if posted else "CLAIMED")
        assert (job.run_id in ended) == bool(posted), "Flower shows how each ended"
    deployment.start(0)
    for job in jobs:
        deployment.wait_for_phase(job, "SENT")
    assert [deployment.posts(job) for job in jobs] == [1] * len(jobs)


def _ended(events: PubSub) -> Iterator[str]:
    """The ids of the tasks that succeeded, of the task events received so far."""
    while received := events.get_message(timeout=0.1):
        if received["type"] == "pmessage":
            body = json.loads(b64decode(json.loads(received["data"])["body"]))
            for event in body if isinstance(body, list) else [body]:
                if event["type"] == "task-succeeded":
                    yield event["uuid"]


@pytest.fixture
def stub() -> Iterator[StubOrchestrator]:
    """An orchestrator for one test."""
    with StubOrchestrator() as running:
        yield running


def _dispatcher(
    store: JobStore, stub: StubOrchestrator, timeout_seconds: float, tries: int = 1
) -> Dispatcher:
    settings = Settings(
        env="development",
        orchestrator_timeout_seconds=timeout_seconds,
        orchestrator_connect_timeout_seconds=timeout_seconds,
        orchestrator_connect_tries=tries,
    )
    return Dispatcher(
        store,
        Engine(OrchestratorClient(settings), Webhook(stub.url, Signer(()))),
        POLICY,
        callback_base="http://127.0.0.1:1",
        breaker=CircuitBreaker(100, 1),
        now=utc_now,
    )


class SlowStore(JobStore):
    """Updates take longer than a dispatch may, as if the worker was paused after one."""

    def update(self, *arguments: Any, **options: Any) -> Any:
        decision = super().update(*arguments, **options)
        time.sleep(TIMEOUT_SECONDS + 0.1)  # simulates the pause; nothing is awaited
        return decision


class OvertakenStore(JobStore):
    """Runs `act` between the read and the write of its first update."""

    def __init__(self, database: Database, act: Callable[[], None]) -> None:
        super().__init__(database.client, TransactionalOutbox(QUEUES))
        self.acts = [act]

    def update(self, job_id: str, rule: Callable[[Record], Any], **options: Any) -> Any:
        def overtaken(record: Record) -> Any:
            if self.acts:
                self.acts.pop()()
            return rule(record)

        return super().update(job_id, overtaken, **options)


class StoreReadAgain(JobStore):
    """Runs `act` before its second read: before a second try to send, if the first one failed."""

    def __init__(self, url: str, act: Callable[[], None]) -> None:
        super().__init__(client_of(url), TransactionalOutbox(QUEUES))
        self.reads, self._act = 0, act

    def load(self, *arguments: Any, **options: Any) -> Record | None:
        self.reads += 1
        if self.reads == 2:
            self._act()
        return super().load(*arguments, **options)


class UnreliableStore(JobStore):
    """Loses its connection once for each of some phases, between the read and the write of an update."""

    def __init__(
        self, url: str, cut: Callable[[], None], restore: Callable[[], None], *phases: Phase
    ) -> None:
        super().__init__(client_of(url), TransactionalOutbox(QUEUES))
        self.cut, self.restore = cut, restore
        self.losses = 0
        self._phases = set(phases)

    def update(self, job_id: str, rule: Callable[[Record], Any], **options: Any) -> Any:
        def lost(record: Record) -> Any:
            if record.claim is not None and record.claim.phase in self._phases:
                self._phases.remove(record.claim.phase)
                self.cut()
            return rule(record)

        try:
            return super().update(job_id, lost, **options)
        except StoreUnavailable:
            self.losses += 1
            raise
        finally:
            self.restore()


@pytest.fixture
def proxy(database: Database) -> Iterator[TcpProxy]:
    """The connection between a worker and the database's server."""
    with TcpProxy(int(urlsplit(database.url).port or 0)) as running:
        yield running


def _through(proxy: TcpProxy, database: Database) -> str:
    return f"redis://127.0.0.1:{proxy.port}{urlsplit(database.url).path}"


@pytest.mark.parametrize("fault", [TcpProxy.refuse, TcpProxy.stall_answers])
def test_a_worker_that_loses_the_store_at_each_write_posts_once_and_settles(
    fault: Callable[[TcpProxy], None], database: Database, proxy: TcpProxy, stub: StubOrchestrator
) -> None:
    """The write fails, or it succeeds and its answer is lost."""
    token, url = database.run(database.uploaded()), _through(proxy, database)
    store = UnreliableStore(url, lambda: fault(proxy), proxy.restore, Phase.CLAIMED, Phase.SENDING)
    assert _dispatcher(store, stub, 2).dispatch(token) == "accepted"
    assert store.losses == 2
    assert len(stub.requests) == 1
    record = database.record(token.job_id)
    assert (database.claim(token.job_id).phase, record.job.status) == (
        Phase.SENT,
        "AUDIO_EXTRACTING",
    )
    events, *_ = database.jobs.trail(token.job_id, 0, 100)
    kinds = [event.event_type for event in events if event.dispatch_id]
    assert kinds == [EventType.CLAIMED, EventType.SENT, EventType.ACCEPTED]


def test_a_worker_that_loses_the_store_while_another_begins_does_not_post(
    database: Database, proxy: TcpProxy, stub: StubOrchestrator
) -> None:
    token, url = database.run(database.uploaded()), _through(proxy, database)

    def begin_elsewhere() -> None:
        assert database.begin(token)
        proxy.refuse()

    store = UnreliableStore(url, begin_elsewhere, proxy.restore, Phase.CLAIMED)
    assert _dispatcher(store, stub, 2).dispatch(token) == "nothing_to_do"
    assert store.losses == 1
    assert stub.requests == []


def test_a_job_that_is_cancelled_while_the_answer_to_the_intent_is_lost_is_not_started(
    database: Database, proxy: TcpProxy, stub: StubOrchestrator
) -> None:
    token, url = database.run(database.uploaded()), _through(proxy, database)

    def restore() -> None:
        proxy.restore()
        if database.record(token.job_id).job.status == "UPLOADED":
            database.jobs.update(token.job_id, lambda r: cancel(Change(r, utc_now(), POLICY)))

    store = UnreliableStore(url, proxy.stall_answers, restore, Phase.CLAIMED)
    with pytest.raises(DispatchFailed, match="not_started"):
        _dispatcher(store, stub, 5).dispatch(token)
    assert store.losses == 1
    assert stub.requests == []
    assert database.record(token.job_id).claim is None, "it is known that nothing was sent"


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_a_later_try_to_send_needs_the_claim_to_be_as_the_worker_left_it(
    database: Database, proxy: TcpProxy, stub: StubOrchestrator, is_cancelled: bool
) -> None:
    """The job is cancelled before the second try, or the store does not tell."""
    token, back = database.run(database.uploaded()), threading.Timer(0.5, proxy.restore)

    def change() -> None:
        stub.start()  # nothing but the claim keeps the worker from sending
        if is_cancelled:
            database.jobs.update(token.job_id, lambda r: cancel(Change(r, utc_now(), POLICY)))
        else:
            proxy.refuse()
            back.start()

    store = StoreReadAgain(_through(proxy, database), change)
    stub.stop()
    with pytest.raises(DispatchFailed, match="not_started"):
        _dispatcher(store, stub, 2, tries=2).dispatch(token)
    assert store.reads >= 2
    assert stub.requests == []
    assert database.record(token.job_id).claim is None


@pytest.mark.timeout(30)
def test_a_worker_without_a_store_gives_up_after_its_lease(
    database: Database, proxy: TcpProxy, stub: StubOrchestrator
) -> None:
    token, url = database.run(database.uploaded()), _through(proxy, database)
    store = UnreliableStore(url, proxy.refuse, lambda: None, Phase.SENDING)
    policy = replace(POLICY, send_lease=seconds(1))
    with pytest.raises(StoreUnavailable):
        replace(_dispatcher(store, stub, 2), policy=policy).dispatch(token)
    assert store.losses > 1
    assert len(stub.requests) == 1
    assert database.claim(token.job_id).phase is Phase.SENDING, "the sweep calls it unknown"


def test_a_worker_paused_between_its_commit_and_its_post_does_not_post(
    database: Database, stub: StubOrchestrator
) -> None:
    token = database.run(database.uploaded())
    store = SlowStore(database.client, TransactionalOutbox(QUEUES))
    with pytest.raises(DispatchFailed):
        _dispatcher(store, stub, TIMEOUT_SECONDS).dispatch(token)
    assert stub.requests == []
    assert database.record(token.job_id).claim is None


def test_a_worker_overtaken_by_a_resend_before_it_begins_does_not_post(
    database: Database, stub: StubOrchestrator
) -> None:
    token = database.run(database.uploaded())
    later = database.claim(token.job_id).claimed_at + seconds(1000)

    def send_again() -> None:
        assert database.begin(token)
        assert database.settle(token, ClaimEvent.LOST)
        database.run(token.job_id, later)

    overtaken = OvertakenStore(database, send_again)
    assert _dispatcher(overtaken, stub, 1).dispatch(token) == "nothing_to_do"
    assert overtaken.acts == []
    assert stub.requests == []
    claim = database.claim(token.job_id)
    assert (claim.phase, claim.epoch) == (Phase.CLAIMED, token.epoch + 1)
    assert _dispatcher(database.jobs, stub, 1).dispatch(replace(token, epoch=2)) == "accepted"
    assert len(stub.requests) == 1


def test_a_worker_that_has_not_seen_a_pause_puts_the_message_back(
    database: Database, stub: StubOrchestrator
) -> None:
    token, worker = database.run(database.uploaded()), _dispatcher(database.jobs, stub, 1)
    database.jobs.pauses.begin("olga", "why", utc_now())
    queued = database.messages()
    assert worker.dispatch(token) == "paused"
    assert (stub.requests, database.messages()) == ([], queued + 1)
    database.jobs.pauses.end("olga", utc_now())
    assert worker.dispatch(token) == "accepted"


class NoRequest(Webhook):
    """An adapter that fails to build a request."""

    def start(self, *_: object) -> Request:
        raise ValueError


def test_a_dispatch_that_the_adapter_cannot_build_is_not_started(
    database: Database, stub: StubOrchestrator
) -> None:
    token = database.run(database.uploaded())
    engine = Engine(
        OrchestratorClient(Settings(env="development")), NoRequest(stub.url, Signer(()))
    )
    with pytest.raises(DispatchFailed, match="not_started"):
        replace(_dispatcher(database.jobs, stub, 1), engine=engine).dispatch(token)
    assert database.record(token.job_id).claim is None


def test_a_worker_tries_again_if_the_record_keeps_changing(
    database: Database, stub: StubOrchestrator
) -> None:
    token = database.run(database.uploaded())

    def rename() -> None:
        name = {"name": str(uuid4())}
        database.jobs.update(token.job_id, lambda r: edit(Change(r, utc_now(), POLICY), name))

    store = OvertakenStore(database, rename)
    store.acts *= 150  # more than an update tries
    assert _dispatcher(store, stub, 2).dispatch(token) == "accepted"
    assert (len(stub.requests), store.acts) == (1, [])


def test_messages_that_no_claim_waits_for_do_nothing(
    database: Database, stub: StubOrchestrator
) -> None:
    worker = _dispatcher(database.jobs, stub, 1)
    deleted, token = (database.run(database.uploaded()) for _ in range(2))
    database.delete(deleted.job_id)
    for late in (deleted, replace(token, epoch=token.epoch + 1)):
        assert worker.dispatch(late) == "nothing_to_do"
        worker.tell_cancelled(late)
        assert worker.ask(late) is None
    assert stub.requests == []


def test_a_cancel_is_told_only_to_the_engine_that_has_the_dispatch(
    database: Database, stub: StubOrchestrator
) -> None:
    """Whichever worker takes the message, and however often it comes."""
    here = replace(POLICY, engine="here", can_cancel=True)
    token = database.run(database.uploaded(), policy=here)
    assert database.begin(token, policy=here)
    assert database.settle(token, ClaimEvent.ACCEPTED, policy=here)
    database.jobs.update(token.job_id, lambda r: cancel(Change(r, utc_now(), here)))
    client = OrchestratorClient(Settings(env="development"))
    engine = Engine(client, Webhook(stub.url, Signer(()), cancel_url=stub.url))
    worker = replace(_dispatcher(database.jobs, stub, 1), engine=engine, policy=here)
    for policy in (replace(here, engine="there"), replace(here, can_cancel=False)):
        replace(worker, policy=policy).tell_cancelled(token)
        assert stub.requests == []
        assert database.claim(token.job_id).cancel_due
    for _ in range(2):
        worker.tell_cancelled(token)
        assert len(stub.requests) == 1
        assert not database.claim(token.job_id).cancel_due


def test_each_answer_of_the_engine_is_counted_once(
    database: Database, stub: StubOrchestrator
) -> None:
    asking = replace(POLICY, engine="here", can_be_asked=True)
    token = database.unknown(policy=asking)
    database.jobs.update(token.job_id, lambda r: ask_by_operator(Change(r, utc_now(), asking)))
    client = OrchestratorClient(Settings(env="development"))
    engine = Engine(client, Restate(stub.url, "Take/run", "", ""))
    worker = replace(_dispatcher(database.jobs, stub, 1), engine=engine, policy=asking)
    stub.default, before = refuse(503), _asks("no_answer")
    elsewhere = replace(worker, policy=replace(asking, engine="there"))
    assert elsewhere.ask(token) is None, "another engine cannot tell"
    assert worker.ask(token) is RunState.NO_ANSWER
    assert worker.ask(token) is None, "none is awaited"
    assert (len(stub.requests), _asks("no_answer")) == (1, before + 1)


def _asks(answer: str) -> float:
    return REGISTRY.get_sample_value("takeone_asks_total", {"answer": answer}) or 0
