"""`TAKEONE_RETENTION_DAYS`: web and worker set and remove the expiration of jobs at rest."""

from collections.abc import Iterator

import pytest

from devstack.stack import Stack
from devstack.waiting import wait_until
from store import keys
from tests.conftest import NewStack
from tests.support.client import ApiClient
from tests.support.job_handle import JobHandle

DAY = 86_400


@pytest.fixture(scope="module")
def service(new_stack: NewStack) -> Iterator[Stack]:
    with new_stack(TAKEONE_RETENTION_DAYS="1") as running:
        yield running


def ttl(stack: Stack, job_id: str) -> int:
    """The seconds until the job expires; -1: never, -2: it is gone."""
    with stack.redis.client() as client:
        return int(client.ttl(keys.job(job_id)))


def test_a_job_at_rest_expires_and_a_retry_keeps_it(service: Stack, handle: JobHandle) -> None:
    job, editor = handle, handle.client
    assert editor.run(job.id).status_code == 202
    assert ttl(service, job.id) == -1
    job.reported("FAILED")
    assert DAY - 60 < ttl(service, job.id) <= DAY
    assert job.retry("again").status_code == 202
    assert ttl(service, job.id) == -1
    job.reported("FAILED")
    with service.redis.client() as client:
        for name in client.scan_iter(f"*{job.id}}}:*"):
            client.pexpire(name, 1)
    wait_until(lambda: editor.job(job.id).status_code == 404, 5, "the job is gone")
    assert editor.run(job.id).status_code == 404
    assert job.retry("once more").status_code == 404
    assert job.report("AUDIO_READY").status_code == 404
    assert editor.delete_job(job.id).status_code == 404
    assert ttl(service, job.id) == -2


def test_a_worker_sets_missing_expirations_and_unlists_expired_jobs(
    service: Stack, callback_secret: str
) -> None:
    bob = ApiClient(service.api_url, "bob")
    job = JobHandle.uploaded(bob, callback_secret)
    assert bob.cancel(job.id).status_code == 200
    name = keys.user_jobs("bob")
    with service.redis.client() as client:
        client.persist(keys.job(job.id))
        gone, old = f"{1:016d}an-id-that-is-gone", f"{1:016d}{job.id}"
        client.zadd(name, {gone: 0, old: 0})
        wait_until(
            lambda: client.zscore(name, gone) is None, 20, "a worker removes it from the list"
        )
        wait_until(lambda: client.ttl(keys.job(job.id)) > 0, 20, "a worker sets its expiration")
