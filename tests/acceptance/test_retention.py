"""`TAKEONE_RETENTION_DAYS`, over the service's own processes: each of them sets and takes the time to live."""

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
def keeping(new_stack: NewStack) -> Iterator[Stack]:
    with new_stack(TAKEONE_RETENTION_DAYS="1") as running:
        yield running


def ttl(stack: Stack, job_id: str) -> int:
    """How long the job is kept yet, in seconds; -1: for ever, -2: it is gone."""
    with stack.redis.client() as client:
        return int(client.ttl(keys.job(job_id)))


def test_a_job_at_rest_expires_and_a_retry_keeps_it(keeping: Stack, callback_secret: str) -> None:
    alice = ApiClient(keeping.api_url, "alice")
    job = JobHandle.uploaded(alice, callback_secret)
    assert alice.run(job.id).status_code == 202
    assert ttl(keeping, job.id) == -1
    job.reported("FAILED")
    assert DAY - 60 < ttl(keeping, job.id) <= DAY
    assert job.retry("again").status_code == 202
    assert ttl(keeping, job.id) == -1
    job.reported("FAILED")
    with keeping.redis.client() as client:
        for name in client.scan_iter(f"*{job.id}}}:*"):
            client.pexpire(name, 1)
    wait_until(lambda: alice.job(job.id).status_code == 404, 5, "the job is gone")
    assert alice.run(job.id).status_code == 404
    assert job.retry("once more").status_code == 404
    assert job.report("AUDIO_READY").status_code == 404
    assert alice.delete_job(job.id).status_code == 404
    assert ttl(keeping, job.id) == -2


def test_a_worker_sets_missing_expirations_and_unlists_expired_jobs(
    keeping: Stack, callback_secret: str
) -> None:
    bob = ApiClient(keeping.api_url, "bob")
    job = JobHandle.uploaded(bob, callback_secret)
    assert bob.cancel(job.id).status_code == 200
    name = keys.user_jobs("bob")
    with keeping.redis.client() as client:
        client.persist(keys.job(job.id))
        gone, old = f"{1:016d}an-id-that-is-gone", f"{1:016d}{job.id}"
        client.zadd(name, {gone: 0, old: 0})
        wait_until(lambda: client.zscore(name, gone) is None, 20, "a worker took it off")
        wait_until(lambda: client.ttl(keys.job(job.id)) > 0, 20, "a worker gave it its time")
