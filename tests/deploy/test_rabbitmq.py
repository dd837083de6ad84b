"""RabbitMQ as the broker, where it differs from Redis. `pytest --broker amqp` runs other tests on it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
from celery import Celery
from kombu import Connection, Queue

from devstack.stack import Stack
from devstack.waiting import wait_until
from domain.record import TaskKind
from settings import Settings
from tasks import message
from tasks.queues import broker_answers, queue_names
from tests.acceptance import stored
from tests.conftest import NewStack
from tests.support.certificates import Authority
from tests.support.client import ApiClient
from tests.support.orchestrator import StubOrchestrator
from tests.support.rabbitmq import INSTALL_HINT, PROGRAM, RabbitMq
from tests.support.tcp_proxy import TcpProxy

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=INSTALL_HINT)

# Without a broker, a caller gets an error within this time.
ANSWERED_SECONDS = 3.0
# A broker that blocks publishers accepts connections, so both tries wait for it, and for the end of theirs.
BLOCKED_SECONDS = 5.0
HEALED_SECONDS = 10.0


@dataclass
class Deployment:
    """A stack whose connections to RabbitMQ all go through a proxy."""

    rabbitmq: RabbitMq
    proxy: TcpProxy
    stack: Stack
    client: ApiClient


@pytest.fixture(scope="module")
def deployment(
    new_stack: NewStack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    with (
        RabbitMq(tmp_path_factory.mktemp("rabbitmq")) as rabbitmq,
        TcpProxy(int(rabbitmq.port or 0)) as proxy,
        new_stack(workers=2, TAKEONE_BROKER_URL=rabbitmq.broker_url(proxy.port)) as stack,
    ):
        yield Deployment(rabbitmq, proxy, stack, ApiClient(stack.api_url, "alice"))


@pytest.fixture
def proxy(deployment: Deployment) -> Iterator[TcpProxy]:
    """The proxy to the broker, restored after the test."""
    yield deployment.proxy
    deployment.proxy.restore()


def test_a_dispatch_is_sent_once_by_way_of_rabbitmq(
    deployment: Deployment, orchestrator: StubOrchestrator
) -> None:
    job_id = deployment.client.uploaded_job()["id"]
    assert deployment.client.run(job_id).status_code == 202
    assert deployment.client.run(job_id).status_code == 200
    assert len(orchestrator.requests_for(job_id)) == 1
    with deployment.stack.redis.client() as client:
        assert client.keys("takeone:broker:*") == []


def test_a_message_of_a_later_format_is_discarded_and_its_claim_unchanged(
    deployment: Deployment, orchestrator: StubOrchestrator
) -> None:
    job_id = deployment.client.uploaded_job()["id"]
    arguments = (job_id, f"run-{job_id}", 1)
    url = deployment.stack.settings["TAKEONE_BROKER_URL"]
    with Celery("later", broker=url, set_as_current=False) as later:
        later.send_task(
            message.task_name(TaskKind.DISPATCH),
            args=arguments,
            task_id=f"run-{job_id}",
            queue="takeone.dispatch.3",
            headers={message.FORM_HEADER: message.FORM + 1},
        )
    logs = [worker.log for worker in deployment.stack.workers]
    wait_until(lambda: any("message.discarded" in log() for log in logs), 10, "it is discarded")
    assert orchestrator.requests_for(job_id) == []
    assert deployment.client.run(job_id).status_code == 202
    assert len(orchestrator.requests_for(job_id)) == 1


def test_two_workers_run_on_one_host(deployment: Deployment) -> None:
    # A worker's name is an exclusive queue: with one name for both, the second would not start.
    assert all(worker.is_running for worker in deployment.stack.workers)


def test_queues_are_durable_and_empty_when_all_work_is_done(deployment: Deployment) -> None:
    with Connection(deployment.stack.settings["TAKEONE_BROKER_URL"]) as connection:
        channel = connection.channel()
        # RabbitMQ refuses a declaration that differs from the existing queue.
        Queue("takeone.dispatch.3", durable=True, channel=channel).queue_declare()
        for queue in queue_names(Settings(env="development")):
            assert channel.queue_declare(queue, passive=True).message_count == 0, queue


@pytest.mark.parametrize("fault", ["refuse", "stall"])
def test_without_the_broker_a_run_is_answered_soon_and_makes_no_claim(
    fault: str, deployment: Deployment, proxy: TcpProxy
) -> None:
    jobs = [deployment.client.uploaded_job()["id"] for _ in range(3)]
    getattr(proxy, fault)()
    for job_id in jobs:
        began = time.monotonic()
        assert deployment.client.run(job_id).status_code == 503
        assert time.monotonic() - began < ANSWERED_SECONDS
        assert stored.claim(deployment.stack.redis, job_id) is None
        assert deployment.client.job(job_id).json()["status"] == "UPLOADED"
    proxy.restore()
    for job_id in jobs:
        wait_until(
            lambda job_id=job_id: runs(deployment, job_id), HEALED_SECONDS, "runs work again"
        )


def test_while_publishers_are_blocked_a_run_is_answered_soon_and_makes_no_claim(
    deployment: Deployment, orchestrator: StubOrchestrator
) -> None:
    job_id = deployment.client.uploaded_job()["id"]
    deployment.rabbitmq.block_publishers(is_blocked=True)
    try:
        answer = deployment.client.run(job_id)
        assert answer.status_code == 503
        assert answer.elapsed.total_seconds() < BLOCKED_SECONDS
        assert stored.claim(deployment.stack.redis, job_id) is None
    finally:
        deployment.rabbitmq.block_publishers(is_blocked=False)
    wait_until(lambda: runs(deployment, job_id), HEALED_SECONDS, "runs work again")
    assert len(orchestrator.requests_for(job_id)) == 1


def test_a_connection_that_breaks_while_idle_fails_no_caller(
    deployment: Deployment, proxy: TcpProxy
) -> None:
    assert runs(deployment, deployment.client.uploaded_job()["id"])
    proxy.cut()
    wait_until(lambda: reconnected(deployment), HEALED_SECONDS, "the workers have reconnected")
    answers = [
        deployment.client.run(deployment.client.uploaded_job()["id"]).status_code for _ in range(3)
    ]
    assert answers == [202] * 3


def test_amqps_verifies_the_brokers_certificate(
    deployment: Deployment, tmp_path_factory: pytest.TempPathFactory
) -> None:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    other_authority = Authority(tmp_path_factory.mktemp("other"))
    port = int(deployment.rabbitmq.port or 0)
    with (
        TcpProxy(port, authority.server_context()) as secure,
        TcpProxy(port, authority.server_context("127.0.0.9")) as of_another_name,
    ):
        assert answers_over_tls(deployment, secure, authority)
        assert not answers_over_tls(deployment, secure, other_authority)
        assert not answers_over_tls(deployment, of_another_name, authority)


def answers_over_tls(deployment: Deployment, proxy: TcpProxy, trusted: Authority) -> bool:
    plain = urlsplit(deployment.stack.settings["TAKEONE_BROKER_URL"])
    url = f"amqps://guest:guest@127.0.0.1:{proxy.port}{plain.path}"
    return broker_answers(Settings(env="development", broker_url=url, ca_file=str(trusted.ca_file)))


def runs(deployment: Deployment, job_id: str) -> bool:
    return deployment.client.run(job_id).status_code in (200, 202)


def reconnected(deployment: Deployment) -> bool:
    return all(worker.log().count("Connected to amqp") > 1 for worker in deployment.stack.workers)
