"""Jobs that are put into the store by its own code: making them is not what is measured."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from devstack.stack import Stack
from domain.job import Project
from domain.lifecycle import confirm_upload, create_job
from store import codec, keys, lists
from store.jobs import JobStore
from store.projects import ProjectStore
from tasks.outbox import TransactionalOutbox
from tests.support.stores import client_of


def uploaded_jobs(stack: Stack, user: str, number: int) -> list[str]:
    """Put in this many jobs of a user, and return their ids."""
    with client_of(stack.redis.url, timeout_seconds=5) as client:
        jobs, projects = JobStore(client, TransactionalOutbox(["unused"])), ProjectStore(client)
        now = datetime.now(UTC)
        project = Project(id=str(uuid4()), name="Load", owner=user, created_at=now)
        projects.create(project)
        return [_uploaded(jobs, project, now) for _ in range(number)]


def listed_jobs(stack: Stack, user: str, number: int) -> str:
    """Put in this many new jobs of a user, a millisecond apart; return the id of their project.

    What the store writes for each, but for the trail, in pipelines: hundreds of thousands take seconds.
    """
    began = datetime.now(UTC) - timedelta(milliseconds=number)
    with client_of(stack.redis.url, timeout_seconds=30) as client:
        project = Project(id=str(uuid4()), name="Load", owner=user, created_at=began)
        ProjectStore(client).create(project)
        job = create_job("", project.id, user, began, None).record.job
        for batch in batched(range(number), 1_000):
            pipeline = client.pipeline(transaction=False)
            for each in batch:
                now = began + timedelta(milliseconds=each)
                fields = {"id": str(uuid4()), "created_at": now, "updated_at": now}
                one = job.model_copy(update=fields)
                pipeline.set(keys.job(one.id), codec.dump_job(one))
                for name, place in lists.lists_of_job(one).items():
                    pipeline.zadd(name, {place: 0})
            pipeline.execute()
        return project.id


def batched(numbers: range, size: int) -> Iterator[range]:
    """The numbers in batches of this size; the last may be smaller."""
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


def _uploaded(jobs: JobStore, project: Project, now: datetime) -> str:
    job_id = str(uuid4())
    jobs.create(create_job(job_id, project.id, project.owner, now, None))
    jobs.update(job_id, lambda record: confirm_upload(record, "s3://video", now, None))
    return job_id
