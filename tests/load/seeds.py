"""Jobs in UPLOADED, put into the store by its own code: making them is not what is measured."""

from datetime import UTC, datetime
from uuid import uuid4

from demo.stack import Stack
from domain.lifecycle import confirm_upload, create_job
from domain.models import Project
from store.connecting import connection_factory
from store.jobs import JobStore
from store.link import Link
from store.projects import ProjectStore
from tasks.outbox import RidingOutbox


def uploaded_jobs(stack: Stack, owner: str, number: int) -> list[str]:
    """Make this many jobs of one user; return their ids."""
    link = Link(connection_factory(stack.redis.url, 5), 1, 5)
    jobs = JobStore(link, RidingOutbox(["unused"]))
    projects = ProjectStore(link, jobs)
    now = datetime.now(UTC)
    project = Project(id=str(uuid4()), name="Load", owner=owner, created_at=now)
    projects.create(project)
    ids = [str(uuid4()) for _ in range(number)]
    for job_id in ids:
        born = create_job(job_id, project.id, owner, now, None)
        uploaded = confirm_upload(born.record, "s3://studio/load.mp4", now, None).change
        assert uploaded is not None
        projects.add_job(uploaded)
    link.close()
    return ids
