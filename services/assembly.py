"""The use cases and what they work on, built once per process from the settings. Connects to nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from redis import Redis

from domain.claim import DispatchPolicy
from orchestrators.registry import dispatch_policy
from services.erasure import Erasure
from services.operations import Operations
from services.run_and_wait import RunAndWait
from services.wait_slots import WaitSlots
from settings import Settings
from store.client import make_client
from store.idempotency import IdempotencyKeys
from store.jobs import JobStore, Outbox
from store.notifier import Notifier
from store.projects import ProjectStore
from store.views import JobViews
from store.write_limit import WriteLimit


@dataclass(frozen=True, slots=True)
class Services:
    settings: Settings
    redis: Redis
    jobs: JobStore
    projects: ProjectStore
    idempotency_keys: IdempotencyKeys
    run_and_wait: RunAndWait
    operations: Operations
    erasure: Erasure
    writes: WriteLimit
    policy: DispatchPolicy
    now: Callable[[], datetime]


def utc_now() -> datetime:
    """The clock of a process; rules are given what it says."""
    return datetime.now(UTC)


def make_services(settings: Settings, outbox: Outbox) -> Services:
    """Put them together. `outbox` is how a committed task reaches a worker."""
    redis = make_client(settings)
    jobs = JobStore(redis, outbox, settings.retention)
    projects, policy = ProjectStore(redis), dispatch_policy(settings)
    idempotency_keys = IdempotencyKeys(redis, settings.idempotency_key_seconds)
    slots, writes = WaitSlots(settings.web_wait_slots), WriteLimit(settings.write_limit, redis)
    runs = RunAndWait(jobs, Notifier(redis), policy, slots, writes, utc_now)
    views, wait_seconds = JobViews(redis, projects.load_jobs), settings.run_wait_seconds
    return Services(
        settings=settings,
        redis=redis,
        jobs=jobs,
        projects=projects,
        idempotency_keys=idempotency_keys,
        run_and_wait=runs,
        operations=Operations(jobs, projects, views, runs, wait_seconds, policy, utc_now),
        erasure=Erasure(jobs, projects, idempotency_keys, policy, utc_now),
        writes=writes,
        policy=policy,
        now=utc_now,
    )
