"""A record together with the very bytes that it stands as in Redis."""

from dataclasses import dataclass

from domain.change import Record
from store import codec


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was read of a job at one moment, and what a commit is compared with.

    `claim` is empty where there is none; `seen_digest` is of the callback that was asked for.
    """

    record: Record
    job: bytes
    claim: bytes
    seen_digest: str | None = None

    @classmethod
    def of(cls, job: bytes, claim: bytes, seen_digest: str | None = None) -> "Snapshot":
        """Understand what was read."""
        record = Record(codec.load_job(job), codec.load_claim(claim) if claim else None)
        return cls(record, job, claim, seen_digest)
