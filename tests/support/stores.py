"""A real store for tests that pass the time themselves: databases, jobs and steps of a dispatch."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import uuid4

from redis import Redis

from devstack.redis_server import RedisServer
from domain import claim_rules, lifecycle
from domain.claim import Claim, ClaimEvent, DispatchPolicy, FencingToken
from domain.job import Project
from domain.record import Change, Decision, Record
from domain.run import decide_run
from settings import Settings
from store.client import make_client
from store.jobs import JobStore
from store.projects import ProjectStore
from tasks.outbox import TransactionalOutbox
from tasks.queues import FOLLOW_UPS, KEY_PREFIX

NOW = datetime(2026, 1, 1, tzinfo=UTC)
QUEUES = ["queue.0", "queue.1"]
POLICY = DispatchPolicy(
    claim_lease=timedelta(seconds=15),
    send_lease=timedelta(seconds=70),
    unknown_hold=timedelta(seconds=60),
)

_databases = count(1)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def empty_database(server: RedisServer) -> str:
    """Empty one of the server's databases, in turn, and return its URL."""
    number = next(_databases) % 16
    with server.client(number) as client:
        client.flushdb()
    return server.database_url(number)


def client_of(url: str, *, size: int = 8, timeout_seconds: float = 1.0) -> Redis:
    """Return a Redis client as the service makes it, with a pool of `size`."""
    settings = Settings(
        env="development",
        redis_url=url,
        redis_timeout_seconds=timeout_seconds,
        redis_connections=size,
    )
    return make_client(settings)


class Database:
    """A store in its own database, with a project, and a plain Redis client of that database."""

    def __init__(self, server: RedisServer) -> None:
        self.url = empty_database(server)
        self.client = client_of(self.url, timeout_seconds=5)
        self.jobs = JobStore(self.client, TransactionalOutbox(QUEUES))
        self.projects = ProjectStore(self.client)
        self.redis = server.client(int(self.url.rpartition("/")[2]))
        self.project = Project(id=str(uuid4()), name="Interviews", owner="alice", created_at=NOW)
        assert self.projects.create(self.project)

    def new_job(self, now: datetime = NOW, project: Project | None = None) -> str:
        """Create a job in CREATED; return its id."""
        job_id, project = str(uuid4()), project or self.project
        assert self.jobs.create(lifecycle.create_job(job_id, project.id, project.owner, now, None))
        return job_id

    def uploaded(self, now: datetime = NOW) -> str:
        """Create a job in UPLOADED; return its id."""
        job_id = self.new_job(now)
        self._decide(
            job_id, lambda r: lifecycle.confirm_upload(Change(r, NOW, POLICY), "s3://video")
        )
        return job_id

    def delete(self, job_id: str) -> None:
        """Delete a job, whatever its state."""
        self._decide(job_id, lambda record: lifecycle.delete(record, forced=True))

    def run(
        self, job_id: str, now: datetime = NOW, policy: DispatchPolicy = POLICY
    ) -> FencingToken:
        """Make a run's claim, and return its token."""
        self._decide(job_id, lambda record: decide_run(Change(record, now, policy)))
        return self.record(job_id).token

    def begin(
        self, token: FencingToken, now: datetime = NOW, policy: DispatchPolicy = POLICY
    ) -> bool:
        """Begin sending as a worker; return whether it may post."""
        rule = lambda record: claim_rules.begin(Change(record, now, policy), token)  # noqa: E731
        return self.jobs.update(token.job_id, rule).result

    def settle(
        self,
        token: FencingToken,
        event: ClaimEvent,
        now: datetime = NOW,
        policy: DispatchPolicy = POLICY,
    ) -> bool:
        """Settle the dispatch as a worker; return whether that changed anything."""

        def rule(record: Record) -> Decision[None]:
            change = Change(record, now, policy)
            return claim_rules.settle(change, token, event, event.value)

        return self.jobs.update(token.job_id, rule).changed

    def accepted(self, now: datetime = NOW) -> FencingToken:
        """Make a job at `now` whose dispatch the orchestrator has accepted; return its token."""
        token = self.run(self.uploaded(now), now)
        assert self.begin(token, now)
        assert self.settle(token, ClaimEvent.ACCEPTED, now)
        return token

    def unknown(self, now: datetime = NOW, policy: DispatchPolicy = POLICY) -> FencingToken:
        """Make a job at `now` whose dispatch has an unknown outcome since then; return the claim's token."""
        token = self.run(self.uploaded(now), now, policy)
        assert self.begin(token, now, policy)
        assert self.settle(token, ClaimEvent.LOST, now, policy)
        return token

    def record(self, job_id: str) -> Record:
        record = self.jobs.load(job_id)
        assert record is not None
        return record

    def claim(self, job_id: str) -> Claim:
        """Return the job's claim, which must exist."""
        claim = self.record(job_id).claim
        assert claim is not None
        return claim

    def messages(self) -> int:
        """Return the number of messages in the queues."""
        return sum(self.redis.llen(KEY_PREFIX + queue) for queue in [*QUEUES, FOLLOW_UPS])

    def _decide(self, job_id: str, rule: Callable[[Record], Decision[object]]) -> None:
        self.jobs.update(job_id, rule)
