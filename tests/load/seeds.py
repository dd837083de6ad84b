"""Jobs that are written directly into the store, since creating them is not what is measured."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from devstack.stack import Stack
from domain.job import Project
from domain.lifecycle import confirm_upload, create_job
from domain.record import Change
from store import codec, keys, lists
from store.jobs import JobStore
from store.projects import ProjectStore
from tasks.outbox import TransactionalOutbox
from tests.support.stores import POLICY, client_of


def uploaded_jobs(stack: Stack, user: str, number: int) -> list[str]:
    """Store `number` jobs of a user in UPLOADED; return their ids."""
    with client_of(stack.redis.url, timeout_seconds=5) as client:
        jobs, projects = JobStore(client, TransactionalOutbox(["unused"])), ProjectStore(client)
        now = datetime.now(UTC)
        project = Project(id=str(uuid4()), name="Load", owner=user, created_at=now)
        projects.create(project)
        return [_uploaded(jobs, project, now) for _ in range(number)]


def listed_jobs(stack: Stack, user: str, number: int) -> str:
    """Store `number` new jobs of a user, a millisecond apart; return the id of their project.

    Writes what the store would write, except the trail, in pipelines: 100,000 jobs take seconds.
    """
    began = datetime.now(UTC) - timedelta(milliseconds=number)
    with client_of(stack.redis.url, timeout_seconds=30) as client:
        project = Project(id=str(uuid4()), name="Load", owner=user, created_at=began)
        ProjectStore(client).create(project)
        job = create_job("", project.id, user, began, None).record.job
        for batch in batched(range(number), 1_000):
            pipeline = client.pipeline(transaction=False)
            for nth in batch:
                now = began + timedelta(milliseconds=nth)
                fields = {"id": str(uuid4()), "created_at": now, "updated_at": now}
                copy = job.model_copy(update=fields)
                pipeline.set(keys.job(copy.id), codec.dump(copy))
                for name, member in lists.lists_of_job(copy).items():
                    pipeline.zadd(name, {member: 0})
            pipeline.execute()
        return project.id


def batched(numbers: range, size: int) -> Iterator[range]:
    """Yield the numbers in batches; the last may be smaller."""
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


def _uploaded(jobs: JobStore, project: Project, now: datetime) -> str:
    job_id = str(uuid4())
    jobs.create(create_job(job_id, project.id, project.owner, now, None))
    jobs.update(job_id, lambda record: confirm_upload(Change(record, now, POLICY), "s3://video"))
    return job_id
