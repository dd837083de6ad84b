"""The state of the service as a whole, in numbers: claims, jobs and queues."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from redis import Redis

from domain.claim import IN_FLIGHT, Claim, DispatchPolicy, Phase
from domain.job_fsm import TERMINAL_STATUSES, JobStatus
from store import codec, keys
from store.client import execute, redis_errors
from store.errors import RecordUnreadable
from store.lists import entry

# Each claim is read: there is usually a handful of them, but in a crisis there may be many more.
_MOST_CLAIMS = 1_000
OPEN_STATES = tuple(status for status in JobStatus if status not in TERMINAL_STATUSES)
LATELY = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Overview:
    """Counts at one moment; ages are in seconds, 0 where there is nothing.

    `phases`, `at_another_engine` and `oldest_claim_age` are those of the 1,000 oldest claims in flight;
    `silent` counts jobs. `jobs` has each state that is not terminal, with a count of up to 100,000;
    `failed_lately` counts the jobs that failed in the last 24 hours.
    """

    in_flight: int
    unknown: int
    phases: dict[Phase, int]
    at_another_engine: int
    oldest_claim_age: float
    oldest_unknown_age: float
    silent: int
    paused: bool
    queue_lengths: list[int]
    jobs: dict[JobStatus, int]
    failed_lately: int


def overview(
    client: Redis, queues: Sequence[str], now: datetime, policy: DispatchPolicy
) -> Overview:
    """Read it, in two round trips. Raises `StoreUnavailable`."""
    pipeline = client.pipeline(transaction=False)
    pipeline.zcard(keys.IN_FLIGHT).zrange(keys.IN_FLIGHT, 0, _MOST_CLAIMS - 1)
    pipeline.zcard(keys.UNKNOWN).zrange(keys.UNKNOWN, 0, 0, withscores=True)
    pipeline.zcard(keys.SILENT).exists(keys.PAUSE)
    pipeline.zlexcount(keys.jobs_in(JobStatus.FAILED), f"[{entry(now - LATELY, '')}", "+")
    for status in OPEN_STATES:
        pipeline.zcard(keys.jobs_in(status))
    for queue in queues:
        pipeline.llen(queue)
    found = execute(pipeline, "ZCARD ZRANGE EXISTS ZLEXCOUNT LLEN")
    in_flight, job_ids, unknown, oldest, silent, paused, failed, *counts = found
    claims = [*_claims_in_flight(client, [job_id.decode() for job_id in job_ids])]
    phases = Counter(claim.phase for claim in claims)
    phases[Phase.UNKNOWN] = unknown  # all of them, not only those read
    since = min((claim.claimed_at for claim in claims), default=now)
    return Overview(
        in_flight=in_flight,
        unknown=unknown,
        phases={phase: phases[phase] for phase in Phase if phase in IN_FLIGHT},
        at_another_engine=sum(claim.is_elsewhere(policy) for claim in claims),
        oldest_claim_age=max(0.0, (now - since).total_seconds()),
        oldest_unknown_age=max(0.0, now.timestamp() - oldest[0][1]) if oldest else 0.0,
        silent=silent,
        paused=bool(paused),
        queue_lengths=counts[len(OPEN_STATES) :],
        jobs=dict(zip(OPEN_STATES, counts, strict=False)),
        failed_lately=failed,
    )


def _claims_in_flight(client: Redis, job_ids: list[str]) -> Iterator[Claim]:
    if not job_ids:
        return
    with redis_errors("MGET"):
        found = client.mget(map(keys.claim, job_ids))
    for job_id, raw in zip(job_ids, found, strict=True):
        # One that cannot be read is counted by the sweep, once it is due.
        with suppress(RecordUnreadable):
            if raw:
                yield codec.load(Claim, job_id, raw)
