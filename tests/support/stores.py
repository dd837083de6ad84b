"""A real store for tests, with the clock in the test's hand: databases, jobs and steps of a dispatch."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import uuid4

from demo.redis_server import RedisServer
from domain import dispatch_steps as steps
from domain import lifecycle
from domain.change import Decision, Record
from domain.claim import Claim, ClaimEvent, DispatchPolicy
from domain.dispatch_steps import Token
from domain.dispatching import decide_run
from domain.models import Project
from store.connecting import connection_factory
from store.jobs import JobStore, Snapshot
from store.link import Link
from store.projects import ProjectStore
from tasks.broker import KEY_PREFIX
from tasks.outbox import RidingOutbox

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LANES = ["lane.0", "lane.1"]
POLICY = DispatchPolicy(
    claim_lease=timedelta(seconds=15),
    send_lease=timedelta(seconds=70),
    unknown_hold=timedelta(seconds=60),
    deduplicates=False,
)

_databases = count(1)


def seconds(number: float) -> timedelta:
    """A time span."""
    return timedelta(seconds=number)


def empty_database(server: RedisServer) -> str:
    """The address of a database of the server, emptied for the one who asks."""
    number = next(_databases) % 16
    with server.client(number) as client:
        client.flushdb()
    return server.database_url(number)


def make_link(url: str, *, size: int = 8, timeout_seconds: float = 1.0) -> Link:
    """A link to a Redis."""
    return Link(connection_factory(url, timeout_seconds), size, timeout_seconds)


class Shelf:
    """A store in a database of its own, with a project in it, and a client to look behind it."""

    def __init__(self, server: RedisServer) -> None:
        self.url = empty_database(server)
        self.link = make_link(self.url, timeout_seconds=5)
        self.jobs = JobStore(self.link, RidingOutbox(LANES))
        self.projects = ProjectStore(self.link, self.jobs)
        self.redis = server.client(int(self.url.rpartition("/")[2]))
        self.project = Project(id=str(uuid4()), name="Interviews", owner="alice", created_at=NOW)
        self.projects.create(self.project)

    def new_job(self) -> str:
        """Make a job in CREATED; return its id."""
        job_id = str(uuid4())
        self.projects.add_job(lifecycle.create_job(job_id, self.project.id, "alice", NOW, None))
        return job_id

    def uploaded(self) -> str:
        """Make a job in UPLOADED; return its id."""
        job_id = self.new_job()
        self._decide(job_id, lambda r: lifecycle.confirm_upload(r, "s3://video", NOW, None))
        return job_id

    def run(self, job_id: str, now: datetime = NOW, policy: DispatchPolicy = POLICY) -> Token:
        """Let a run claim, and return the claim's token."""
        self._decide(job_id, lambda record: decide_run(record, now, policy))
        return steps.token_of(self.record(job_id))

    def begin(self, token: Token, now: datetime = NOW, policy: DispatchPolicy = POLICY) -> bool:
        """Let a worker begin; tell whether it may post."""
        rule = lambda record: steps.begin(record, token, now, policy)  # noqa: E731
        return self.jobs.apply(token.job_id, rule) is not None

    def settle(
        self,
        token: Token,
        event: ClaimEvent,
        now: datetime = NOW,
        policy: DispatchPolicy = POLICY,
    ) -> bool:
        """Let a worker settle; tell whether that changed anything."""
        rule = lambda record: steps.settle(record, token, event, event.value, now, policy)  # noqa: E731
        return self.jobs.apply(token.job_id, rule) is not None

    def unknown(self, now: datetime = NOW, policy: DispatchPolicy = POLICY) -> Token:
        """Make a job whose dispatch has an unknown outcome since `now`."""
        token = self.run(self.uploaded(), now, policy)
        assert self.begin(token, now, policy)
        assert self.settle(token, ClaimEvent.LOST, now, policy)
        return token

    def record(self, job_id: str) -> Record:
        """The job's record."""
        snapshot = self.jobs.load(job_id)
        assert snapshot is not None
        return snapshot.record

    def claim(self, job_id: str) -> Claim:
        """The job's claim, which must stand."""
        claim = self.record(job_id).claim
        assert claim is not None
        return claim

    def messages(self) -> int:
        """How many messages lie in the queues."""
        return sum(self.redis.llen(KEY_PREFIX + lane) for lane in LANES)

    def _decide(self, job_id: str, rule: Callable[[Record], Decision[object]]) -> None:
        def decide(snapshot: Snapshot | None) -> Decision[object]:
            assert snapshot is not None
            return rule(snapshot.record)

        self.jobs.change(job_id, decide)
