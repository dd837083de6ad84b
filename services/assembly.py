"""The use cases, and what they work on."""

from datetime import UTC, datetime

from orchestrators.registry import dispatch_policy
from orchestrators.signatures import Signer
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
from store.write_limit import WriteLimit


def utc_now() -> datetime:
    """The clock of a process."""
    return datetime.now(UTC)


class Services:
    """Built once per process from the settings; connects to nothing.

    `outbox` is how a committed task reaches a worker.
    """

    def __init__(self, settings: Settings, outbox: Outbox) -> None:
        self.settings = settings
        self.now = utc_now
        self.policy = dispatch_policy(settings)
        self.signer = Signer(settings.signing_secrets)
        self.redis = make_client(settings)
        self.jobs = JobStore(self.redis, outbox, settings.retention)
        self.projects = ProjectStore(self.redis)
        self.idempotency_keys = IdempotencyKeys(self.redis, settings.idempotency_key_seconds)
        self.writes = WriteLimit(settings.write_limit, self.redis)
        self.run_and_wait = RunAndWait(
            self.jobs, Notifier(self.redis), self.policy,
            WaitSlots(settings.web_wait_slots), self.writes, self.now,
        )  # fmt: skip
        self.operations = Operations(
            self.jobs, self.projects, self.run_and_wait,
            settings.run_wait_seconds, self.policy, self.now,
        )  # fmt: skip
        self.erasure = Erasure(
            self.jobs, self.projects, self.idempotency_keys, self.policy, self.now
        )
